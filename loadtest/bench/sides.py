"""What is measured, as processes: the broker, gunicorn with one of several apps, the consumer on a stub of MongoDB."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from common.addresses import Address
from common.errors import PulseError
from common.kafka import TopicPartition, connect_consumer
from common.retry import Backoff
from common.settings import KafkaSettings, LogSettings, TopicSettings
from common.topics import ensure_topics, wait_for_admin, wanted_topics
from ops.local import kafka, ports
from ops.local.ready import is_well

OURS, SLOW = "api.wsgi:app", "loadtest.bench.slow:app"
NOOP, NOOP_FLASK = "loadtest.bench.noop:app", "loadtest.bench.noop:flask_app"
PATIENCE = 120.0  # seconds
_PARTITIONS = 3


class Broker:
    """An Apache Kafka with the topics."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.settings = settings
        self._client = connect_consumer(settings, "bench")

    @property
    def environ(self) -> dict[str, str]:
        """Of processes that shall use it."""
        return {
            "KAFKA_BROKERS": self.settings.broker_list,
            "KAFKA_TOPIC": self.settings.topic,
            "KAFKA_DLQ_TOPIC": self.settings.dlq_topic,
        }

    def records(self) -> int:
        """How many the topic has ever taken."""
        partitions = [TopicPartition(self.settings.topic, number) for number in range(_PARTITIONS)]
        return sum(self._client.end_offsets(partitions).values())

    def close(self) -> None:
        """Drop the connection."""
        self._client.close(autocommit=False)

    def wait_for(self, count: int) -> None:
        """Blocks until so many are there. Raises PulseError when no more come."""
        wait(lambda: self.records() >= count, f"{count:,} records in Kafka")


@contextlib.contextmanager
def broker() -> Iterator[Broker]:
    """Kafka as a process; its data goes with it."""
    kafka.check_java()
    port = ports.free_port()
    address = Address("127.0.0.1", port)
    settings = KafkaSettings((address,), "bench", "bench.dlq", "PLAINTEXT", None, None, None, None, "lz4")
    with tempfile.TemporaryDirectory(prefix="pulse-bench-") as folder:
        command = kafka.prepare(Path(folder, "kafka"), port, kafka.jars(Path("var/kafka/libs")))
        with process(command, {}):
            admin = wait_for_admin(settings, patience=60, backoff=Backoff(most=0.5))
            ensure_topics(admin, wanted_topics(TopicSettings(LogSettings("info", "text"), settings, _PARTITIONS, 1)))
            admin.close()
            running = Broker(settings)
            yield running
            running.close()


class Server:
    """gunicorn with its workers."""

    def __init__(self, master: psutil.Process, port: int, *, keeps: bool) -> None:
        """`keeps`: whether what it takes reaches Kafka."""
        self.port = port
        self.keeps = keeps
        self._master = master

    @property
    def cpu_seconds(self) -> float:
        """Of its workers, so far."""
        return sum(cpu_seconds(worker) for worker in self._master.children())

    @property
    def megabytes(self) -> float:
        """Of memory, of the worker that uses most."""
        return max(worker.memory_info().rss for worker in self._master.children()) / 1e6


@contextlib.contextmanager
def gunicorn(
    app: str, broker: Broker, workers: int = 2, folder: Path | None = None, **environ: str
) -> Iterator[Server]:
    """One of the apps, ready, everything on as by default; what it keeps goes with it.

    `folder`: where its code is, if it is not this one.
    """
    port = ports.free_port()
    address = Address("127.0.0.1", port)
    with tempfile.TemporaryDirectory(prefix="pulse-bench-") as journal:
        own = {"API_ADDR": str(address), "API_WORKERS": str(workers), "API_JOURNAL_DIR": journal}
        command = python("gunicorn", "-c", "api/gunicorn.conf.py", app)
        with process(command, broker.environ | own | environ, folder) as master:
            server = Server(master, port, keeps=app in {OURS, SLOW})
            wait(lambda: ports.answers(port) and len(master.children()) == workers, f"{app} on port {port}")
            if server.keeps:
                wait(lambda: is_well(address, "/health/ready"), f"{app} to be ready")
            yield server


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs a module."""
    return [sys.executable, "-m", module, *arguments]


@contextlib.contextmanager
def process(command: list[str], environ: dict[str, str], folder: Path | None = None) -> Iterator[psutil.Process]:
    """A child, its output dropped; told to stop and waited for at the end. `folder`: where it runs."""
    quiet = subprocess.DEVNULL
    # What is in .env is for what people run.
    env = os.environ | {"PYTHON_DOTENV_DISABLED": "1"} | environ
    with subprocess.Popen(command, cwd=folder, env=env, stdout=quiet, stderr=quiet) as child:  # noqa: S603, our own
        try:
            yield psutil.Process(child.pid)
        finally:
            child.terminate()


def cpu_seconds(of: psutil.Process) -> float:
    """CPU time it has used."""
    times = of.cpu_times()
    return float(times.user + times.system)


def wait(until: Callable[[], bool], what: str) -> None:
    """Blocks until it is true. Raises PulseError if that takes too long."""
    deadline = time.monotonic() + PATIENCE
    while not until():
        if time.monotonic() > deadline:
            raise PulseError(f"Waited {PATIENCE:.0f} s in vain for {what}.")
        time.sleep(0.02)
