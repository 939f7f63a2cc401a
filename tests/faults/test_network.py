"""All connections of the pipeline go through Toxiproxy, and those of one link fail under load. Each accepted event is
stored once, in order, and no process dies.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from ops.local import ports
from tests.arrived import in_kafka
from tests.clients import Client
from tests.servers import KafkaServer, MongoServer, Pipeline
from tests.toxiproxy import Proxy, Toxiproxy
from tests.waiting import eventually

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]

CLIENTS = 4
EVENTS = 600  # of each client
# Seconds between two requests of a client. Three requests have 27 events, so all clients send some 400 events/s.
PAUSE = 0.09
SECONDS = 5.0  # duration of a fault
LINKS = ("client to api", "api to kafka", "consumer to kafka", "consumer to mongodb")
# Bytes of answers after which a connection is cut: after some complete answers, within another one.
CUT_AFTER = {"client to api": 4_000, "api to kafka": 3_000, "consumer to kafka": 20_000, "consumer to mongodb": 10_000}


class KafkaBehindProxies(KafkaServer):
    """A broker with a listener for each proxy. A client of a listener learns only the address of its proxy."""

    def __init__(self, libs: Path, folder: Path, toxiproxy: Toxiproxy, links: list[str]) -> None:
        super().__init__(libs, folder)
        inner = {f"PROXY{number}": ports.free_port() for number in range(len(links))}
        self.proxies = {link: toxiproxy.proxy(link, inner[name]) for link, name in zip(links, inner, strict=True)}
        controller = ports.free_port()
        outer = zip(inner, self.proxies.values(), strict=True)
        self.inner_ports = {self.port, *inner.values()}
        listening = {"PLAINTEXT": self.port, **inner, "CONTROLLER": controller}
        advertised = {"PLAINTEXT": self.port, **{name: proxy.port for name, proxy in outer}}
        with Path(self.command[-1]).open("a") as config:
            config.write(f"listeners={_listeners(listening)}\nadvertised.listeners={_listeners(advertised)}\n")
            config.write(f"controller.quorum.voters=1@127.0.0.1:{controller}\n")
            security = ",".join(f"{name}:PLAINTEXT" for name in listening)
            config.write(f"listener.security.protocol.map={security}\n")


def _listeners(of: dict[str, int]) -> str:
    return ",".join(f"{name}://127.0.0.1:{port}" for name, port in of.items())


class Scene:
    """A pipeline with a proxy on each of its links; `link` is the one that fails.

    All tests of a link share the pipeline; each waits until its own events are stored.
    """

    def __init__(self, link: str, servers: "Servers", folder: Path) -> None:
        self.link = link
        self.servers = servers
        # A client that loses its connection may continue at another worker, and only one worker keeps the order.
        workers = "1" if link == "client to api" else "2"
        self.pipeline = Pipeline(servers.kafka, servers.mongo, folder, API_WORKERS=workers)
        self.api, self.consumer = self.pipeline.api, self.pipeline.consumer
        self.proxies = {
            **servers.kafka.proxies,
            "consumer to mongodb": servers.toxiproxy.proxy(f"{link}: mongodb", servers.mongo.port),
            "client to api": servers.toxiproxy.proxy(f"{link}: api", int(self.api.url.rpartition(":")[2])),
        }
        self.api.env["KAFKA_BROKERS"] = self._address("api to kafka")
        self.consumer.env["KAFKA_BROKERS"] = self._address("consumer to kafka")
        # Otherwise the driver connects to the address that the server reports.
        self.consumer.env["MONGO_URI"] = f"mongodb://{self._address('consumer to mongodb')}/?directConnection=true"
        self.pipeline.start()
        self.begun = self.api.worker_pids()
        self.sent = 0

    @property
    def proxy(self) -> Proxy:
        return self.proxies[self.link]

    def _address(self, link: str) -> str:
        return f"127.0.0.1:{self.proxies[link].port}"

    def begin(self, happens: Callable[["Scene"], None]) -> None:
        """Start the clients, and wait until a tenth of their events is accepted."""
        # Only a single worker keeps the order across connections.
        keep_alive = happens is not slow_closes or self.link != "client to api"
        self.sent += EVENTS * CLIENTS
        url = f"http://{self._address('client to api')}"
        self.clients = [
            Client(url, f"{happens.__name__}-{number}", EVENTS, pause=PAUSE, timeout=5, keep_alive=keep_alive)
            for number in range(CLIENTS)
        ]
        for client in self.clients:
            client.start()
        eventually(lambda: all(client.accepted > EVENTS / 10 for client in self.clients), what="events accepted")

    def finish(self) -> tuple[dict[str, list[int]], list[str]]:
        """Wait until all events are stored; returns the numbers in Kafka by customer, and the stored ids."""
        for client in self.clients:
            client.join(90)
            assert client.accepted == EVENTS
        self.pipeline.wait_until_stored(self.sent, timeout=90)
        arrived = in_kafka(self.pipeline.kafka, self.sent)
        names = [client.name for client in self.clients]
        with self.pipeline.events() as events:
            stored = [found["event_id"] for found in events.find({"customer_id": {"$in": names}})]
        return {name: arrived[name] for name in names}, sorted(stored)

    def sockets(self) -> set[int]:
        """The local ports of the client's connections on the link."""
        ends = {"client to api": [psutil.Process()], "api to kafka": self._of_api()}
        found = [socket for end in ends.get(self.link, self._of_consumer()) for socket in end.net_connections("tcp")]
        return {
            socket.laddr.port
            for socket in found
            if socket.status == psutil.CONN_ESTABLISHED and socket.raddr.port == self.proxy.port
        }

    def bypasses(self) -> bool:
        """Whether API or consumer have a connection to a server that bypasses its proxy."""
        found = [socket for end in self._of_api() + self._of_consumer() for socket in end.net_connections("tcp")]
        direct = self.servers.kafka.inner_ports | {self.servers.mongo.port}
        return any(socket.raddr and socket.raddr.port in direct for socket in found)

    def _of_api(self) -> list[psutil.Process]:
        return [psutil.Process(pid) for pid in self.api.worker_pids()]

    def _of_consumer(self) -> list[psutil.Process]:
        assert self.consumer.child is not None
        return [psutil.Process(self.consumer.child.pid)]


