"""Three Kafka nodes on this machine, each a broker and controller, with three replicas of all partitions."""

from pathlib import Path
from string import Template
from subprocess import run

from common.kafka import KafkaError, connect_admin
from common.settings import KafkaSettings
from ops.local import kafka as local_kafka
from ops.local import ports
from tests import MIB
from tests.servers import Process, create_topics, kafka_settings
from tests.small_disks import MountError, SmallDisk
from tests.toxiproxy import Proxy, Toxiproxy
from tests.waiting import eventually

NODES = (1, 2, 3)
# These lines override those of ops/local/server.properties.
_OVERRIDES = """
node.id=$node
controller.quorum.voters=$voters
offsets.topic.replication.factor=3
min.insync.replicas=2
# The default is half of a small heap.
log.cleaner.dedupe.buffer.size=8388608
"""


class KafkaNode(Process):
    """One of the three nodes; a restart finds its data."""

    def __init__(
        self, libs: Path, folder: Path, node: int, ports_: dict[int, tuple[int, int]], toxiproxy: Toxiproxy | None
    ) -> None:
        """`ports_`: for each node, its port for clients and its port as a controller."""
        self.port, controller_port = ports_[node]
        self.data = folder / f"kafka-{node}"
        self.data.mkdir()
        config = folder / f"kafka-{node}.properties"
        template = (local_kafka.HERE / "server.properties").read_text() + _OVERRIDES
        voters = ",".join(f"{number}@127.0.0.1:{controller}" for number, (_, controller) in ports_.items())
        text = Template(template).substitute(
            port=self.port, controller_port=controller_port, data=self.data / "log", node=node, voters=voters
        )
        self.proxy: Proxy | None = None
        """The proxy is in front of a second listener. The other nodes use the first one."""
        if toxiproxy:
            inner = ports.free_port()
            self.proxy = toxiproxy.proxy(f"broker-{node}", inner)
            text += _second_listener(self.port, controller_port, inner, self.proxy.port)
        config.write_text(text)
        java = ["java", *local_kafka.JVM, "-cp", f"{libs}/*"]
        self._format = [*java, "kafka.tools.StorageTool", "format", "-t", local_kafka.CLUSTER_ID, "-c", str(config)]
        super().__init__([*java, "-Xms64m", "-Xmx192m", "kafka.Kafka", str(config)], folder / f"kafka-{node}.log")

    def prepare(self) -> None:
        """Format its folder. Call it once, before the first start."""
        run(self._format, capture_output=True, timeout=60, check=True)

    def wait(self) -> None:
        """Wait until it serves clients."""
        ports.wait_until_answers(self.port, 90)

    @property
    def dead(self) -> bool:
        """Whether it ended by itself."""
        assert self.child is not None
        return self.child.poll() is not None


def _second_listener(port: int, controller_port: int, inner: int, outer: int) -> str:
    """Lines for server.properties. Clients of the listener at `inner` get only the port of its proxy, `outer`."""
    host = "127.0.0.1"
    return f"""
listeners=PLAINTEXT://{host}:{port},PROXIED://{host}:{inner},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port},PROXIED://{host}:{outer}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT
"""


class KafkaCluster:
    """The three nodes. Topics have three replicas, and an acknowledged record is on at least two."""

    def __init__(self, libs: Path, folder: Path, toxiproxy: Toxiproxy | None = None) -> None:
        """With a `toxiproxy`, each node also has a proxy, whose link can be disturbed."""
        where = {node: (ports.free_port(), ports.free_port()) for node in NODES}
        self.nodes = [KafkaNode(libs, folder, node, where, toxiproxy) for node in NODES]
        self.disk: SmallDisk | None = None
        """The disk of the last node; None if this process may not mount one."""

    @property
    def address(self) -> str:
        return ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    @property
    def proxies(self) -> list[Proxy]:
        """The proxies of the nodes."""
        return [node.proxy for node in self.nodes if node.proxy]

    def prepare(self) -> None:
        """Mount the disk of the last node, and format the folders of all. Call it once, and `remove` at the end."""
        try:
            self.disk = SmallDisk(self.nodes[-1].data, 1024 * MIB)
        except MountError:
            self.disk = None
        for node in self.nodes:
            node.prepare()

    def start(self) -> None:
        """Start all nodes, and wait for them."""
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            node.wait()

    def repair(self) -> None:
        """Start the nodes that do not run, and wait for all."""
        for node in self.nodes:
            if node.child is None or node.dead:
                node.start()
        for node in self.nodes:
            node.wait()

    def create_topics(self, topic: str) -> KafkaSettings:
        """Create a topic with three partitions, and its other two topics, all with three replicas."""
        settings = kafka_settings(self.address, topic)
        create_topics(settings, replication_factor=3)
        return settings

    def wait_until_in_sync(self, settings: KafkaSettings) -> None:
        """Wait until all replicas of the topic are in sync."""
        eventually(lambda: _in_sync(settings), 90, "all replicas in sync", every=0.5)

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()

    def remove(self) -> None:
        """Kill all nodes, and unmount the disk."""
        self.kill()
        if self.disk is not None:
            self.disk.unmount()


def _in_sync(settings: KafkaSettings) -> bool:
    admin = connect_admin(settings)
    try:
        (topic,) = admin.describe_topics([settings.topic])
        return all(len(partition["isr"]) == len(NODES) for partition in topic["partitions"])
    except KafkaError:
        return False
    finally:
        admin.close()
