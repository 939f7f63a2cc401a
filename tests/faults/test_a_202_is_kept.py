"""Each event answered 202 reaches Kafka, in the order of its customer, if processes die and disks fail."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from ops.local.ports import free_port
from tests import MIB, ROOT
from tests.arrived import in_kafka
from tests.clients import Client, SteadyClient, event
from tests.contracts import fresh_name
from tests.servers import ApiServer, KafkaServer
from tests.small_disks import MountError, mounted
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(240)


class Scene:
    """An API with two workers, and a Kafka of its own."""

    def __init__(self, libs: Path, folder: Path, **env: str) -> None:
        self.broker = KafkaServer(libs, folder)
        self.broker.start()
        self.kafka = self.broker.create_topics(fresh_name("events"))
        topics = {
            "KAFKA_TOPIC": self.kafka.topic,
            "KAFKA_DLQ_TOPIC": self.kafka.dlq_topic,
            "KAFKA_REFUSED_TOPIC": self.kafka.refused_topic or "",
        }
        self.api = ApiServer(folder, {"KAFKA_BROKERS": self.broker.address, **topics, **env})
        self.api.start()
        self.api.wait_until_ready()

    def restart_api(self) -> None:
        self.api.start()
        self.api.wait_until_ready()

    def send(self, customer: str, count: int) -> list[str]:
        """Send N numbered events in batches of 100 over one connection; all must be accepted. Returns their ids."""
        events = [event(customer, number) for number in range(count)]
        with requests.Session() as session:
            for first in range(0, count, 100):
                batch = {"events": events[first : first + 100]}
                answer = session.post(f"{self.api.url}/api/v1/track/batch", json=batch, timeout=30)
                assert answer.status_code == 202, answer.text
        return [sent["event_id"] for sent in events]

    def in_kafka(self, count: int) -> dict[str, list[int]]:
        """For each customer, the numbers of the events in Kafka in order of first arrival, once Kafka has N."""
        return in_kafka(self.kafka, count)

    def kill(self) -> None:
        self.api.kill()
        self.broker.kill()


@pytest.fixture
def scene(kafka_libs: Path, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(kafka_libs, tmp_path)
    yield scene
    scene.kill()


def test_events_that_wait_for_kafka_survive_kill_9_of_the_whole_api(scene: Scene) -> None:
    scene.broker.kill()
    scene.send("alice", 2000)
    scene.api.kill()
    scene.broker.start()
    scene.restart_api()
    assert scene.in_kafka(2000) == {"alice": list(range(2000))}
    assert "the journal holds earlier events; they are sent first" in scene.api.output()


def test_events_accepted_at_full_speed_survive_kill_9_of_the_whole_api(scene: Scene) -> None:
    clients = [Client(scene.api.url, f"customer-{number}", 9000, batch=100) for number in range(4)]
    for client in clients:
        client.start()
    eventually(lambda: sum(client.accepted for client in clients) > 12_000, what="12,000 events accepted")
    scene.api.kill()
    scene.restart_api()
    for client in clients:
        client.join(90)
    found = scene.in_kafka(36_000)
    assert {customer: sorted(numbers) for customer, numbers in found.items()} == {
        client.name: list(range(9000)) for client in clients
    }


def test_an_outage_of_kafka_for_10_s_costs_no_event_and_no_answer(scene: Scene) -> None:
    """400 events a second for 40 s; the Go edition loses 3,100 of these 16,000."""
    clients = [SteadyClient(scene.api.url, f"customer-{number}", 4000, rate=100) for number in range(4)]
    for client in clients:
        client.start()
    clients[0].join(10)
    scene.broker.kill()
    clients[0].join(10)
    scene.broker.start()
    for client in clients:
        client.join(90)
    assert sum((client.answers for client in clients), Counter()) == {202: 16_000}
    assert scene.in_kafka(16_000) == {client.name: list(range(4000)) for client in clients}


def test_events_survive_kill_9_of_one_worker(scene: Scene) -> None:
    scene.broker.kill()
    scene.send("alice", 1000)
    scene.send("ben", 1000)
    os.kill(min(scene.api.worker_pids()), signal.SIGKILL)
    scene.broker.start()
    assert scene.in_kafka(2000) == {"alice": list(range(1000)), "ben": list(range(1000))}


def test_events_survive_the_death_of_the_producer_thread(scene: Scene, tmp_path: Path) -> None:
    scene.api.stop()
    scene.api.command[-1] = "tests.faults.dying_producer:app"
    dies = tmp_path / "dies"
    # With two workers, the client would continue at the other one, and only one worker keeps the order.
    scene.api.env |= {"API_WORKERS": "1", "PRODUCER_DIES_WHILE": str(dies)}
    dies.touch()
    scene.restart_api()
    scene.send("alice", 1000)
    eventually(lambda: "the producer thread died" in scene.api.output(), what="the producer's death")
    dies.unlink()
    assert scene.in_kafka(1000) == {"alice": list(range(1000))}


def test_events_survive_a_fatal_error_of_their_journal(scene: Scene, tmp_path: Path) -> None:
    """The worker exits, and the next one opens the journal again. Kafka is down, so only the journal has the events."""
    scene.api.stop()
    scene.api.command[-1] = "tests.faults.breaking_journal:app"
    breaks = tmp_path / "breaks"
    scene.api.env |= {"API_WORKERS": "1", "API_JOURNAL_SYNC": "full", "JOURNAL_BREAKS": str(breaks)}
    scene.restart_api()
    scene.broker.kill()
    scene.send("alice", 1000)
    (before,) = scene.api.worker_pids()
    breaks.touch()
    eventually(lambda: not breaks.exists(), what="the failure of the journal")
    answer = requests.post(f"{scene.api.url}/api/v1/track", json=event("alice", 1000), timeout=30)
    assert answer.status_code == 503
    eventually(lambda: scene.api.worker_pids() - {before}, what="the next worker")
    scene.api.wait_until_ready()
    scene.broker.start()
    assert scene.in_kafka(1000) == {"alice": list(range(1000))}


def test_50_000_events_wait_for_kafka_and_arrive_in_order(scene: Scene) -> None:
    scene.broker.kill()
    scene.send("alice", 50_000)
    scene.broker.start()
    assert scene.in_kafka(50_000) == {"alice": list(range(50_000))}


def test_sigterm_without_kafka_keeps_waiting_events_for_the_next_start(scene: Scene) -> None:
    scene.broker.kill()
    scene.send("alice", 2000)
    assert scene.api.stop(timeout=60) == 0
    assert "events stay in the journal" in scene.api.output()
    scene.broker.start()
    scene.restart_api()
    assert scene.in_kafka(2000) == {"alice": list(range(2000))}


def test_fewer_workers_send_the_events_of_the_others(scene: Scene) -> None:
    scene.broker.kill()
    for number in range(8):
        scene.send(f"customer-{number}", 100)
    scene.api.kill()
    scene.broker.start()
    scene.api.env["API_WORKERS"] = "1"
    scene.restart_api()
    assert scene.in_kafka(800) == {f"customer-{number}": list(range(100)) for number in range(8)}


def test_the_api_starts_with_a_damaged_journal_and_logs_it(scene: Scene, tmp_path: Path) -> None:
    scene.broker.kill()
    scene.send("alice", 2000)
    scene.api.kill()
    for file in (tmp_path / "journal").glob("*/data.mdb"):
        file.write_bytes(file.read_bytes()[:8192])
    scene.broker.start()
    scene.restart_api()
    # The API is ready with one worker; the other one may still check its journal.
    eventually(lambda: "a damaged journal was set aside" in scene.api.output(), what="the log line about the damage")


def test_a_command_restores_the_events_of_a_damaged_journal(scene: Scene, tmp_path: Path) -> None:
    scene.api.stop()
    scene.api.env["API_WORKERS"] = "1"
    scene.restart_api()
    scene.broker.kill()
    scene.send("alice", 2000)
    scene.api.kill()
    with (tmp_path / "journal" / "worker-0" / "data.mdb").open("r+b") as damaged:
        # The pages from which LMDB finds all others.
        damaged.write(b"\0" * 8192)
    scene.broker.start()
    scene.restart_api()
    assert "pulse_api_journal_set_aside_events 2000.0" in requests.get(f"{scene.api.url}/metrics", timeout=10).text
    assert requests.get(f"{scene.api.url}/health", timeout=10).json()["status"] == "degraded"
    command = [sys.executable, "-m", "api.journal", "restore"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, **scene.api.env}, check=True, timeout=60)
    assert "pulse_api_journal_set_aside_events 0.0" in requests.get(f"{scene.api.url}/metrics", timeout=10).text
    scene.api.stop()
    scene.restart_api()
    assert scene.in_kafka(2000) == {"alice": list(range(2000))}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        with mounted(folder, 4 * MIB):
            yield folder
    except MountError as error:
        pytest.skip(str(error))


def test_a_full_disk_is_answered_503_and_loses_no_event_repeatedly(
    kafka_libs: Path, tmp_path: Path, small_disk: Path
) -> None:
    scene = Scene(kafka_libs, tmp_path, API_JOURNAL_DIR=str(small_disk), API_WORKERS="1")
    try:
        events = [event("alice", number) for number in range(50_000)]
        accepted = 0
        for _ in range(2):
            scene.broker.kill()
            before = accepted
            while True:
                batch = {"events": events[accepted : accepted + 100]}
                answer = requests.post(f"{scene.api.url}/api/v1/track/batch", json=batch, timeout=30)
                if answer.status_code != 202:
                    break
                accepted += 100
            assert answer.status_code == 503
            assert accepted > before
            assert requests.get(f"{scene.api.url}/health/ready", timeout=5).status_code == 503
            scene.broker.start()
            assert scene.in_kafka(accepted) == {"alice": list(range(accepted))}
            eventually(lambda: requests.get(f"{scene.api.url}/health/ready", timeout=5).ok, what="room again")
    finally:
        scene.kill()


@pytest.mark.long
def test_after_a_lowered_limit_on_a_full_disk_all_events_are_sent_and_new_ones_accepted(
    kafka_libs: Path, tmp_path: Path, small_disk: Path
) -> None:
    scene = Scene(kafka_libs, tmp_path, API_JOURNAL_DIR=str(small_disk), API_WORKERS="1")
    url = f"{scene.api.url}/api/v1/track/batch"
    try:
        scene.broker.kill()
        events = [event("alice", number) for number in range(50_000)]
        accepted = 0
        while requests.post(url, json={"events": events[accepted : accepted + 100]}, timeout=30).status_code == 202:
            accepted += 100
        scene.api.kill()
        scene.api.env["API_JOURNAL_MAX_BYTES"] = "1MiB"
        scene.api.start()
        eventually(lambda: journal(scene)["status"] == "lowered", what="the lowered limit")
        answer = requests.post(url, json={"events": events[accepted : accepted + 100]}, timeout=30)
        assert (answer.status_code, "was lowered" in answer.json()["message"]) == (503, True)
        scene.broker.start()
        assert scene.in_kafka(accepted) == {"alice": list(range(accepted))}
        eventually(lambda: requests.get(f"{scene.api.url}/health/ready", timeout=5).ok, what="room again")
        assert journal(scene)["events"] == 0
        scene.api.kill()
        scene.restart_api()
        assert "the journal holds earlier events" not in scene.api.output().rpartition("Starting gunicorn")[2]
    finally:
        scene.kill()


def journal(scene: Scene) -> dict[str, Any]:
    """The journal of the only worker in /health; its status is `away` while the API does not answer."""
    try:
        checks = requests.get(f"{scene.api.url}/health", timeout=5).json()["checks"]
    except requests.ConnectionError:
        return {"status": "away"}
    found: dict[str, Any] = checks["journal"]
    return found


def test_two_instances_can_share_a_journal_folder(scene: Scene, tmp_path: Path) -> None:
    scene.broker.kill()
    (tmp_path / "second").mkdir()
    second = ApiServer(tmp_path / "second", {**scene.api.env, "API_ADDR": f"127.0.0.1:{free_port()}"})
    second.url = f"http://{second.env['API_ADDR']}"
    second.start()
    second.wait_until_ready()
    first, scene.api = scene.api, second
    scene.send("alice", 500)
    scene.api = first
    scene.send("ben", 500)
    second.kill()
    first.kill()
    scene.broker.start()
    scene.restart_api()
    assert scene.in_kafka(1000) == {"alice": list(range(500)), "ben": list(range(500))}


def test_sigterm_with_10_000_events_waiting_sends_them_all(scene: Scene) -> None:
    scene.broker.kill()
    scene.send("alice", 10_000)
    scene.broker.start()
    assert scene.api.stop() == 0
    assert scene.in_kafka(10_000) == {"alice": list(range(10_000))}
