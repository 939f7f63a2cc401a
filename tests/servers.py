"""Real servers for the tests that need them: Apache Kafka, SecantusDB, and the product's own processes."""

import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import psutil
import pymongo
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from pymongo.collection import Collection

from common.addresses import parse_address
from common.errors import LocalStackError, TopicError
from common.kafka import KafkaReader
from common.retry import Backoff
from common.settings import KafkaSettings, LogSettings, MongoSettings, TopicSettings
from common.topics import ensure_topics, wait_for_admin, wanted_topics
from ops.local import kafka as local_kafka
from ops.local import mongodb as local_mongodb
from ops.local import ports
from tests import ROOT
from tests.contracts import fresh_name
from tests.unavailable import unavailable
from tests.waiting import eventually


class Process:
    """A child process that a test can start, stop, freeze and kill; its output goes to a file."""

    def __init__(self, command: list[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.command = command
        self.log = log
        self.env = {**os.environ, **(env or {})}
        self.child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.child = subprocess.Popen(
                self.command, cwd=ROOT, env=self.env, stdout=output, stderr=output, start_new_session=True
            )

    def stop(self, timeout: float = 30.0) -> int:
        """Send SIGTERM and wait; returns the exit code."""
        assert self.child is not None
        self.child.terminate()
        return self.child.wait(timeout)

    def kill(self) -> None:
        """Send SIGKILL to it and its children."""
        if self.child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait()

    def freeze(self) -> None:
        """Send SIGSTOP, and wait until it takes effect: it keeps its connections and does not answer."""
        assert self.child is not None
        self.child.send_signal(signal.SIGSTOP)
        # Its other threads work until the one that receives the signal gets a core.
        os.waitid(os.P_PID, self.child.pid, os.WSTOPPED)

    def thaw(self) -> None:
        """Send SIGCONT."""
        assert self.child is not None
        self.child.send_signal(signal.SIGCONT)

    def output(self) -> str:
        return self.log.read_text(errors="replace")


class KafkaServer(Process):
    """One Kafka node; a restart finds its data."""

    def __init__(self, libs: Path, folder: Path, *properties: str) -> None:
        """`properties` are lines for server.properties."""
        self.port = ports.free_port()
        command = local_kafka.prepare(folder / "kafka", self.port, libs)
        with Path(command[-1]).open("a") as config:
            config.write("\n".join(["", *properties]))
        super().__init__(command, folder / "kafka.log")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        super().start()
        ports.wait_until_answers(self.port, 60)

    def settings(self, topic: str) -> KafkaSettings:
        """Settings with this topic, and its topics of dead letters and refused events."""
        return kafka_settings(self.address, topic)

    def delete_records(self, topic: str, before: Mapping[int, int]) -> None:
        """Delete each partition's records before an offset, as retention does; -1 deletes all.

        It speaks version 0 of DeleteRecords on a socket, since kafka-python-ng does not have the request.
        """
        partitions = b"".join(struct.pack(">iq", number, offset) for number, offset in before.items())
        topics = struct.pack(">ih", 1, len(topic)) + topic.encode() + struct.pack(">i", len(before)) + partitions
        request = struct.pack(">hhih", 21, 0, 0, -1) + topics + struct.pack(">i", 10_000)
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            with connection.makefile("rb") as answers:
                answer = answers.read(*struct.unpack(">i", answers.read(4)))
        # The last part of the answer has, for each partition, its number, its new first offset, and an error.
        of_partitions = struct.iter_unpack(">iqh", answer[-14 * len(before) :])
        assert [error for _, _, error in of_partitions] == [0] * len(before)

    def create_topics(self, topic: str) -> KafkaSettings:
        """Create a topic with three partitions, and its topics of dead letters and refused events."""
        settings = self.settings(topic)
        create_topics(settings)
        return settings


class MongoServer(Process):
    """A SecantusDB; a restart finds its data. It syncs each commit, so its data are in memory, if possible."""

    def __init__(self, folder: Path) -> None:
        self.port = ports.free_port()
        super().__init__(self._command(folder), folder / "mongodb.log")

    def _command(self, folder: Path) -> list[str]:
        memory = Path("/dev/shm")
        data = Path(tempfile.mkdtemp(prefix="pulse-test-", dir=memory if memory.is_dir() else folder))
        weakref.finalize(self, shutil.rmtree, data, ignore_errors=True)
        return local_mongodb.command(data, self.port)

    @property
    def uri(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}"

    def start(self) -> None:
        super().start()
        ports.wait_until_answers(self.port, 60)

    def settings(self) -> MongoSettings:
        """Settings with a database of its own."""
        return MongoSettings(self.uri, fresh_name("test"), "events", None)


class MongoStub(MongoServer):
    """Stands in for MongoDB at rates that SecantusDB cannot store: it remembers only which ids it has."""

    def _command(self, folder: Path) -> list[str]:
        return [sys.executable, "-m", "loadtest.bench.mongo_stub", str(self.port), "--once"]


class ApiServer(Process):
    """The API under gunicorn, with two workers by default."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        port = ports.free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "gunicorn", "-c", "api/gunicorn.conf.py", "api.wsgi:app"]
        own = {"API_WORKERS": "2", "API_ADDR": f"127.0.0.1:{port}", "API_JOURNAL_DIR": str(folder / "journal")}
        super().__init__(command, folder / "api.log", {**own, **env})

    def wait_until_ready(self) -> None:
        eventually(lambda: _answers(f"{self.url}/health/ready"), what="the API's readiness")

    def accepted(self) -> int:
        """The number of accepted events of all workers since the start; an event accepted twice counts twice."""
        return int(metric(self.url, "pulse_api_events_accepted_total"))

    def worker_pids(self) -> set[int]:
        """The process ids of gunicorn's workers."""
        assert self.child is not None
        return {worker.pid for worker in psutil.Process(self.child.pid).children()}


class ConsoleServer(Process):
    """The console of a pipeline."""

    def __init__(self, pipeline: "Pipeline", folder: Path, **env: str) -> None:
        port = ports.free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "gunicorn", "-c", "ops/console/gunicorn.conf.py", "ops.console.wsgi:app"]
        own = {
            "CONSOLE_ADDR": f"127.0.0.1:{port}",
            "CONSOLE_API_URLS": pipeline.url,
            "CONSOLE_CONSUMER_URLS": pipeline.consumer_url,
        }
        super().__init__(command, folder / "console.log", {**pipeline.environ, **own, **env})

    def start(self) -> None:
        super().start()
        eventually(lambda: _answers(f"{self.url}/health/live"), what="the console")


def metric(url: str, name: str, **labels: str) -> float:
    """The sum of a process's samples with this name and these labels. Raises RequestException."""
    families = text_string_to_metric_families(requests.get(f"{url}/metrics", timeout=10).text)
    samples = (sample for family in families for sample in family.samples)
    return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())


