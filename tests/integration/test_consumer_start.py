"""The consumer's start: its errors about an invalid URI, unreachable servers, and conflicting indexes."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest
import requests

from ops.local.ports import free_port
from tests.servers import MongoServer, Process
from tests.slow_builds import slow_builds
from tests.waiting import eventually


@pytest.fixture
def consumer(mongo: MongoServer, tmp_path: Path) -> Iterator[Process]:
    """A consumer without Kafka, not started."""
    process = waiting_for_kafka(tmp_path, mongo.uri, "pulse")
    yield process
    process.kill()


def test_the_error_about_an_invalid_uri_is_one_line(consumer: Process) -> None:
    consumer.env["MONGO_URI"] += "/?tls=true&tlsCAFile=/no/such/file"
    consumer.start()
    assert consumer.child is not None
    assert consumer.child.wait(30) == 1
    (line,) = consumer.output().splitlines()
    assert line.startswith("consumer: MONGO_URI=(not shown) is not allowed: give ")


@pytest.mark.parametrize("server", ["mongodb://user:s3cret@127.0.0.1:{}", "mongodb+srv://user:s3cret@mongo.invalid"])
def test_the_log_about_an_unreachable_server_or_dns_has_no_password(consumer: Process, server: str) -> None:
    consumer.env["MONGO_URI"] = server.format(free_port())
    consumer.start()
    eventually(lambda: "preparing MongoDB failed; retrying" in consumer.output(), what="the consumer to miss MongoDB")
    consumer.stop()
    assert "s3cret" not in consumer.output()
    assert "://***@" in consumer.output(), "the settings"


def test_mongodb_is_up_while_only_kafka_is_unavailable(consumer: Process) -> None:
    consumer.start()
    eventually(lambda: "connecting to Kafka failed" in consumer.output(), what="the consumer to miss Kafka")
    checks = requests.get(f"http://{consumer.env['METRICS_ADDR']}/health", timeout=5).json()["checks"]
    statuses = {name: check["status"] for name, check in checks.items()}
    assert statuses == {"kafka": "down", "mongodb": "up", "dead_letters": "not known yet"}


def test_a_conflicting_index_is_reported_as_a_problem_of_mongodb(consumer: Process, mongo: MongoServer) -> None:
    database = consumer.env["MONGO_DATABASE"] = mongo.settings().database
    with pymongo.MongoClient[dict[str, Any]](mongo.uri) as client:
        client[database]["events"].create_index("event_id")
    consumer.start()
    eventually(lambda: "preparing MongoDB failed" in consumer.output(), what="the consumer to report the index")
    checks = requests.get(f"http://{consumer.env['METRICS_ADDR']}/health", timeout=5).json()["checks"]
    assert (checks["kafka"]["status"], checks["mongodb"]["status"]) == ("not tried yet", "down")
    assert checks["mongodb"]["problem"].startswith(f"Index event_id_1 of {database}.events is not unique")
    metrics = requests.get(f"http://{consumer.env['METRICS_ADDR']}/metrics", timeout=5).text
    assert 'pulse_consumer_dependency_up{dependency="kafka"} NaN' in metrics


def test_the_consumer_continues_when_a_conflicting_index_is_gone(consumer: Process, mongo: MongoServer) -> None:
    database = consumer.env["MONGO_DATABASE"] = mongo.settings().database
    with pymongo.MongoClient[dict[str, Any]](mongo.uri) as client:
        client[database]["events"].create_index("event_id")
        consumer.start()
        eventually(lambda: "preparing MongoDB failed" in consumer.output(), what="the consumer to report the index")
        client[database]["events"].drop_index("event_id_1")
    eventually(lambda: "preparing MongoDB works again" in consumer.output(), what="the consumer to continue")


def test_indexes_are_built_while_events_are_stored(mongo: MongoServer, tmp_path: Path) -> None:
    """Builds that take hours delay neither this start, nor that of another consumer, nor a stop."""
    with slow_builds(mongo) as database:
        database.held = {"event_name_1_timestamp_-1"}
        name = mongo.settings().database
        consumers = [waiting_for_kafka(tmp_path / str(number), database.uri, name) for number in range(2)]
        try:
            for consumer in consumers:
                consumer.start()
                eventually(lambda: "connecting to Kafka failed" in consumer.output(), what="the consumer to continue")  # noqa: B023
            eventually(lambda: database.asked_for("event_name_1_timestamp_-1") == 2, what="both builds")
            assert consumers[0].stop() == 0
            database.released.set()
            eventually(lambda: len(index_names(mongo, name)) == 6, what="the indexes")
        finally:
            for consumer in consumers:
                consumer.kill()


def test_a_consumer_that_waits_for_the_index_on_the_id_is_alive_and_can_be_stopped(
    mongo: MongoServer, tmp_path: Path
) -> None:
    with slow_builds(mongo) as database:
        database.held = {"event_id_1"}
        consumer = waiting_for_kafka(tmp_path / "consumer", database.uri, mongo.settings().database)
        consumer.start()
        try:
            eventually(lambda: database.asked_for("event_id_1"), what="the build")
            url = f"http://{consumer.env['METRICS_ADDR']}/health"
            assert requests.get(f"{url}/live", timeout=5).ok
            assert requests.get(url, timeout=5).json()["checks"]["kafka"]["status"] == "not tried yet"
            assert requests.get(url, timeout=5).json()["seconds_since_progress"] < 5
            assert consumer.stop() == 0
        finally:
            consumer.kill()


def waiting_for_kafka(folder: Path, uri: str, database: str) -> Process:
    """A consumer, not started."""
    folder.mkdir(exist_ok=True)
    env = {
        "METRICS_ADDR": f"127.0.0.1:{free_port()}",
        "KAFKA_BROKERS": f"127.0.0.1:{free_port()}",
        "MONGO_URI": uri,
        "MONGO_DATABASE": database,
    }
    return Process([sys.executable, "-m", "consumer"], folder / "consumer.log", env)


def index_names(mongo: MongoServer, database: str) -> set[str]:
    with pymongo.MongoClient[dict[str, Any]](mongo.uri) as client:
        return set(client[database]["events"].index_information())
