"""Accepted events on disk."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from api.journal import Journal, claim_left_behind, claim_own, open_journal
from common.errors import JournalFullError
from tests.servers import ROOT

MIB = 1024 * 1024


@pytest.fixture
def reopen(tmp_path: Path) -> Iterator[Callable[[], Journal]]:
    """Opens the journal anew, as the next process would."""
    opened: list[Journal] = []

    def reopen() -> Journal:
        close_all()
        opened.append(open_journal(tmp_path, max_bytes=8 * MIB, sync=False))
        return opened[-1]

    def close_all() -> None:
        while opened:
            opened.pop().close()

    yield reopen
    close_all()


@pytest.fixture
def journal(reopen: Callable[[], Journal]) -> Journal:
    return reopen()


def values(*numbers: int) -> list[bytes]:
    return [b'{"n":%d}' % number for number in numbers]


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """No file of this process can grow beyond the journal's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((folder / "data.mdb").stat().st_size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_gives_back_what_was_appended_in_order(journal: Journal) -> None:
    journal.append(values(1, 2))
    journal.append(values(3))
    assert journal.read(0, 100)[0] == values(1, 2, 3)


def test_reads_whole_requests_until_there_are_enough(journal: Journal) -> None:
    for first in (0, 10, 20):
        journal.append(values(*range(first, first + 10)))
    assert len(journal.read(0, 15)[0]) == 20


def test_reads_whole_requests_until_there_are_enough_bytes(journal: Journal) -> None:
    for first in (0, 10, 20):
        journal.append([b"%d" % number * 100 for number in range(first + 10, first + 20)])
    assert len(journal.read(0, 100, 2010)[0]) == 20
    assert len(journal.read(0, 100, 1)[0]) == 10


def test_goes_on_reading_after_a_position(journal: Journal) -> None:
    position = journal.append(values(1, 2))
    journal.append(values(3))
    assert journal.read(position, 100)[0] == values(3)


def test_forgets_what_is_acknowledged(journal: Journal) -> None:
    position = journal.append(values(1, 2))
    journal.append(values(3))
    journal.acknowledge(position, 2)
    assert journal.read(0, 100)[0] == values(3)


def test_counts_its_events(journal: Journal) -> None:
    position = journal.append(values(1, 2))
    journal.append(values(3))
    journal.acknowledge(position, 2)
    assert journal.events == 1


def test_keeps_everything_over_a_restart(journal: Journal, reopen: Callable[[], Journal]) -> None:
    journal.append(values(1, 2))
    again = reopen()
    assert (again.events, again.read(0, 100)[0]) == (2, values(1, 2))


def test_positions_grow_over_a_restart(journal: Journal, reopen: Callable[[], Journal]) -> None:
    before = journal.append(values(1))
    assert reopen().append(values(2)) > before


def test_refuses_what_goes_beyond_its_limit(journal: Journal) -> None:
    large = [b'"%s"' % (b"x" * 100_000)]
    with pytest.raises(JournalFullError):
        for _ in range(100):
            journal.append(large)
    assert 7 * MIB < journal.used_bytes <= 8 * MIB


def test_has_room_again_after_an_acknowledgement(journal: Journal) -> None:
    large = [b'"%s"' % (b"x" * 100_000)]
    appended = []
    with pytest.raises(JournalFullError):
        while True:
            appended.append(journal.append(large))
    journal.acknowledge(appended[9], 10)
    journal.append(large)


def test_says_when_it_is_nearly_full(journal: Journal) -> None:
    large = [b'"%s"' % (b"x" * 100_000)]
    while journal.used_bytes < 7 * MIB:
        journal.append(large)
    assert not journal.nearly_full
    with pytest.raises(JournalFullError):
        while True:
            journal.append(large)
    assert journal.nearly_full


def test_a_full_disk_refuses_until_there_is_room_again(journal: Journal, tmp_path: Path) -> None:
    journal.append(values(1))
    with full_disk(tmp_path):
        with pytest.raises(JournalFullError):
            journal.append([b'"%s"' % (b"x" * 100_000)])
        assert journal.nearly_full
    journal.append(values(2))
    assert not journal.nearly_full
    assert journal.read(0, 100)[0] == values(1, 2)