class Servers:
    """Kafka, MongoDB and Toxiproxy."""

    def __init__(self, libs: Path, mongo: MongoServer, toxiproxy: Toxiproxy, folder: Path) -> None:
        self.mongo = mongo
        self.toxiproxy = toxiproxy
        self.kafka = KafkaBehindProxies(libs, folder, toxiproxy, ["api to kafka", "consumer to kafka"])


@pytest.fixture(scope="module")
def servers(
    kafka_libs: Path, mongo: MongoServer, toxiproxy: Toxiproxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Servers]:
    servers = Servers(kafka_libs, mongo, toxiproxy, tmp_path_factory.mktemp("network"))
    servers.kafka.start()
    yield servers
    servers.kafka.kill()


@pytest.fixture(scope="module", params=LINKS, ids=lambda link: link.replace(" ", "-"))
def scene(
    request: pytest.FixtureRequest, servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    scene = Scene(request.param, servers, tmp_path_factory.mktemp("scene"))
    yield scene
    scene.pipeline.kill()


def latency(scene: Scene) -> None:
    with scene.proxy.toxic("latency", "upstream", "downstream", latency=200):
        time.sleep(SECONDS)


def jitter(scene: Scene) -> None:
    with scene.proxy.toxic("latency", "upstream", "downstream", latency=150, jitter=150):
        time.sleep(SECONDS)


def bandwidth(scene: Scene) -> None:
    """5 KB/s in each direction, for some 100 KB/s of events before compression."""
    with scene.proxy.toxic("bandwidth", "upstream", "downstream", rate=5):
        time.sleep(SECONDS)


def resets(scene: Scene) -> None:
    """Each connection is reset after at most a second, repeatedly."""
    for _ in range(3):
        with scene.proxy.toxic("reset_peer", "downstream", timeout=1000):
            time.sleep(SECONDS / 2)


def half_open_connections(scene: Scene) -> None:
    """All bytes vanish, and neither end learns of it: the client must close the connections."""
    before = scene.sockets()
    assert before
    with scene.proxy.toxic("timeout", "upstream", "downstream", timeout=0):
        eventually(lambda: not before & scene.sockets(), timeout=100, what="an end to the dead connections", every=0.2)


def slow_closes(scene: Scene) -> None:
    """The client closes connections, at a restart or after each request, and the server learns of it 3 s later."""
    with scene.proxy.toxic("slow_close", "upstream", "downstream", delay=3000):
        if scene.link == "client to api":
            time.sleep(SECONDS)
            return
        process = scene.api if scene.link.startswith("api") else scene.consumer
        assert process.stop() == 0
        process.start()
        scene.api.wait_until_ready()
        scene.begun = scene.api.worker_pids()
        scene.pipeline.wait_for_consumer()


def cuts_in_requests(scene: Scene) -> None:
    with scene.proxy.toxic("limit_data", "upstream", bytes=10_000):
        time.sleep(SECONDS)


def cuts_in_answers(scene: Scene) -> None:
    with scene.proxy.toxic("limit_data", "downstream", bytes=CUT_AFTER[scene.link]):
        time.sleep(SECONDS)


@pytest.mark.parametrize(
    "happens",
    [latency, jitter, bandwidth, resets, half_open_connections, slow_closes, cuts_in_requests, cuts_in_answers],
    ids=lambda happens: happens.__name__,
)
def test_each_event_is_stored_once_and_in_order(scene: Scene, happens: Callable[[Scene], None]) -> None:
    scene.begin(happens)
    happens(scene)
    numbers = list(range(EVENTS))
    names = [client.name for client in scene.clients]
    assert scene.finish() == (
        dict.fromkeys(names, numbers),
        sorted(f"{name}-{number}" for name in names for number in numbers),
    )
    assert scene.api.worker_pids() == scene.begun
    assert all(alive(url) for url in (scene.pipeline.url, scene.pipeline.consumer_url))
    assert not scene.bypasses()


def alive(url: str) -> Any:
    return requests.get(f"{url}/health/live", timeout=10).ok
