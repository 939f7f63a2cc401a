"""The Compose stack in real containers of our images (`make compose-test`); skips without a Docker engine.

STAND_INS=1 replaces third-party images by stand-ins (stand-ins.yml), for machines without access to a registry. That
needs root, mmdebstrap and Java.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pymongo
import pytest
import requests

from ops.local import kafka as local_kafka
from ops.local import ports
from tests import ROOT
from tests.clients import Client
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(1200)

HERE = Path(__file__).parent
OURS = ["api", "consumer", "console"]
PROFILES = ["--profile", "load", "--profile", "export"]


class Stack:
    """The stack as a separate project, which does not affect that of `make up`."""

    def __init__(self, *, stand_ins: bool) -> None:
        files = [ROOT / "docker-compose.yml", HERE / "ports.yml", *([HERE / "stand-ins.yml"] if stand_ins else [])]
        self._command = ["docker", "compose", "--project-name", "pulse-test", "--project-directory", str(ROOT)]
        self._command += [part for file in files for part in ("--file", str(file))]
        api, console, locust, mongo, prometheus = (ports.free_port() for _ in range(5))
        self._env = {
            **os.environ,
            "TEST_API_PORT": str(api),
            "TEST_CONSOLE_PORT": str(console),
            "TEST_LOCUST_PORT": str(locust),
            "TEST_MONGO_PORT": str(mongo),
            "TEST_PROMETHEUS_PORT": str(prometheus),
        }
        if stand_ins:
            self._env["KAFKA_LIBS"] = str(local_kafka.jars(ROOT / "var" / "kafka" / "libs").relative_to(ROOT))
        self.api_url = f"http://127.0.0.1:{api}"
        self.console_url = f"http://127.0.0.1:{console}"
        self.locust_url = f"http://127.0.0.1:{locust}"
        self.prometheus_url = f"http://127.0.0.1:{prometheus}"
        self.mongo_uri = f"mongodb://127.0.0.1:{mongo}/?directConnection=true"

    def compose(self, *arguments: str) -> str:
        """The output of a command; if the command fails, the test fails with its errors."""
        done = subprocess.run(
            [*self._command, *arguments], env=self._env, capture_output=True, text=True, timeout=900, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def up(self) -> None:
        """Start the stack, and wait until all services are healthy."""
        self.compose("up", "--detach", "--wait")

    def kill_api(self) -> None:
        self.compose("kill", "api")

    def kill_consumer(self) -> None:
        self.compose("kill", "consumer")

    def replace_everything(self) -> None:
        """Stop our services, which must end without a kill, and then remove all containers."""
        self.compose("stop", *OURS)
        assert [self.state(service)["ExitCode"] for service in OURS] == [0, 0, 0]
        self.compose("down")

    def replace_api_without_kafka(self) -> None:
        """Remove the API's container while only its journal has events, which the next container must find."""
        self.compose("kill", "kafka")
        eventually(lambda: self.journalled() > 100, what="100 events in a journal")
        self.compose("rm", "--stop", "--force", "api")

    def journalled(self) -> int:
        """The number of events in the journal of the worker that answers."""
        return int(requests.get(f"{self.api_url}/health", timeout=10).json()["checks"]["journal"]["events"])

    def state(self, service: str) -> Any:
        """The state of the service's container in the engine."""
        return json.loads(docker("inspect", self.compose("ps", "--all", "--quiet", service).strip()))[0]["State"]

    def stored(self) -> list[str]:
        """The ids of the events in MongoDB."""
        with pymongo.MongoClient[dict[str, Any]](self.mongo_uri) as client:
            return [document["event_id"] for document in client["pulse"]["events"].find({}, {"event_id": 1})]

    def stored_count(self) -> int:
        """The number of events in MongoDB, by a cheap estimate."""
        with pymongo.MongoClient[dict[str, Any]](self.mongo_uri) as client:
            return client["pulse"]["events"].estimated_document_count()


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=60, check=True).stdout


def has_accepted(clients: list[Client], count: int) -> bool:
    return sum(client.accepted for client in clients) >= count


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """The stack with empty volumes, up and healthy; only its images are left afterwards."""
    try:
        docker("info")
    except (OSError, subprocess.SubprocessError):
        pytest.skip("no Docker engine answers")
    stand_ins = bool(os.environ.get("STAND_INS"))
    if stand_ins and not docker("images", "--quiet", "pulse-test/python"):
        subprocess.run([HERE / "stand-ins" / "python.sh"], check=True, timeout=600)
    stack = Stack(stand_ins=stand_ins)
    stack.compose(*PROFILES, "down", "--volumes")
    stack.compose(*PROFILES, "build")
    try:
        stack.up()
        yield stack
    finally:
        stack.compose(*PROFILES, "down", "--volumes")


@pytest.fixture
def locust_url(stack: Stack) -> Iterator[str]:
    """The URL of locust's page, while locust runs."""
    stack.compose("up", "--detach", "--wait", "locust")
    yield stack.locust_url
    stack.compose("rm", "--stop", "--force", "locust")


