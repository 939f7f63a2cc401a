"""The consumer stores each event in Kafka exactly once, if processes die or freeze."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pymongo
import pytest
import requests
from kafka.admin import ConfigResource, ConfigResourceType

from common.event_json import encode
from common.events import parse_timestamp
from common.kafka import (
    KafkaReader,
    KafkaSender,
    ReceivedRecord,
    Record,
    TopicPartition,
    connect_admin,
    connect_member,
)
from ops.local.ports import free_port
from tests import ROOT
from tests.clients import event
from tests.contracts import fresh_name
from tests.servers import KafkaServer, MongoServer, Pipeline, Process
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(240)

REASONS = {"dlq.error.class", "dlq.error.message", "dlq.attempts", "dlq.failed.first", "dlq.failed.last"} | {
    f"dlq.source.{name}" for name in ("topic", "partition", "offset", "timestamp")
}
CUSTOMERS = [f"customer-{number}" for number in range(5)]


class Scene:
    """A consumer on a Kafka and a MongoDB of its own, with events that the test sends to Kafka."""

    def __init__(self, libs: Path, folder: Path, *properties: str, **env: str) -> None:
        self.kafka = KafkaServer(libs, folder, *properties)
        self.mongo = MongoServer(folder)
        self.kafka.start()
        self.mongo.start()
        self.pipeline = Pipeline(self.kafka, self.mongo, folder, **env)
        self.consumer = self.pipeline.consumer
        self.sender = KafkaSender(self.pipeline.kafka, self.pipeline.kafka.topic)
        self.produced: list[str] = []

    def start_consumer(self) -> None:
        self.consumer.start()
        self.pipeline.wait_for_consumer()

    def produce(self, count: int, **fields: Any) -> list[Record]:
        """Send N new events of five customers; returns their records."""
        numbers = range(len(self.produced), len(self.produced) + count)
        records = [record(CUSTOMERS[number % 5], number, **fields) for number in numbers]
        assert not any(self.sender.send(records))
        self.produced += [f"{CUSTOMERS[number % 5]}-{number}" for number in numbers]
        return records

    def stored(self) -> list[str]:
        return sorted(document["event_id"] for document in self.pipeline.documents())

    def wait_until_all_are_stored(self) -> None:
        self.pipeline.wait_until_stored(len(self.produced), timeout=120)

    def status(self, path: str) -> int:
        return requests.get(self.pipeline.consumer_url + path, timeout=5).status_code

    def letters(self) -> list[ReceivedRecord]:
        """The records of the dead letter topic."""
        with closing(KafkaReader(self.pipeline.kafka, self.pipeline.kafka.dlq_topic)) as reader:
            return list(reader.read())

    def forbid_poison(self) -> None:
        """Let MongoDB refuse documents with the property `poison`."""
        self._command({"create": "events", "validator": {"properties.poison": {"$exists": False}}})

    def allow_poison(self) -> None:
        """Let MongoDB accept them again."""
        self._command({"collMod": "events", "validator": {}})

    def _command(self, command: dict[str, Any]) -> None:
        settings = self.pipeline.mongo
        with pymongo.MongoClient[dict[str, Any]](settings.uri) as client:
            client[settings.database].command(command)

    def kill(self) -> None:
        self.sender.close()
        self.pipeline.kill()
        self.kafka.kill()
        self.mongo.kill()


def record(customer: str, number: int, **fields: Any) -> Record:
    """An event as the API writes it to Kafka."""
    sent = {**event(customer, number), **fields, "received_at": datetime.now(UTC)}
    return Record(customer.encode(), encode({**sent, "timestamp": parse_timestamp(sent["timestamp"])}))


@pytest.fixture
def scene(kafka_libs: Path, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(kafka_libs, tmp_path)
    yield scene
    scene.kill()


@pytest.mark.long
def test_sigterm_with_a_partly_filled_buffer_stores_it(kafka_libs: Path, tmp_path: Path) -> None:
    """Twelve runs; the Go edition loses the buffer in five of them."""
    scene = Scene(kafka_libs, tmp_path, CONSUMER_FLUSH_INTERVAL="60m")
    try:
        for _ in range(12):
            scene.start_consumer()
            scene.produce(30)
            eventually(
                lambda: scene.pipeline.consumer_metric("pulse_consumer_buffer_size") == 30,
                what="a partly filled buffer",
            )
            assert scene.consumer.stop() == 0
            assert scene.stored() == sorted(scene.produced)
    finally:
        scene.kill()


def test_repeated_kill_9_under_load_loses_and_duplicates_no_event(scene: Scene) -> None:
    for _ in range(5):
        scene.produce(400)
        scene.consumer.start()
        scene.pipeline.wait_until_stored(len(scene.stored()) + 1)
        scene.consumer.kill()
    scene.start_consumer()
    scene.wait_until_all_are_stored()
    assert scene.stored() == sorted(scene.produced)


def test_when_one_of_two_consumers_is_killed_the_other_stores_its_share(scene: Scene, tmp_path: Path) -> None:
    other_env = {**scene.consumer.env, "METRICS_ADDR": f"127.0.0.1:{free_port()}"}
    other = Process([sys.executable, "-m", "consumer"], tmp_path / "other.log", other_env)
    scene.start_consumer()
    other.start()
    try:
        eventually(lambda: "partitions assigned" in other.output(), what="the partitions of the other consumer")
        scene.produce(2000)
        eventually(lambda: len(scene.stored()) > 200, what="some stored events", every=0.1)
        other.kill()
        scene.wait_until_all_are_stored()
        assert scene.stored() == sorted(scene.produced)
    finally:
        other.kill()


@pytest.mark.long
def test_the_consumer_waits_for_a_frozen_mongodb(scene: Scene) -> None:
    scene.start_consumer()
    scene.produce(500)
    scene.mongo.freeze()
    scene.produce(500)
    eventually(lambda: scene.status("/health/ready") == 503, what="the consumer to notice", every=0.2)
    time.sleep(10)  # 20 s in all, since the consumer notices after 10 s
    assert scene.status("/health/live") == 200
    scene.mongo.thaw()
    scene.wait_until_all_are_stored()
    assert scene.stored() == sorted(scene.produced)
    assert scene.pipeline.consumer_metric("pulse_consumer_dlq_total") == 0


def test_an_outage_of_mongodb_loses_no_event_and_makes_no_dead_letter(scene: Scene) -> None:
    scene.start_consumer()
    scene.mongo.kill()
    for _ in range(20):
        scene.produce(100)
        time.sleep(1)
        assert scene.status("/health/live") == 200
    assert scene.status("/health/ready") == 503
    scene.mongo.start()
    scene.wait_until_all_are_stored()
    eventually(lambda: scene.status("/health/ready") == 200, what="readiness")
    assert scene.stored() == sorted(scene.produced)
    assert scene.pipeline.consumer_metric("pulse_consumer_dlq_total") == 0


def test_sigterm_ends_the_consumer_while_kafka_is_unavailable(scene: Scene) -> None:
    scene.start_consumer()
    scene.produce(100)
    scene.kafka.kill()
    scene.consumer.stop(timeout=60)
    scene.kafka.start()
    scene.start_consumer()
    scene.wait_until_all_are_stored()
    assert scene.stored() == sorted(scene.produced)


@pytest.mark.long
def test_it_continues_after_records_that_retention_deleted_unread(kafka_libs: Path, tmp_path: Path) -> None:
    quick = ("log.retention.check.interval.ms=200", "log.initial.task.delay.ms=100", "log.segment.delete.delay.ms=0")
    scene = Scene(kafka_libs, tmp_path, *quick)
    try:
        scene.start_consumer()
        scene.mongo.freeze()
        for _ in range(8):  # more than a client fetches ahead
            scene.produce(2000)
        eventually(lambda: scene.status("/health/ready") == 503, what="the consumer to notice", every=0.2)
        lose_all_records(scene)
        lost = len(scene.produced)
        scene.produce(200)
        scene.mongo.thaw()
        eventually(lambda: set(scene.produced[lost:]) <= set(scene.stored()), 60, "the later events", every=0.2)
        assert len(scene.stored()) == len(set(scene.stored())) < len(scene.produced)
        assert "records were deleted before they were read" in scene.consumer.output()
        assert scene.pipeline.consumer_metric("pulse_consumer_records_lost_total") == len(scene.produced) - len(
            scene.stored()
        )
    finally:
        scene.kill()


def lose_all_records(scene: Scene) -> None:
    """Let Kafka delete all records of the topic by retention; after that, it keeps new ones."""
    topic = scene.pipeline.kafka.topic
    partitions = [TopicPartition(topic, number) for number in range(3)]
    admin = connect_admin(scene.pipeline.kafka)
    reader = connect_member(scene.pipeline.kafka, fresh_name("reader"))

    def keep_for(milliseconds: int) -> None:
        config = {"retention.ms": str(milliseconds)}
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, config)])

    keep_for(1)
    eventually(lambda: reader.beginning_offsets(partitions) == reader.end_offsets(partitions), what="retention")
    keep_for(7 * 24 * 60 * 60 * 1000)
    reader.close(autocommit=False)
    admin.close()


@pytest.mark.long
def test_a_thousand_poisonous_records_become_letters_and_are_stored_once_the_cause_is_fixed(scene: Scene) -> None:
    """The topic also has ten thousand valid events. A validator of the collection refuses the poisonous ones."""
    scene.forbid_poison()
    poison: list[Record] = []
    for _ in range(100):
        scene.produce(100)
        poison += scene.produce(10, properties={"poison": True})
    scene.start_consumer()
    scene.pipeline.wait_until_stored(10_000, timeout=120)
    eventually(
        lambda: scene.pipeline.consumer_metric("pulse_consumer_dlq_total") == 1000, what="the letters", every=0.2
    )
    assert sorted(letter.value or b"" for letter in scene.letters()) == sorted(record.value or b"" for record in poison)
    assert all({name for name, _ in letter.headers} >= REASONS for letter in scene.letters())

    scene.allow_poison()
    replay = [sys.executable, "-m", "consumer.dlq", "replay"]
    replayed = subprocess.run(replay, cwd=ROOT, env=scene.consumer.env, capture_output=True, text=True, check=False)
    assert (replayed.returncode, replayed.stdout) == (0, "1,000 of 1,000 letters were sent back.\n"), replayed.stderr
    scene.wait_until_all_are_stored()
    assert scene.stored() == sorted(scene.produced)


@pytest.mark.long
def test_the_consumer_stops_when_most_records_become_dead_letters(scene: Scene) -> None:
    scene.forbid_poison()
    # Enough valid events for a full poll at the beginning of each partition.
    scene.produce(2500)
    scene.produce(5000, properties={"poison": True})
    scene.consumer.start()
    assert scene.consumer.child is not None
    assert scene.consumer.child.wait(60) == 1
    assert "more than CONSUMER_DLQ_MAX_RATIO=0.5 allows" in scene.consumer.output()
    letters = len(scene.letters())
    assert 0 < letters < 1000

    scene.allow_poison()
    scene.start_consumer()
    scene.pipeline.wait_until_stored(len(scene.produced) - letters)
    dead = {json.loads(letter.value or b"")["event_id"] for letter in scene.letters()}
    assert scene.stored() == sorted(set(scene.produced) - dead)
