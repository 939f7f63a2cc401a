"""The consumer and the tool that forgets die at any moment: only the events of forgotten customers are deleted."""

import random
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pymongo
import pytest

from common.event_json import decode, encode
from common.kafka import KafkaSender, Record
from tests.contracts import document, fresh_name
from tests.servers import KafkaServer, MongoServer, Pipeline, Process
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(240)

CUSTOMERS = [f"customer-{number}" for number in range(4)]
FORGOTTEN = CUSTOMERS[:2]
STARTED = "Events in"


class Scene:
    """A consumer, the tool that forgets, and the events sent to Kafka."""

    def __init__(self, kafka: KafkaServer, mongo: MongoServer, folder: Path) -> None:
        self.pipeline = Pipeline(kafka, mongo, folder)
        self.environ = self.pipeline.environ
        self.consumer = self.hurried("consumer", folder)
        self.tool = self.hurried("consumer.forget", folder)
        self.sender = KafkaSender(self.pipeline.kafka, self.pipeline.kafka.topic)
        self.produced: list[dict[str, Any]] = []

    def hurried(self, module: str, folder: Path, *arguments: str, **env: str) -> Process:
        command = [sys.executable, "-m", "tests.faults.hurried", module, *arguments]
        return Process(command, folder / f"{module}.log", {**self.environ, **env})

    def produce(self, count: int) -> None:
        """Send N new events of each customer."""
        now = datetime.now(UTC)
        events = [
            document(f"{customer}-{len(self.produced) + number}", customer_id=customer, timestamp=now, received_at=now)
            for number in range(count)
            for customer in CUSTOMERS
        ]
        records = [Record(event["customer_id"].encode(), encode(event)) for event in events]
        assert not any(self.sender.send(records))
        self.produced += [decode(record.value) for record in records]

    def forget(self, *customers: str) -> None:
        """Start the tool, and wait until it has begun."""
        self.tool.command = [*self.tool.command[:4], *customers]
        starts = self.tool.output().count(STARTED) if self.tool.log.exists() else 0
        self.tool.start()
        eventually(lambda: self.tool.output().count(STARTED) > starts, what="the tool's start")

    def wait_until_all_is_read(self) -> None:
        names = ("events_stored", "duplicates_skipped", "forgotten")

        def all_processed() -> bool:
            counts = [self.pipeline.consumer_metric(f"pulse_consumer_{name}_total") for name in names]
            return sum(counts) == len(self.produced)

        eventually(all_processed, 120, "the consumer to read all events", every=0.25)

    def records(self) -> list[dict[str, Any]]:
        """The records of forgotten customers."""
        with pymongo.MongoClient[dict[str, Any]](self.pipeline.mongo.uri, tz_aware=True) as client:
            database = client[self.pipeline.mongo.database]
            return list(database[f"{self.pipeline.mongo.collection}.forgotten"].find({"_id": {"$ne": "list"}}))

    def kill(self) -> None:
        self.sender.close()
        self.tool.kill()
        self.consumer.kill()
        self.pipeline.kill()


@pytest.fixture
def scene(kafka: KafkaServer, mongo: MongoServer, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(kafka, mongo, tmp_path)
    with closing(scene.sender):
        yield scene
    scene.kill()


@pytest.mark.long
def test_no_event_comes_back_when_both_are_killed_at_any_moment(scene: Scene, tmp_path: Path) -> None:
    chance = random.Random(16)
    scene.produce(150)
    scene.consumer.start()
    for _ in range(4):
        scene.forget(*FORGOTTEN)
        scene.produce(20)
        time.sleep(chance.uniform(0.5, 4))
        killed = chance.choice([[scene.tool], [scene.consumer], [scene.tool, scene.consumer]])
        for process in killed:
            process.kill()
        if scene.consumer in killed:
            scene.consumer.start()
        scene.tool.kill()
    scene.forget()
    assert scene.tool.child is not None
    assert scene.tool.child.wait(60) == 0, scene.tool.output()
    before = {record["before"] for record in scene.records()}
    scene.produce(20)

    # Another group reads the whole topic again.
    scene.consumer.stop()
    again = scene.hurried("consumer", tmp_path, KAFKA_GROUP_ID=fresh_name("group"))
    again.start()
    try:
        scene.pipeline.wait_for_consumer()
        scene.wait_until_all_is_read()
        assert {record["state"] for record in scene.records()} == {"done"}
        assert len(before) == 1
        expected = {
            event["event_id"]
            for event in scene.produced
            if event["customer_id"] not in FORGOTTEN or event["received_at"] >= min(before)
        }
        assert {event["event_id"] for event in scene.pipeline.documents()} == expected
    finally:
        again.kill()
