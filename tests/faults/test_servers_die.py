"""Kafka, MongoDB or the consumer dies while events arrive: each accepted event is stored once after the restart."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.clients import Client
from tests.servers import KafkaServer, MongoServer, Pipeline
from tests.waiting import eventually

EVENTS = 3000


class Scene:
    """A pipeline on servers of its own, and a client that sends events."""

    def __init__(self, libs: Path, folder: Path) -> None:
        self.kafka = KafkaServer(libs, folder)
        self.mongo = MongoServer(folder)
        self.kafka.start()
        self.mongo.start()
        self.pipeline = Pipeline(self.kafka, self.mongo, folder)
        self.pipeline.start()
        self.client = Client(self.pipeline.url, "alice", EVENTS)

    def send_half(self) -> None:
        self.client.start()
        eventually(lambda: self.client.accepted > EVENTS / 3, what="a third of the events accepted")

    def finish(self) -> list[str]:
        """Wait until all events of the client are stored; returns the stored ids."""
        self.client.join(60)
        self.pipeline.wait_until_stored(EVENTS)
        return sorted(document["event_id"] for document in self.pipeline.documents())

    def sent(self) -> list[str]:
        return sorted(event["event_id"] for event in self.client.events)

    def kill(self) -> None:
        self.pipeline.kill()
        self.kafka.kill()
        self.mongo.kill()


@pytest.fixture
def scene(kafka_libs: Path, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(kafka_libs, tmp_path)
    yield scene
    scene.kill()


@pytest.mark.timeout(240)
def test_no_event_is_lost_or_stored_twice_when_kafka_is_killed_and_comes_back(scene: Scene) -> None:
    scene.send_half()
    scene.kafka.kill()
    eventually(
        lambda: requests.get(f"{scene.pipeline.url}/health", timeout=5).json()["status"] == "degraded",
        what="the API to notice",
    )
    scene.kafka.start()
    assert scene.finish() == scene.sent()


@pytest.mark.timeout(240)
def test_no_event_is_lost_or_stored_twice_when_mongodb_is_killed_and_comes_back(scene: Scene) -> None:
    scene.send_half()
    scene.mongo.kill()
    eventually(
        lambda: requests.get(f"{scene.pipeline.consumer_url}/health", timeout=5).status_code == 503,
        what="the consumer to notice",
    )
    scene.mongo.start()
    assert scene.finish() == scene.sent()


@pytest.mark.timeout(240)
def test_no_event_is_lost_or_stored_twice_when_the_consumer_is_killed(scene: Scene) -> None:
    scene.send_half()
    scene.pipeline.consumer.kill()
    scene.pipeline.consumer.start()
    assert scene.finish() == scene.sent()