def test_every_service_is_healthy_and_the_topics_exist(stack: Stack) -> None:
    services = stack.compose("config", "--services").split()
    states = {service: stack.state(service) for service in services}
    assert states.pop("topics")["ExitCode"] == 0
    assert {service: state["Health"]["Status"] for service, state in states.items()} == dict.fromkeys(states, "healthy")


def test_prometheus_scrapes_api_and_consumer(stack: Stack) -> None:
    def up() -> set[str]:
        targets = requests.get(f"{stack.prometheus_url}/api/v1/targets", timeout=5).json()["data"]["activeTargets"]
        return {target["labels"]["job"] for target in targets if target["health"] == "up"}

    eventually(lambda: up() == {"pulse-api", "pulse-consumer"}, what="two targets that are up")


def test_the_console_needs_its_key_and_reaches_all_parts(stack: Stack) -> None:
    def problems() -> Any:
        key = ("user", "pulse-on-this-machine")
        return requests.get(f"{stack.console_url}/api/flow", auth=key, timeout=10).json()["problems"]

    assert requests.get(stack.console_url, timeout=10).status_code == 401
    eventually(lambda: problems() == [], what="a console without problems")


@pytest.mark.parametrize("service", OURS)
def test_the_image_has_no_tools_to_build_or_install(stack: Stack, service: str) -> None:
    tools = "for tool in pip pip3 gcc cc make; do command -v $tool; done; find /app -name '*test*' -o -name Dockerfile"
    assert stack.compose("exec", service, "sh", "-c", f"{tools}; true") == ""
    find = "import importlib.util as u; print(u.find_spec('pip'))"
    assert stack.compose("exec", service, "python", "-c", find) == "None\n"


@pytest.mark.parametrize("service", OURS)
def test_the_process_has_no_privileges_and_a_read_only_root(stack: Stack, service: str) -> None:
    status = dict(line.split(":\t", 1) for line in stack.compose("exec", service, "cat", "/proc/1/status").splitlines())
    assert status["Uid"].split() == ["10001"] * 4
    assert int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert "Read-only" in stack.compose("exec", service, "sh", "-c", "touch /app/file 2>&1; true")


def test_the_tools_run_from_the_consumers_image(stack: Stack) -> None:
    assert "0 letters" in stack.compose("exec", "consumer", "python", "-m", "consumer.dlq", "stats")
    stack.compose("run", "--rm", "topics")


def test_no_accepted_event_is_lost_or_stored_twice_when_containers_are_killed_and_replaced(stack: Stack) -> None:
    sent: list[str] = []
    disturbances = (stack.kill_api, stack.kill_consumer, stack.replace_api_without_kafka, stack.replace_everything)
    for disturb in disturbances:
        clients = [
            Client(stack.api_url, f"{disturb.__name__}-{number}", 600, batch=5, pause=0.02) for number in range(3)
        ]
        sent += [event["event_id"] for client in clients for event in client.events]
        for client in clients:
            client.start()
        eventually(partial(has_accepted, clients, 200), what="200 events accepted")
        disturb()
        assert any(client.is_alive() for client in clients), "no client was still sending"
        stack.up()
        for client in clients:
            client.join(120)
            assert not client.is_alive()
    eventually(lambda: stack.stored_count() >= len(sent), 300, f"{len(sent)} events stored", every=1.0)
    assert sorted(stack.stored()) == sorted(sent)


# The tests below must run after the one above, which counts all stored events.
def test_the_exporter_writes_every_stored_event_to_its_volume_once(stack: Stack) -> None:
    stack.compose(*PROFILES, "run", "--rm", "--env", "EXPORT_MIN_AGE=0s", "export", "run")
    count = (
        "import pathlib, pyarrow.parquet as pq\n"
        "files = pathlib.Path('/var/lib/pulse/export').glob('events/*/*.parquet')\n"
        "ids = [each for file in files for each in pq.read_table(file)['event_id'].to_pylist()]\n"
        "print(len(ids), len(set(ids)))"
    )
    said = stack.compose(*PROFILES, "run", "--rm", "--entrypoint", "python", "export", "-c", count)
    stored = stack.stored_count()
    assert said.split() == [f"{stored}", f"{stored}"]


def test_locusts_page_sends_to_the_api(locust_url: str) -> None:
    def stats() -> Any:
        return requests.get(f"{locust_url}/stats/requests", timeout=5).json()

    requests.post(f"{locust_url}/swarm", data={"user_count": 14, "spawn_rate": 14}, timeout=5).raise_for_status()
    sent = {"single event", "batch of 100"}
    eventually(lambda: sent <= {entry["name"] for entry in stats()["stats"]}, what="single events and batches sent")
    requests.post(f"{locust_url}/stop", timeout=5).raise_for_status()
    assert stats()["errors"] == []
