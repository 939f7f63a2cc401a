"""The consumer's start: what it says of a URI that only the driver can judge, and of a server that is away."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from ops.local.ports import free_port
from tests.servers import MongoServer, Process
from tests.waiting import eventually


@pytest.fixture
def consumer(mongo: MongoServer, tmp_path: Path) -> Iterator[Process]:
    """Not started; without Kafka."""
    env = {
        "METRICS_ADDR": f"127.0.0.1:{free_port()}",
        "KAFKA_BROKERS": f"127.0.0.1:{free_port()}",
        "MONGO_URI": mongo.uri,
    }
    process = Process([sys.executable, "-m", "consumer"], tmp_path / "consumer.log", env)
    yield process
    process.kill()


def test_a_uri_that_the_driver_refuses_is_named(consumer: Process) -> None:
    consumer.env["MONGO_URI"] += "/?tls=true&tlsCAFile=/no/such/file"
    consumer.start()
    assert consumer.child is not None
    assert consumer.child.wait(30) == 1
    assert consumer.output().splitlines()[-1].startswith("consumer: MONGO_URI cannot be used: ")


def test_mongodb_is_up_while_only_kafka_is_away(consumer: Process) -> None:
    consumer.start()
    eventually(lambda: "connecting to Kafka failed" in consumer.output(), what="the consumer missing Kafka")
    checks = requests.get(f"http://{consumer.env['METRICS_ADDR']}/health", timeout=5).json()["checks"]
    assert {name: check["status"] for name, check in checks.items()} == {"kafka": "down", "mongodb": "up"}