def test_what_a_full_disk_lets_nobody_delete_goes_with_the_next(
    journal: Journal, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(500):
        position = journal.append([b'"%s"' % (b"x" * 3000)])
    with full_disk(tmp_path):
        journal.acknowledge(position, 500)
    assert "the journal forgets nothing" in caplog.text
    assert journal.events == 0
    journal.acknowledge(journal.append(values(1)), 1)
    assert journal.read(0, 100)[0] == []


@pytest.mark.parametrize("size", [300, 36_000], ids=["single events", "batches"])
def test_a_disk_that_it_has_filled_itself_never_keeps_it_from_forgetting(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    def fill() -> int:
        with pytest.raises(JournalFullError):
            while True:
                journal.append([b'"%s"' % (b"x" * size)])
        assert journal.nearly_full
        return journal.events

    for _ in range(50):
        journal.append([b'"%s"' % (b"x" * 36_000)])
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=100, f_frsize=4096))
    fill()
    journal.acknowledge(journal._last_position(), journal.events)
    for _ in range(5):
        assert fill() > 0
        with full_disk(tmp_path):
            journal.acknowledge(journal._last_position(), journal.events)
        assert journal.read(0, 1)[0] == []
        assert not journal.nearly_full
    filled = fill()
    monkeypatch.undo()
    for _ in range(100):
        journal.append(values(1))
    assert journal.events == filled + 100


@pytest.mark.parametrize("sync", [False, True], ids=["normal", "full"])
def test_only_with_sync_each_append_is_written_to_the_disk(tmp_path: Path, sync: bool) -> None:
    """Both its pages and the page that says which of them count."""
    journal = Journal(tmp_path, max_bytes=MIB, sync=sync)
    flags = journal._environment.flags()
    journal.close()
    assert (flags["sync"], flags["metasync"]) == (sync, sync)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:8192] + b"\0" * (len(data) - 8192),
        lambda data: b"rubbish" * 10_000,
        lambda data: data.replace(b'{"n":77}', b'{"n":7\0}'),
    ],
    ids=["cut off", "zeroed", "overwritten", "a byte changed"],
)
def test_a_damaged_journal_is_set_aside(
    damage: Callable[[bytes], bytes], journal: Journal, reopen: Callable[[], Journal], tmp_path: Path
) -> None:
    for number in range(2000):
        journal.append(values(number))
    journal.close()
    file = tmp_path / "data.mdb"
    file.write_bytes(damage(file.read_bytes()))
    assert reopen().events == 0
    assert len(list(tmp_path.glob("damaged-*.mdb"))) == 1


def test_what_was_appended_survives_kill_9(tmp_path: Path, reopen: Callable[[], Journal]) -> None:
    script = (
        "import os, sys; from pathlib import Path; from api.journal import Journal;"
        "Journal(Path(sys.argv[1]), max_bytes=1 << 20, sync=False).append([b'1', b'2']);"
        "os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=False, timeout=30)
    assert killed.returncode == -9
    assert reopen().read(0, 100)[0] == [b"1", b"2"]


def test_each_worker_has_a_folder_of_its_own(tmp_path: Path) -> None:
    claims = [claim_own(tmp_path) for _ in range(3)]
    assert [claim.folder.name for claim in claims] == ["worker-0", "worker-1", "worker-2"]
    for claim in claims:
        claim.release()


def test_a_new_worker_takes_the_folder_of_a_dead_one(tmp_path: Path) -> None:
    first, second = claim_own(tmp_path), claim_own(tmp_path)
    first.release()
    again = claim_own(tmp_path)
    assert again.folder == first.folder
    again.release()
    second.release()


def test_only_the_folders_of_dead_workers_are_left_behind(tmp_path: Path) -> None:
    dead, living = claim_own(tmp_path), claim_own(tmp_path)
    dead.release()
    found = []
    for claim in claim_left_behind(tmp_path):
        found.append(claim.folder)
        claim.release()
    assert found == [dead.folder]
    living.release()


def test_a_journal_that_cannot_be_checked_is_left_alone(
    journal: Journal, reopen: Callable[[], Journal], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.append(values(1))
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(OSError, match="cannot be checked"):
        reopen()
    monkeypatch.undo()
    assert reopen().events == 1
