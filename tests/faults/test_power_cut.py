"""A power cut loses no accepted event with API_JOURNAL_SYNC=full, and with normal only those that docs/limits.md names.

A recorder logs each write and each sync of a real process. From one recording, the tests build many possible disks
after a power cut (tests/powercut). POWER_CUTS sets the number of moments per recording.

The database of `make run` loses no stored event either.
"""

import contextlib
import json
import logging
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pymongo
import pytest
import requests

from api.journal.folders import claim_own, open_journal, set_aside_files
from api.journal.journal import DATA, JournalState
from api.journal.power import MARK
from common.settings import MongoSettings
from consumer.writer import MongoWriter
from ops.local import mongodb as local_mongodb
from ops.local import ports
from tests import MIB, ROOT
from tests.clients import event
from tests.powercut import recorder
from tests.powercut.disk import Disk, Loss, Operation, recorded
from tests.powercut.writer import NOTES, numbered
from tests.servers import Process, api_without_kafka

T = TypeVar("T")

CUTS = int(os.environ.get("POWER_CUTS", "4"))
SEEDS = range(int(os.environ.get("POWER_CUT_SEEDS", "1")))

# The number of requests with entries in one page of the journal, if each is a large batch.
REQUESTS_A_PAGE = 150


@dataclass
class Known:
    """The state of the writer at some moment."""

    coming: set[int] = field(default_factory=set)
    answered: set[int] = field(default_factory=set)
    sent: set[int] = field(default_factory=set)
    deleted: set[int] = field(default_factory=set)
    commits: list[list[int]] = field(default_factory=list)

    def follow(self, operation: Operation) -> None:
        if operation.kind == "write" and operation.path.endswith(f"/{NOTES}"):
            for what, numbers in json.loads(operation.data).items():
                getattr(self, what).update(numbers)
                if what == "answered":
                    self.commits.append(numbers)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorder.build(tmp_path_factory.mktemp("recorder"))


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """A temporary folder in memory, if possible, since a journal syncs each commit."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="pulse-test-", dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder)


def record(library: Path, tmp_path: Path, sync: str, seed: int) -> tuple[Path, list[Operation]]:
    """The folder of a process with a journal, and its recorded operations."""
    folder, log = tmp_path / "disk", tmp_path / "log"
    folder.mkdir()
    environment = {**os.environ, **recorder.environment(library, folder, log)}
    command = [sys.executable, "-m", "tests.powercut.writer", str(folder), sync, str(seed), "600"]
    subprocess.run(command, env=environment, cwd=ROOT, check=True, timeout=60)
    return folder, list(recorded(log))


def moments(operations: list[Operation], chance: random.Random) -> list[int]:
    return sorted(chance.sample(range(1, len(operations)), CUTS))


def disks(
    folder: Path, operations: list[Operation], chance: random.Random
) -> Iterator[tuple[int, list[Operation], Disk]]:
    """Some moments of a recording: each with the operations since the previous one, and the disk at that moment."""
    disk, done = Disk(folder), 0
    for moment in moments(operations, chance):
        for operation in operations[done:moment]:
            disk.follow(operation)
        yield moment, operations[done:moment], disk
        done = moment


def promised(answered: Mapping[int, list[T]], last: Operation) -> set[T]:
    """What was answered before the call returned. `answered`: by the length of the recording at the answer."""
    return {one for end, several in answered.items() if end <= last.end for one in several}


def recovered(folder: Path, *, sync: bool) -> list[int]:
    """The numbers of the events that the next worker sends, in order. The journal must work after that.

    The machine has rebooted: the mark is of another boot.
    """
    mark = folder / "worker-0" / MARK
    if mark.exists():
        mark.write_bytes(b"an earlier boot")
    claim = claim_own(folder)
    journal = open_journal(claim.folder, max_bytes=64 * MIB, sync=sync)
    try:
        values, _ = journal.read(0, 1_000_000)
        numbers = [int(json.loads(value)["event_id"].removeprefix("event-")) for value in values]
        assert values == list(map(numbered, numbers)), "the journal has an event that no client sent"
        more = [numbered(5_000_000 + number) for number in range(300)]
        for number, value in enumerate(more):
            journal.append([value] * (1 if number % 3 else 40))
            if number == 100:
                half, position = journal.read(0, max(1, len(values) // 2))
                journal.acknowledge(position, len(half))
        left, position = journal.read(0, 1_000_000)
        assert set(left) >= {*values[len(half) :], *more} - set(half)
        journal.acknowledge(position, len(left))
        assert journal.events == 0
        assert journal.state is JournalState.ROOM
    finally:
        journal.close()
        claim.release()
    return numbers


@pytest.mark.parametrize("seed", SEEDS)
def test_with_full_a_journal_has_every_accepted_event_and_no_deleted_one(
    library: Path, tmp_path: Path, seed: int
) -> None:
    folder, operations = record(library, tmp_path, "full", seed)
    chance = random.Random(seed)
    known = Known()
    for moment, since, disk in disks(folder, operations, chance):
        for operation in since:
            known.follow(operation)
        for loss in chance.sample(list(Loss), 3):
            image = tmp_path / "image"
            disk.image(image, loss, chance)
            (image / "journal").mkdir(exist_ok=True)
            found = recovered(image / "journal", sync=True)
            why = f"{moment} of {len(operations)}, {loss}, seed {seed}"
            assert known.answered - known.sent <= set(found) <= known.coming - known.deleted, why
            assert found == sorted(set(found)), why
            assert not set_aside_files(image / "journal"), why
            shutil.rmtree(image)


@pytest.mark.parametrize("seed", SEEDS)
def test_with_normal_a_journal_lacks_only_late_events_and_has_no_mixed_ones(
    library: Path, tmp_path: Path, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    folder, operations = record(library, tmp_path, "normal", seed)
    chance = random.Random(seed)
    for moment in moments(operations, chance):
        written = max(0, moment - chance.choice([5, 50, 500, 2000]))
        disk, known, before = Disk(folder), Known(), Known()
        for operation in operations[:written]:
            disk.follow(operation)
            known.follow(operation)
            before.follow(operation)
        disk.write_back()
        for operation in operations[written:moment]:
            disk.follow(operation)
            known.follow(operation)
        for loss in chance.sample(list(Loss), 3):
            image = tmp_path / "image"
            disk.image(image, loss, chance)
            (image / "journal").mkdir(exist_ok=True)
            found = recovered(image / "journal", sync=False)
            why = f"{moment} of {len(operations)}, written at {written}, {loss}, seed {seed}"
            assert set(found) <= known.coming, why
            assert found == sorted(set(found)), why
            lost = (before.answered - known.sent) - set(found)
            assert lost <= _in_rewritten_pages(before, known), why
            shutil.rmtree(image)


def _in_rewritten_pages(before: Known, known: Known) -> set[int]:
    """The events that shared a page with events added or deleted after the disk had all data."""
    waiting = [numbers for numbers in before.commits if not known.sent.issuperset(numbers)]
    return {number for numbers in waiting[:REQUESTS_A_PAGE] + waiting[-REQUESTS_A_PAGE:] for number in numbers}


def test_a_journal_without_the_mark_of_an_earlier_boot_is_not_rebuilt(tmp_path: Path) -> None:
    """A killed process loses no event, and after a clean close, a reboot needs no rebuild."""
    claim = claim_own(tmp_path)
    journal = open_journal(claim.folder, max_bytes=MIB, sync=False)
    assert (claim.folder / MARK).exists()
    inode = (claim.folder / DATA).stat().st_ino
    journal._environment.close()
    open_journal(claim.folder, max_bytes=MIB, sync=False).close()
    assert (claim.folder / DATA).stat().st_ino == inode
    assert not (claim.folder / MARK).exists()
    (claim.folder / MARK).write_bytes(b"an earlier boot")
    open_journal(claim.folder, max_bytes=MIB, sync=False).close()
    assert (claim.folder / DATA).stat().st_ino != inode
    claim.release()


@pytest.fixture
def recorded_api(library: Path, tmp_path: Path) -> tuple[Path, Path, dict[int, list[str]]]:
    """The folder and the recording of an API with `full`, and the accepted ids by the length of the recording."""
    folder, log = tmp_path / "disk", tmp_path / "log"
    folder.mkdir()
    environment = recorder.environment(library, folder, log)
    answered: dict[int, list[str]] = {}
    journal = {"API_JOURNAL_DIR": str(folder / "var" / "journal"), "API_JOURNAL_SYNC": "full"}
    with api_without_kafka(tmp_path, **journal, **environment) as api, requests.Session() as session:
        for number in range(60):
            events = [event("alice", 100 * number + offset) for offset in range(25 if number % 3 == 0 else 1)]
            answer = session.post(f"{api.url}/api/v1/track/batch", json={"events": events}, timeout=30)
            assert answer.status_code == 202
            answered[log.stat().st_size] = answer.json()["event_ids"]
    return folder, log, answered


@pytest.mark.long
def test_with_full_an_api_keeps_each_event_accepted_before_the_cut(
    recorded_api: tuple[Path, Path, dict[int, list[str]]], tmp_path: Path
) -> None:
    folder, log, answered = recorded_api
    operations = list(recorded(log))
    chance = random.Random(1)
    for moment, _, disk in disks(folder, operations, chance):
        image = tmp_path / "image"
        disk.image(image, chance.choice(list(Loss)), chance)
        claim = claim_own(image / "var" / "journal")
        journal = open_journal(claim.folder, max_bytes=64 * MIB, sync=True)
        found = {json.loads(value)["event_id"] for value in journal.read(0, 1_000_000)[0]}
        journal.close()
        claim.release()
        assert promised(answered, operations[moment - 1]) <= found
        shutil.rmtree(image)


@contextlib.contextmanager
def database(data: Path, folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[MongoSettings]:
    """A running SecantusDB with this folder for its data."""
    port = ports.free_port()
    process = Process(local_mongodb.command(data, port), folder / "mongodb.log", environment)
    process.start()
    try:
        ports.wait_until_answers(port, 60)
        yield MongoSettings(f"mongodb://127.0.0.1:{port}", "pulse", "events", None)
    finally:
        process.kill()


@pytest.mark.long
def test_the_local_database_keeps_each_event_stored_before_the_cut(library: Path, tmp_path: Path) -> None:
    folder, log = tmp_path / "disk", tmp_path / "log"
    folder.mkdir()
    answered: dict[int, list[int]] = {}
    with database(folder / "data", tmp_path, recorder.environment(library, folder, log)) as settings:
        writer = MongoWriter(settings)
        writer.ensure_indexes()
        for first in range(0, 600, 6):
            numbers = [*range(first, first + 6)]
            writer.write([event("alice", number) for number in numbers])
            answered[log.stat().st_size] = numbers
        writer.close()
    operations = list(recorded(log))
    chance = random.Random(1)
    for moment, _, disk in disks(folder, operations, chance):
        for loss in chance.sample(list(Loss), 3):
            image = tmp_path / "image"
            disk.image(image, loss, chance)
            with (
                database(image / "data", tmp_path) as settings,
                pymongo.MongoClient[dict[str, Any]](settings.uri) as client,
            ):
                found = [each["properties"]["number"] for each in client["pulse"]["events"].find()]
            assert promised(answered, operations[moment - 1]) <= set(found), f"{moment} of {len(operations)}, {loss}"
            assert len(found) == len(set(found))
            shutil.rmtree(image)
