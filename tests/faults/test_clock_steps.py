"""The clocks of the API and the consumer jump by an hour, as after a pause of the machine or a wrong time server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.clients import event
from tests.clocks import Clocks
from tests.servers import KafkaServer, MongoServer, Pipeline

HOUR = 3600
PARTS = ("api", "consumer")


class Scene:
    """A pipeline with its own Kafka."""

    def __init__(self, libs: Path, mongo: MongoServer, folder: Path) -> None:
        self.kafka = KafkaServer(libs, folder)
        self.kafka.start()
        self.pipeline = Pipeline(self.kafka, mongo, folder)
        self.clocks = Clocks(folder)
        self.pipeline.api.env |= self.clocks.environment("api")
        self.pipeline.consumer.env |= self.clocks.environment("consumer")
        self.pipeline.start()
        self.sent = 0

    def jump(self, seconds: int) -> None:
        """Set the clocks N seconds ahead of the machine's."""
        for part in PARTS:
            self.clocks.step(part, seconds)

    def send(self, count: int = 100) -> None:
        events = [event("alice", self.sent + number) for number in range(count)]
        answer = requests.post(f"{self.pipeline.url}/api/v1/track/batch", json={"events": events}, timeout=10)
        assert answer.status_code == 202
        self.sent += count

    def arrives(self) -> None:
        """Wait until all events are stored."""
        self.pipeline.wait_until_stored(self.sent, timeout=60)


@pytest.fixture
def scene(kafka_libs: Path, mongo: MongoServer, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(kafka_libs, mongo, tmp_path)
    yield scene
    scene.pipeline.kill()
    scene.kafka.kill()


@pytest.mark.parametrize("seconds", [HOUR, -HOUR], ids=["forward", "back"])
def test_events_arrive_when_the_clock_jumps_there_and_back(scene: Scene, seconds: int) -> None:
    scene.send()
    scene.arrives()
    scene.jump(seconds)
    scene.send()
    scene.arrives()
    scene.kafka.kill()
    scene.send()
    scene.jump(0)
    scene.kafka.start()
    scene.arrives()


def test_a_process_without_events_stops_when_the_clock_has_jumped_back(scene: Scene) -> None:
    scene.jump(-HOUR)
    assert [scene.pipeline.api.stop(), scene.pipeline.consumer.stop()] == [0, 0]
