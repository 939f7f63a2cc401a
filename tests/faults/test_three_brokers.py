"""Three brokers with three replicas, and faults under load: each accepted event is stored once, in order."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.arrived import in_kafka
from tests.clients import Client
from tests.cluster import KafkaCluster
from tests.servers import MongoServer, Pipeline
from tests.waiting import eventually

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]

CUSTOMERS = [f"customer-{number}" for number in range(4)]
EVENTS = 3_000  # of each customer
# Seconds between two requests of a client. Three requests have 27 events, so all clients send some 400 events/s.
PAUSE = 0.09
ALL = {customer: list(range(EVENTS)) for customer in CUSTOMERS}


@pytest.fixture(scope="module")
def cluster(kafka_libs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    cluster = KafkaCluster(kafka_libs, tmp_path_factory.mktemp("cluster"))
    try:
        cluster.prepare()
        cluster.start()
        yield cluster
    finally:
        cluster.remove()


class Scene:
    """A pipeline on the three brokers, and four clients that send events."""

    def __init__(self, cluster: KafkaCluster, mongo: MongoServer, folder: Path) -> None:
        self.cluster = cluster
        self.pipeline = Pipeline(cluster, mongo, folder)
        self.pipeline.start()
        self.clients = [Client(self.pipeline.url, customer, EVENTS, pause=PAUSE) for customer in CUSTOMERS]

    def begin(self) -> None:
        """Start the clients, and wait until a tenth of their events is accepted."""
        for client in self.clients:
            client.start()
        self.go_on(EVENTS // 10)

    def go_on(self, more: int) -> None:
        """Wait until N more events of each customer are accepted."""
        wanted = [min(EVENTS, client.accepted + more) for client in self.clients]
        eventually(
            lambda: all(client.accepted >= count for client, count in zip(self.clients, wanted, strict=True)),
            timeout=90,
            what="more events accepted",
        )

    def waiting(self) -> int:
        """The number of events in the journal."""
        health: dict[str, Any] = requests.get(f"{self.pipeline.url}/health", timeout=10).json()
        return int(health["checks"]["journal"]["events"])

    def finish(self) -> tuple[dict[str, list[int]], list[str]]:
        """Wait until all events are stored; returns the numbers in Kafka by customer, and the stored ids."""
        for client in self.clients:
            client.join(120)
            assert client.accepted == EVENTS
        count = EVENTS * len(CUSTOMERS)
        self.pipeline.wait_until_stored(count, timeout=200)
        return in_kafka(self.pipeline.kafka, count), sorted(stored["event_id"] for stored in self.pipeline.documents())


@pytest.fixture
def scene(cluster: KafkaCluster, mongo: MongoServer, tmp_path: Path) -> Iterator[Scene]:
    cluster.repair()
    scene = Scene(cluster, mongo, tmp_path)
    cluster.wait_until_in_sync(scene.pipeline.kafka)
    yield scene
    scene.pipeline.kill()


def restart_one_after_the_other(scene: Scene) -> None:
    for node in scene.cluster.nodes:
        node.stop(60)
        scene.go_on(100)
        node.start()
        node.wait()
        scene.cluster.wait_until_in_sync(scene.pipeline.kafka)


def kill_one_after_the_other(scene: Scene) -> None:
    """One of them is the controller."""
    for node in scene.cluster.nodes:
        node.kill()
        scene.go_on(100)
        node.start()
        node.wait()
        scene.cluster.wait_until_in_sync(scene.pipeline.kafka)


def kill_one_for_good(scene: Scene) -> None:
    scene.cluster.nodes[0].kill()


def freeze_one(scene: Scene) -> None:
    """The frozen broker loses its partitions, and continues without knowing that."""
    node = scene.cluster.nodes[1]
    node.freeze()
    scene.go_on(500)
    node.thaw()


def kill_two(scene: Scene) -> None:
    """One broker cannot acknowledge writes, so the journal keeps the events."""
    for node in scene.cluster.nodes[:2]:
        node.kill()
    eventually(lambda: scene.waiting() >= 500, what="events in the journal")
    for node in scene.cluster.nodes[:2]:
        node.start()


def kill_all(scene: Scene) -> None:
    scene.cluster.kill()
    eventually(lambda: scene.waiting() >= 500, what="events in the journal")
    scene.cluster.start()


def fill_the_disk_of_one(scene: Scene) -> None:
    """The broker ends by itself on a full disk, and starts again when there is room."""
    node, disk = scene.cluster.nodes[-1], scene.cluster.disk
    if disk is None:
        pytest.skip("a disk that can be filled needs the right to mount one")
    disk.fill()
    try:
        eventually(lambda: node.dead, 90, "the end of the broker with the full disk")
        scene.go_on(500)
    finally:
        disk.free()
    node.start()
    node.wait()
    scene.cluster.wait_until_in_sync(scene.pipeline.kafka)


@pytest.mark.parametrize(
    "happens",
    [
        restart_one_after_the_other,
        kill_one_after_the_other,
        kill_one_for_good,
        freeze_one,
        kill_two,
        kill_all,
        fill_the_disk_of_one,
    ],
    ids=lambda happens: happens.__name__,
)
def test_each_event_is_stored_once_and_in_order(scene: Scene, happens: Callable[[Scene], None]) -> None:
    scene.begin()
    happens(scene)
    assert scene.finish() == (ALL, sorted(f"{customer}-{number}" for customer in CUSTOMERS for number in range(EVENTS)))
