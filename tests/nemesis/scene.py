"""The whole pipeline on this machine: three brokers, a database, two APIs, two consumers, an exporter, a console."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pymongo
import pymongo.errors
import requests

from ops.local.ports import free_port
from tests import MIB
from tests.clocks import Clocks
from tests.cluster import KafkaCluster
from tests.servers import ApiServer, ConsoleServer, MongoServer, Pipeline, Process, metric
from tests.small_disks import MountError, mounted
from tests.toxiproxy import Toxiproxy
from tests.waiting import eventually

CLOCKED = ("api-1", "api-2", "consumer-1", "consumer-2")
"""Parts whose clocks can be stepped."""
JOURNAL_DISK = 64 * MIB


class Part:
    """A process group, the target of faults. `wanted`: whether it should run now."""

    def __init__(self, name: str, process: Process) -> None:
        self.name = name
        self.process = process
        self.wanted = False

    def start(self) -> None:
        """Start it without waiting until it serves, unlike the `start` of some processes."""
        assert not self.runs, f"{self.name} runs"
        self.wanted = True
        Process.start(self.process)

    def kill(self) -> None:
        self.wanted = False
        self.process.kill()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all of its processes."""
        if self.process.child is not None and self.runs:
            os.killpg(self.process.child.pid, number)

    def terminate(self) -> None:
        """SIGTERM to the main process, without waiting for its end."""
        self.wanted = False
        if self.process.child is not None:
            self.process.child.terminate()

    def end(self, timeout: float) -> bool:
        """Wait for its end after `terminate`; after `timeout` seconds, kills it and returns False."""
        if self.process.child is None:
            return True
        try:
            self.process.child.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return False
        return True

    @property
    def runs(self) -> bool:
        """Whether its main process runs."""
        return self.process.child is not None and self.process.child.poll() is None

    @property
    def died(self) -> bool:
        """Whether it has ended although it should run."""
        return self.wanted and self.process.child is not None and not self.runs


