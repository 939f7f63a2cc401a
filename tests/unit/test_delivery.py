"""A worker, its own journal, and the journals of dead workers."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from api.journal.folders import claim_own
from api.journal.journal import DATA, Journal
from common.errors import JournalError
from common.settings import JournalSettings
from tests import MIB
from tests.apps import TOPIC, build_app
from tests.bad_disks import BROKEN, FULL, bad_disk
from tests.fakes import FakeBroker
from tests.journals import journalled
from tests.waiting import eventually

EVENT = {"customer_id": "alice", "event_type": "click"}


@pytest.fixture
def settings(tmp_path: Path) -> JournalSettings:
    # With sync, a test can fail the write of the page that commits a transaction, and no other write.
    return JournalSettings(tmp_path, max_bytes=MIB, sync="full")


@pytest.fixture
def left_behind(tmp_path: Path) -> Path:
    """The file of a journal of three events in worker-1. No worker uses worker-1 or worker-0."""
    own, gone = claim_own(tmp_path), claim_own(tmp_path)
    journal = Journal(gone.folder, max_bytes=MIB, sync=False)
    journal.append([journalled(number) for number in range(3)])
    journal.close()
    own.release()
    gone.release()
    return gone.folder / DATA


@pytest.fixture
def start(broker: FakeBroker, settings: JournalSettings) -> Iterator[Callable[[], Flask]]:
    """A function that starts a worker with its journal."""
    started: list[Flask] = []

    def start() -> Flask:
        app = build_app(broker, journal=settings)
        app.extensions["delivery"].start()
        started.append(app)
        return app

    yield start
    for app in started:
        end(app)


def end(app: Flask) -> None:
    """Release the delivery's resources, as the end of its process does."""
    delivery = app.extensions["delivery"]
    delivery.stop(30)
    delivery.queue.journal.close()
    delivery._claim.release()


def health(app: Flask) -> dict[str, Any]:
    document: dict[str, Any] = app.test_client().get("/health").get_json()
    return document


def metric(app: Flask, name: str) -> float:
    exposed = app.test_client().get("/metrics").get_data(as_text=True)
    return float(next(line.split()[1] for line in exposed.splitlines() if line.startswith(f"{name} ")))


def in_kafka(broker: FakeBroker) -> set[bytes | None]:
    return {record.value for record in broker.records(TOPIC)}


def test_sends_the_events_that_a_dead_worker_left(
    start: Callable[[], Flask], broker: FakeBroker, left_behind: Path
) -> None:
    app = start()
    eventually(lambda: in_kafka(broker) == {journalled(number) for number in range(3)})
    assert health(app)["checks"]["journal"]["unopened"] == {}


@pytest.fixture
def unreadable(left_behind: Path) -> Path:
    """The journal left behind: no process can open it, although it is not damaged."""
    left_behind.rename(left_behind.with_name("away"))
    left_behind.mkdir()
    return left_behind


def test_a_journal_left_behind_that_cannot_be_opened_is_shown(start: Callable[[], Flask], unreadable: Path) -> None:
    app = start()
    eventually(lambda: metric(app, "pulse_api_journal_unopened") == 1)
    unopened = health(app)["checks"]["journal"]["unopened"]
    assert list(unopened) == ["worker-1"]
    assert "Is a directory" in unopened["worker-1"]


def test_its_own_events_do_not_wait_for_a_journal_that_cannot_be_opened(
    start: Callable[[], Flask], broker: FakeBroker, unreadable: Path
) -> None:
    assert start().test_client().post("/api/v1/track", json=EVENT).status_code == 202
    eventually(lambda: len(in_kafka(broker)) == 1)


def test_a_journal_left_behind_is_sent_once_it_can_be_opened(
    start: Callable[[], Flask], broker: FakeBroker, unreadable: Path
) -> None:
    app = start()
    eventually(lambda: app.extensions["delivery"].unopened)
    unreadable.rmdir()
    unreadable.with_name("away").rename(unreadable)
    start()
    eventually(lambda: len(in_kafka(broker)) == 3)


def test_every_worker_shows_a_damaged_journal_left_behind(start: Callable[[], Flask], left_behind: Path) -> None:
    left_behind.write_bytes(left_behind.read_bytes().replace(b"event-1", b"event\0001"))
    first, second = start(), start()
    eventually(lambda: metric(first, "pulse_api_journal_set_aside_events") == 2)
    assert metric(second, "pulse_api_journal_set_aside_events") == 2
    found = health(second)["checks"]["journal"]["set_aside"]
    assert [(Path(aside["file"]).parent.name, aside["events"]) for aside in found] == [("worker-1", 2)]


