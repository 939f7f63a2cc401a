"""The measured processes: the broker, gunicorn with one of several apps, and the consumer on a stub of MongoDB."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from common.addresses import Address
from common.errors import PulseError
from common.kafka import TopicPartition, connect_member
from common.retry import Backoff
from common.settings import KafkaSettings, LogSettings, TopicSettings
from common.topics import ensure_topics, wait_for_admin, wanted_topics
from ops.local import kafka, ports
from ops.local.ready import is_well

OURS, NOOP = "api.wsgi:app", "loadtest.bench.noop:app"
BEFORE = "9ea956a"
"""The commit of Pulse 0.1.0, for comparison."""
PATIENCE = 120.0  # seconds
_PARTITIONS = 3
_IDLE = 0.05  # seconds of CPU in half a second


class Broker:
    """An Apache Kafka with the topics."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.settings = settings
        self._client = connect_member(settings, "bench")

    @property
    def environ(self) -> dict[str, str]:
        """The variables of processes that use the broker."""
        return {
            "KAFKA_BROKERS": self.settings.broker_list,
            "KAFKA_TOPIC": self.settings.topic,
            "KAFKA_DLQ_TOPIC": self.settings.dlq_topic,
            "KAFKA_REFUSED_TOPIC": "",
        }

    def records(self) -> int:
        """The number of records ever written to the topic."""
        partitions = [TopicPartition(self.settings.topic, number) for number in range(_PARTITIONS)]
        return sum(self._client.end_offsets(partitions).values())

    def close(self) -> None:
        """Close the connection."""
        self._client.close(autocommit=False)

    def wait_for(self, count: int) -> None:
        """Block until the topic has N records. Raises PulseError after a timeout."""
        wait(lambda: self.records() >= count, f"{count:,} records in Kafka")


@contextlib.contextmanager
def broker() -> Iterator[Broker]:
    """Kafka as a process; deletes its data at the end."""
    kafka.check_java()
    port = ports.free_port()
    address = Address("127.0.0.1", port)
    settings = KafkaSettings((address,), "bench", "bench.dlq", "PLAINTEXT", None, None, None, None, "lz4", None)
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
    """A server: a process with workers, or a single process."""

    def __init__(self, master: psutil.Process, port: int, *, keeps: bool, workers: int = 0) -> None:
        """`keeps`: whether accepted events reach Kafka."""
        self.port = port
        self.keeps = keeps
        self._master = master
        self._workers = workers

    @property
    def cpu_seconds(self) -> float:
        """The CPU time of its workers."""
        return sum(cpu_seconds(process) for process in self._working())

    @property
    def megabytes(self) -> float:
        """The memory of its largest worker, in MB."""
        return max(process.memory_info().rss for process in self._working()) / 1e6

    def wait_until_ready(self, path: str | None) -> None:
        """Block until this path answers 200 and all workers have started and are idle."""
        address = Address("127.0.0.1", self.port)
        what = f"a server on port {self.port}"
        wait(lambda: len(self._working()) >= max(self._workers, 1) and ports.answers(self.port), what)
        if path:
            wait(lambda: is_well(address, path), f"{what} to be ready")
        # The server is ready with its first worker, and the others would miss their share of the connections.
        self.wait_until_idle()

    def wait_until_idle(self) -> None:
        """Block until it is idle. Raises PulseError after a timeout."""
        wait(self._idle, f"the server on port {self.port} to have nothing to do")

    def kill(self) -> None:
        """End all of its processes at once, as `kill -9` does."""
        children = self._master.children(recursive=True)
        for process in (self._master, *children):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        psutil.wait_procs(children, timeout=PATIENCE)

    def _working(self) -> list[psutil.Process]:
        return self._master.children() if self._workers else [self._master]

    def _idle(self) -> bool:
        before = self.cpu_seconds
        time.sleep(0.5)
        return self.cpu_seconds - before < _IDLE


@contextlib.contextmanager
def gunicorn(
    app: str, broker: Broker, workers: int = 2, folder: Path | None = None, journal: Path | None = None, **environ: str
) -> Iterator[Server]:
    """A ready server with one of the apps and default settings.

    `folder`: the folder of other code. `journal`: the folder for its events; by default a temporary one.
    """
    port = ports.free_port()
    with tempfile.TemporaryDirectory(prefix="pulse-bench-") as own:
        environ |= {
            "API_ADDR": f"127.0.0.1:{port}",
            "API_WORKERS": str(workers),
            "API_JOURNAL_DIR": str(journal or own),
        }
        command = python("gunicorn", "-c", "api/gunicorn.conf.py", app)
        with process(command, broker.environ | environ, folder) as master:
            server = Server(master, port, keeps=app == OURS, workers=workers)
            server.wait_until_ready("/health/ready" if server.keeps else None)
            yield server


def before() -> Path:
    """A folder with the first version of Pulse. Raises OSError or SubprocessError without git's history."""
    folder = Path("var", "bench", f"pulse-{BEFORE}").absolute()
    if not folder.exists():
        with tempfile.TemporaryDirectory(prefix="pulse-bench-") as scratch:
            archive, files = Path(scratch, "before.tar"), Path(scratch, "before")
            command = ["git", "archive", "--output", str(archive), BEFORE]
            subprocess.run(command, check=True, capture_output=True, timeout=60)  # noqa: S603, nothing here comes from outside
            shutil.unpack_archive(archive, files, filter="data")
            folder.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(files, folder)
    return folder


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs a module."""
    return [sys.executable, "-m", module, *arguments]


@contextlib.contextmanager
def process(command: list[str], environ: dict[str, str], folder: Path | None = None) -> Iterator[psutil.Process]:
    """A child process without output; stops it at the end and waits for it. `folder`: its working directory."""
    quiet = subprocess.DEVNULL
    # The settings in .env are not for benchmarks.
    env = os.environ | {"PYTHON_DOTENV_DISABLED": "1"} | environ
    with subprocess.Popen(command, cwd=folder, env=env, stdout=quiet, stderr=quiet) as child:  # noqa: S603, our own
        try:
            yield psutil.Process(child.pid)
        finally:
            child.terminate()


def cpu_seconds(of: psutil.Process) -> float:
    """The CPU time of a process, in seconds."""
    times = of.cpu_times()
    return float(times.user + times.system)


def wait(until: Callable[[], bool], what: str) -> None:
    """Block until it is true. Raises PulseError after a timeout."""
    deadline = time.monotonic() + PATIENCE
    while not until():
        if time.monotonic() > deadline:
            raise PulseError(f"Waited {PATIENCE:.0f} s for {what}.")
        time.sleep(0.02)
