"""The consumer's start: what it says of a URI that cannot be used, and of a server that is away."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymongo
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


def test_a_uri_that_cannot_be_used_is_one_line(consumer: Process) -> None:
    consumer.env["MONGO_URI"] += "/?tls=true&tlsCAFile=/no/such/file"
    consumer.start()
    assert consumer.child is not None
    assert consumer.child.wait(30) == 1
    (line,) = consumer.output().splitlines()
    assert line.startswith("consumer: MONGO_URI=(not shown) is not allowed: give ")


@pytest.mark.parametrize("server", ["mongodb://user:s3cret@127.0.0.1:{}", "mongodb+srv://user:s3cret@mongo.invalid"])
def test_a_server_or_dns_that_is_away_is_waited_for_without_the_password(consumer: Process, server: str) -> None:
    consumer.env["MONGO_URI"] = server.format(free_port())
    consumer.start()
    eventually(lambda: "preparing MongoDB failed; trying" in consumer.output(), what="the consumer missing MongoDB")
    consumer.stop()
    assert "s3cret" not in consumer.output()


def test_mongodb_is_up_while_only_kafka_is_away(consumer: Process) -> None:
    consumer.start()
    eventually(lambda: "connecting to Kafka failed" in consumer.output(), what="the consumer missing Kafka")
    checks = requests.get(f"http://{consumer.env['METRICS_ADDR']}/health", timeout=5).json()["checks"]
    statuses = {name: check["status"] for name, check in checks.items()}
    assert statuses == {"kafka": "down", "mongodb": "up", "dead_letters": "not known yet"}


def test_an_index_in_the_way_is_named_and_no_fault_of_kafkas(consumer: Process, mongo: MongoServer) -> None:
    database = consumer.env["MONGO_DATABASE"] = mongo.settings().database
    with pymongo.MongoClient[dict[str, Any]](mongo.uri) as client:
        client[database]["events"].create_index("event_id")
    consumer.start()
    eventually(lambda: "preparing MongoDB failed" in consumer.output(), what="the consumer seeing the index")
    checks = requests.get(f"http://{consumer.env['METRICS_ADDR']}/health", timeout=5).json()["checks"]
    assert (checks["kafka"]["status"], checks["mongodb"]["status"]) == ("not tried yet", "down")
    assert checks["mongodb"]["problem"].startswith(f"Index event_id_1 of {database}.events is not unique")
    metrics = requests.get(f"http://{consumer.env['METRICS_ADDR']}/metrics", timeout=5).text
    assert 'pulse_consumer_dependency_up{dependency="kafka"} NaN' in metrics


def test_an_index_that_stood_in_the_way_is_waited_for(consumer: Process, mongo: MongoServer) -> None:
    database = consumer.env["MONGO_DATABASE"] = mongo.settings().database
    with pymongo.MongoClient[dict[str, Any]](mongo.uri) as client:
        client[database]["events"].create_index("event_id")
        consumer.start()
        eventually(lambda: "preparing MongoDB failed" in consumer.output(), what="the consumer seeing the index")
        client[database]["events"].drop_index("event_id_1")
    eventually(lambda: "preparing MongoDB works again" in consumer.output(), what="the consumer going on")