def test_a_journal_set_aside_is_shown_until_its_file_is_gone(start: Callable[[], Flask], tmp_path: Path) -> None:
    app = start()
    assert metric(app, "pulse_api_journal_set_aside_events") == 0
    aside = tmp_path / "worker-0" / "damaged-20260131T120000Z-7-events.mdb"
    aside.touch()
    assert metric(app, "pulse_api_journal_set_aside_events") == 7
    aside.unlink()
    assert metric(app, "pulse_api_journal_set_aside_events") == 0


def test_a_restored_journal_is_deleted_once_it_is_sent(
    start: Callable[[], Flask], broker: FakeBroker, left_behind: Path, tmp_path: Path
) -> None:
    left_behind.parent.rename(tmp_path / "worker-restored-worker-1")
    start()
    eventually(lambda: len(in_kafka(broker)) == 3)
    eventually(lambda: not list(tmp_path.glob("worker-restored-*")))


@pytest.mark.parametrize(("device", "state"), [(FULL, "disk_full"), (BROKEN, "failing")])
def test_health_names_the_journals_state(start: Callable[[], Flask], tmp_path: Path, device: str, state: str) -> None:
    client = (app := start()).test_client()
    with bad_disk(device, tmp_path / "worker-0" / DATA):
        assert client.post("/api/v1/track", json=EVENT).status_code == 503
        assert health(app)["checks"]["journal"]["status"] == state
        assert client.get("/health/ready").status_code == 503
        assert client.get("/health/live").status_code == 200
    eventually(lambda: client.get("/health/ready").status_code == 200)


def test_an_error_of_a_journal_left_behind_is_shown_and_does_not_end_the_worker(
    start: Callable[[], Flask], broker: FakeBroker, left_behind: Path, terminated: list[int]
) -> None:
    broker.up = False
    app = start()
    eventually(lambda: app.extensions["delivery"].producer.failing, what="a failed send")
    with bad_disk(BROKEN, left_behind, synced_writes=True):
        broker.up = True
        eventually(lambda: app.extensions["delivery"].unopened == {"worker-1": "its disk returns errors"})
    assert len(in_kafka(broker)) == 3
    assert app.test_client().post("/api/v1/track", json=EVENT).status_code == 202
    assert terminated == []


@pytest.fixture
def terminated() -> Iterator[list[int]]:
    """The SIGTERMs that this process received."""
    got: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
    yield got
    signal.signal(signal.SIGTERM, before)


def test_a_fatal_journal_ends_the_worker(
    start: Callable[[], Flask], tmp_path: Path, terminated: list[int], broker: FakeBroker
) -> None:
    """Kafka is unavailable, so the producer still retries."""
    broker.up = False
    client = start().test_client()
    assert client.post("/api/v1/track", json=EVENT).status_code == 202
    with bad_disk(BROKEN, tmp_path / "worker-0" / DATA, synced_writes=True):
        refused = client.post("/api/v1/track", json=EVENT)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert terminated == [signal.SIGTERM]
    assert client.get("/health/live").status_code == 503
    eventually(lambda: not client.application.extensions["delivery"].producer.alive, what="the producer's end")


def test_the_next_worker_sends_the_events_of_a_fatal_journal(
    start: Callable[[], Flask], tmp_path: Path, terminated: list[int], broker: FakeBroker
) -> None:
    broker.up = False
    first = start()
    first.test_client().post("/api/v1/track", json=EVENT)
    with bad_disk(BROKEN, tmp_path / "worker-0" / DATA, synced_writes=True):
        first.test_client().post("/api/v1/track", json=EVENT)
    end(first)
    broker.up = True
    start()
    eventually(lambda: len(in_kafka(broker)) == 1)


def test_a_journal_that_cannot_be_opened_stops_the_start(broker: FakeBroker, settings: JournalSettings) -> None:
    settings.folder.joinpath("worker-0").touch()
    with pytest.raises(JournalError, match=r"API_JOURNAL_DIR: .*give a path that is a folder"):
        build_app(broker, journal=settings).extensions["delivery"].start()