@contextlib.contextmanager
def api_without_kafka(folder: Path, **env: str) -> Iterator[ApiServer]:
    """A ready API without Kafka, with one worker by default."""
    api = ApiServer(folder, {"KAFKA_BROKERS": f"127.0.0.1:{ports.free_port()}", "API_WORKERS": "1", **env})
    api.start()
    try:
        api.wait_until_ready()
        yield api
    finally:
        api.kill()


class PrometheusServer(Process):
    """Prometheus with our configuration and alerts, but with its own targets and a fifth of the intervals."""

    def __init__(self, folder: Path, api: str, consumer: str, exporter: str) -> None:
        """`api`, `consumer` and `exporter` are their URLs."""
        port = ports.free_port()
        self.url = f"http://127.0.0.1:{port}"
        config = (ROOT / "ops" / "prometheus" / "prometheus.yml").read_text()
        ours = {
            "api:8080": api,
            "consumer:8083": consumer,
            "export:8085": exporter,
            "interval: 5s": "interval: 1s",
            "timeout: 4s": "timeout: 1s",
        }
        for theirs, our in ours.items():
            assert theirs in config
            config = config.replace(theirs, our.removeprefix("http://"))
        (folder / "prometheus.yml").write_text(config)
        shutil.copy(ROOT / "ops" / "prometheus" / "alerts.yml", folder)
        command = [
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        super().__init__(command, folder / "prometheus.log")

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The current series of an expression, without NaN; fails if the expression is invalid."""
        answer = requests.get(f"{self.url}/api/v1/query", params={"query": expr}, timeout=10).json()
        assert answer["status"] == "success", f"{expr}: {answer}"
        return [series for series in answer["data"]["result"] if series["value"][1] != "NaN"]


class Kafka(Protocol):
    """A broker, or a cluster."""

    @property
    def address(self) -> str:
        """The value for KAFKA_BROKERS."""

    def create_topics(self, topic: str) -> KafkaSettings:
        """Create a topic, and its topics of dead letters and refused events."""


class Pipeline:
    """The API (two workers) and the consumer as processes, on their own topic and database."""

    def __init__(self, kafka: Kafka, mongo: MongoServer, folder: Path, **env: str) -> None:
        self.kafka = kafka.create_topics(fresh_name("events"))
        self.mongo = mongo.settings()
        metrics_port = ports.free_port()
        self.consumer_url = f"http://127.0.0.1:{metrics_port}"
        self.environ = {
            "METRICS_ADDR": f"127.0.0.1:{metrics_port}",
            "KAFKA_BROKERS": kafka.address,
            "KAFKA_TOPIC": self.kafka.topic,
            "KAFKA_DLQ_TOPIC": self.kafka.dlq_topic,
            "KAFKA_REFUSED_TOPIC": f"{self.kafka.topic}.refused",
            "KAFKA_GROUP_ID": fresh_name("group"),
            "MONGO_URI": self.mongo.uri,
            "MONGO_DATABASE": self.mongo.database,
            **env,
        }
        self.api = ApiServer(folder, self.environ)
        self.url = self.api.url
        self.consumer = Process([sys.executable, "-m", "consumer"], folder / "consumer.log", self.environ)

    def consumer_metric(self, name: str, **labels: str) -> float:
        """The sum of the consumer's samples with this name and these labels. Raises RequestException."""
        return metric(self.consumer_url, name, **labels)

    def watched_by_prometheus(self, folder: Path, exporter: str) -> PrometheusServer:
        """A Prometheus, not started, that scrapes the API, the consumer, and the exporter at this URL.

        Without an installed Prometheus, skips the test, or fails it if CI=true.
        """
        if shutil.which("prometheus") is None:
            unavailable("prometheus is missing: Debian's package of that name has it")
        return PrometheusServer(folder, self.url, self.consumer_url, exporter)

    def start(self) -> None:
        self.api.start()
        self.consumer.start()
        self.api.wait_until_ready()
        self.wait_for_consumer()

    def wait_for_consumer(self) -> None:
        eventually(lambda: _answers(f"{self.consumer_url}/health"), what="the consumer's health")

    def kill(self) -> None:
        self.api.kill()
        self.consumer.kill()

    @contextlib.contextmanager
    def events(self) -> Iterator[Collection[dict[str, Any]]]:
        """The collection of events."""
        with pymongo.MongoClient[dict[str, Any]](self.mongo.uri, tz_aware=True) as client:
            yield client[self.mongo.database][self.mongo.collection]

    def documents(self) -> list[dict[str, Any]]:
        """The stored events."""
        with self.events() as events:
            return list(events.find())

    def wait_until_stored(self, count: int, timeout: float = 60.0) -> None:
        """Wait until N events are stored. Polls rarely, to spare the database."""
        with pymongo.MongoClient[dict[str, Any]](self.mongo.uri) as client:
            events = client[self.mongo.database][self.mongo.collection]
            eventually(
                lambda: events.estimated_document_count() >= count, timeout, f"{count} events stored", every=0.25
            )


def create_topics(settings: KafkaSettings, replication_factor: int = 1) -> None:
    """Create these topics; the one for events has three partitions."""
    admin = wait_for_admin(settings, patience=30, backoff=Backoff(most=1.0))
    ensure_topics(admin, wanted_topics(TopicSettings(LogSettings("info", "text"), settings, 3, replication_factor)))
    admin.close()
    for name in (settings.topic, settings.dlq_topic):
        # In a cluster, some brokers learn of a topic later. The reader knows its ends once each partition has a leader.
        eventually(partial(_can_be_read, settings, name), timeout=30, what=f"the topic {name}")


def _can_be_read(settings: KafkaSettings, topic: str) -> bool:
    try:
        KafkaReader(settings, topic).close()
    except TopicError:
        return False
    return True


def kafka_settings(brokers: str, topic: str) -> KafkaSettings:
    """Settings for brokers without TLS, in the form of KAFKA_BROKERS, with this topic and its other two topics."""
    addresses = tuple(filter(None, map(parse_address, brokers.split(","))))
    assert addresses, brokers
    return KafkaSettings(
        brokers=addresses,
        topic=topic,
        dlq_topic=f"{topic}.dlq",
        security_protocol="PLAINTEXT",
        sasl_mechanism=None,
        sasl_username=None,
        sasl_password=None,
        ssl_cafile=None,
        compression="none",
        refused_topic=f"{topic}.refused",
    )


@pytest.fixture(scope="session")
def kafka_libs() -> Path:
    """The folder with Kafka's jars. If they are not available, skips the test, or fails it if CI=true."""
    try:
        local_kafka.check_java()
        return local_kafka.jars(ROOT / "var" / "kafka" / "libs")
    except LocalStackError as error:
        unavailable(f"Apache Kafka is not available: {error}")


@pytest.fixture(scope="session")
def kafka(kafka_libs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A broker for tests that leave it alive."""
    server = KafkaServer(kafka_libs, tmp_path_factory.mktemp("kafka"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def mongo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoServer]:
    """A database for tests that leave it alive."""
    server = MongoServer(tmp_path_factory.mktemp("mongodb"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def pipeline(kafka: KafkaServer, mongo: MongoServer, tmp_path: Path) -> Iterator[Pipeline]:
    """A running pipeline."""
    running = Pipeline(kafka, mongo, tmp_path)
    running.start()
    yield running
    running.kill()


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).ok
    except requests.RequestException:
        return False
