"""The journal: accepted events on disk."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from api.journal.journal import Journal, JournalState
from common.errors import JournalFullError
from tests import MIB, ROOT


@pytest.fixture
def reopen(tmp_path: Path) -> Iterator[Callable[[], Journal]]:
    """A function that opens the journal again, as the next process does."""
    opened: list[Journal] = []

    def reopen() -> Journal:
        close_all()
        opened.append(Journal(tmp_path, max_bytes=8 * MIB, sync=False))
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
    """A limit on this process: no file can grow beyond the size of the journal."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((folder / "data.mdb").stat().st_size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_reads_events_in_the_order_of_their_appends(journal: Journal) -> None:
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


def test_reads_on_from_a_position(journal: Journal) -> None:
    position = journal.append(values(1, 2))
    journal.append(values(3))
    assert journal.read(position, 100)[0] == values(3)


def test_deletes_acknowledged_events(journal: Journal) -> None:
    position = journal.append(values(1, 2))
    journal.append(values(3))
    journal.acknowledge(position, 2)
    assert journal.read(0, 100)[0] == values(3)


def test_counts_its_events(journal: Journal) -> None:
    position = journal.append(values(1, 2))
    journal.append(values(3))
    journal.acknowledge(position, 2)
    assert journal.events == 1


def test_keeps_all_events_over_a_restart(journal: Journal, reopen: Callable[[], Journal]) -> None:
    journal.append(values(1, 2))
    again = reopen()
    assert (again.events, again.read(0, 100)[0]) == (2, values(1, 2))


def test_positions_grow_over_a_restart(journal: Journal, reopen: Callable[[], Journal]) -> None:
    before = journal.append(values(1))
    assert reopen().append(values(2)) > before


def test_refuses_events_beyond_its_limit(journal: Journal) -> None:
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


def test_is_up_well_below_its_limit_and_full_at_it(journal: Journal) -> None:
    large = [b'"%s"' % (b"x" * 100_000)]
    while journal.used_bytes < 7 * MIB:
        journal.append(large)
    assert journal.state.value == "up"
    with pytest.raises(JournalFullError):
        while True:
            journal.append(large)
    assert journal.state is JournalState.FULL


@pytest.mark.parametrize("size", [288, 3000, 36_000], ids=["single events", "large events", "batches"])
def test_deletes_events_on_a_disk_that_other_programs_have_filled(journal: Journal, tmp_path: Path, size: int) -> None:
    """LMDB needs free pages to delete events, so it deletes a few, which frees pages for more."""
    while journal.used_bytes < 6 * MIB:
        position = journal.append([b'"%s"' % (b"x" * size)])
    with full_disk(tmp_path):
        journal.acknowledge(position, journal.events)
        while journal.events:
            before = journal.events
            journal.recover()
            assert journal.events < before


@pytest.mark.parametrize("size", [300, 36_000], ids=["single events", "batches"])
def test_deletes_events_on_a_disk_that_it_has_filled_itself(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    def fill() -> int:
        with pytest.raises(JournalFullError):
            while True:
                journal.append([b'"%s"' % (b"x" * size)])
        assert journal.state is JournalState.DISK_FULL
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
        assert journal.state is JournalState.ROOM
    filled = fill()
    monkeypatch.undo()
    for _ in range(100):
        journal.append(values(1))
    assert journal.events == filled + 100


@pytest.mark.parametrize("sync", [False, True], ids=["normal", "full"])
def test_only_with_sync_each_append_is_written_to_the_disk(tmp_path: Path, sync: bool) -> None:
    """LMDB syncs the pages of the append (sync) and the page that commits it (metasync)."""
    journal = Journal(tmp_path, max_bytes=MIB, sync=sync)
    flags = journal._environment.flags()
    journal.close()
    assert (flags["sync"], flags["metasync"]) == (sync, sync)


def test_appended_events_survive_kill_9(tmp_path: Path, reopen: Callable[[], Journal]) -> None:
    script = (
        "import os, sys; from pathlib import Path; from api.journal.journal import Journal;"
        "Journal(Path(sys.argv[1]), max_bytes=1 << 20, sync=False).append([b'1', b'2']);"
        "os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=False, timeout=30)
    assert killed.returncode == -9
    assert reopen().read(0, 100)[0] == [b"1", b"2"]