class Scene:
    """All parts, by name. Call `start` first."""

    def __init__(self, libs: Path, folder: Path, toxiproxy: Toxiproxy, closing: contextlib.ExitStack) -> None:
        """Start the servers. `closing` stops all started parts, even if this fails."""
        self.folder = folder
        self.cluster = KafkaCluster(libs, folder, toxiproxy)
        closing.callback(self.cluster.remove)
        self.cluster.prepare()
        self.cluster.start()
        self.mongo = MongoServer(folder)
        closing.callback(self.mongo.kill)
        self.mongo.start()
        self.links = {f"link to broker-{number}": proxy for number, proxy in enumerate(self.cluster.proxies, 1)}
        """The connections of all clients to a server go through its proxy."""
        self.links["link to mongodb"] = toxiproxy.proxy("mongodb", self.mongo.port)
        self.pipeline = Pipeline(
            self.cluster,
            self.mongo,
            folder,
            KAFKA_BROKERS=",".join(f"127.0.0.1:{proxy.port}" for proxy in self.cluster.proxies),
            # Otherwise the driver connects to the address that the server reports.
            MONGO_URI=f"mongodb://127.0.0.1:{self.links['link to mongodb'].port}/?directConnection=true",
        )
        self.files = folder / "files"
        self.export_env = {
            **self.pipeline.environ,
            "EXPORT_URL": f"file://{self.files}",
            "EXPORT_MIN_AGE": "0s",
            "EXPORT_MAX_ROWS": "500",
        }
        second = folder / "second"
        second.mkdir()
        self.apis = [self.pipeline.api, ApiServer(second, self.pipeline.environ)]
        for number, api in enumerate(self.apis, 1):
            name = f"link to api-{number}"
            self.links[name] = toxiproxy.proxy(name, int(api.url.rpartition(":")[2]))
        own_port = {"METRICS_ADDR": f"127.0.0.1:{free_port()}"}
        consumers = [
            self.pipeline.consumer,
            Process([sys.executable, "-m", "consumer"], second / "consumer.log", {**self.pipeline.environ, **own_port}),
        ]
        console = ConsoleServer(self.pipeline, folder, CONSOLE_API_URLS=",".join(api.url for api in self.apis))
        self.journals = [folder / "journal", second / "journal"]
        self.journal_disks = True
        """Whether each journal has a small disk of its own, which needs the right to mount."""
        for journal in self.journals:
            journal.mkdir()
            try:
                closing.enter_context(mounted(journal, JOURNAL_DISK))
            except MountError:
                self.journal_disks = False
        named: dict[str, Process] = {
            **{f"broker-{number}": node for number, node in enumerate(self.cluster.nodes, 1)},
            "mongodb": self.mongo,
            **{f"api-{number}": api for number, api in enumerate(self.apis, 1)},
            **{f"consumer-{number}": consumer for number, consumer in enumerate(consumers, 1)},
            "console": console,
            "exporter": self.exporter("exporter"),
        }
        self.clocks = Clocks(folder)
        for name in CLOCKED:
            named[name].env |= self.clocks.environment(name)
        self.parts = {name: Part(name, process) for name, process in named.items()}
        for name, part in self.parts.items():
            part.wanted = name.startswith(("broker", "mongodb"))
        self.findings: list[str] = []
        """Faults found during the run."""
        closing.callback(self.kill)

    def exporter(self, name: str, *command: str) -> Process:
        """A process with the exporter's settings, not started: `ops.export run`, or another command."""
        arguments = command or ("ops.export", "run")
        return Process([sys.executable, "-m", *arguments], self.folder / f"{name}.log", self.export_env)

    def start(self) -> None:
        for name in ("api-1", "api-2", "consumer-1", "consumer-2", "console"):
            self.parts[name].start()
        for api in self.apis:
            api.wait_until_ready()
        self.pipeline.wait_for_consumer()

    def export(self) -> None:
        """Start a run of the exporter, unless one is running."""
        exporter = self.parts["exporter"].process
        if exporter.child is None or exporter.child.poll() is not None:
            exporter.start()

    def restart_dead(self) -> None:
        """Restart parts that ended by themselves, as an orchestrator does, and record that as a finding."""
        for part in self.parts.values():
            if part.died:
                assert part.process.child is not None
                self.findings.append(f"{part.name} ended by itself with {part.process.child.returncode}")
                part.start()

    def heal(self) -> None:
        """Start all parts that do not run, and wait until the pipeline serves."""
        for part in self.parts.values():
            part.signal(signal.SIGCONT)
            if part.name != "exporter" and not part.wanted:
                part.start()
        self.cluster.repair()
        for api in self.apis:
            eventually(partial(_ready, api), 120, "the API's readiness", every=0.5)

    def stored(self, patience: float = 2.0) -> int | None:
        """How many events are stored, which SecantusDB counts one by one; None without an answer in time."""
        options: dict[str, Any] = dict.fromkeys(
            ("serverSelectionTimeoutMS", "socketTimeoutMS", "connectTimeoutMS"), int(1000 * patience)
        )
        try:
            with pymongo.MongoClient[dict[str, Any]](self.mongo.uri, **options) as client:
                return client[self.pipeline.mongo.database][self.pipeline.mongo.collection].estimated_document_count()
        except pymongo.errors.PyMongoError:
            return None

    def in_journals(self) -> int:
        """The number of events in the journals. Raises RequestException."""
        return int(sum(metric(api.url, "pulse_api_journal_events") for api in self.apis))

    def logs(self) -> Iterator[tuple[str, str]]:
        """The log of each of our own processes."""
        for name, part in self.parts.items():
            if not name.startswith(("broker", "mongodb")) and part.process.log.exists():
                yield name, part.process.output()

    def kill(self) -> None:
        """Kill all parts."""
        for part in self.parts.values():
            part.kill()


def _ready(api: ApiServer) -> bool:
    with contextlib.suppress(requests.RequestException):
        return requests.get(f"{api.url}/health/ready", timeout=2).ok
    return False
