"""The states of a journal and their transitions, as docs/architecture.md shows them."""

import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import lmdb
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from api.journal.journal import DATA, Journal, JournalState
from common.errors import JournalError, JournalFullError
from tests import MIB
from tests.bad_disks import BROKEN, FULL, bad_disk

LARGE = [b'"%s"' % (b"x" * 100_000)]

Opener = Callable[..., Journal]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opener]:
    """A function that opens the journal, and closes it first if it is open."""
    journals: list[Journal] = []

    def opened(max_bytes: int = 2 * MIB, *, sync: bool = False, on_fatal: Callable[[], None] = lambda: None) -> Journal:
        for journal in journals:
            journal.close()
        journals[:] = [Journal(tmp_path, max_bytes=max_bytes, sync=sync, on_fatal=on_fatal)]
        return journals[0]

    yield opened
    for journal in journals:
        journal.close()


def fill(journal: Journal) -> list[int]:
    """Append until the journal refuses; returns the positions."""
    positions = []
    try:
        while True:
            positions.append(journal.append(LARGE))
    except JournalFullError:
        return positions


def refusal(journal: Journal) -> str:
    with pytest.raises(JournalFullError) as refused:
        journal.append(LARGE)
    return refused.value.reason


def disk(device: str, folder: Path) -> AbstractContextManager[None]:
    return bad_disk(device, folder / DATA)


def test_room_becomes_full_at_the_limit(opened: Opener) -> None:
    journal = opened()
    assert journal.state is JournalState.ROOM
    fill(journal)
    assert (journal.state, refusal(journal)) == (JournalState.FULL, "journal_full")


def test_never_accepts_one_byte_more_than_the_limit(opened: Opener) -> None:
    journal = opened()
    sizes = itertools.cycle([300, 3000, 36_000])
    with pytest.raises(JournalFullError):
        while True:
            journal.append([b"x" * next(sizes)])
    assert journal.used_bytes <= journal.max_bytes


def test_full_becomes_room_after_an_acknowledgement(opened: Opener) -> None:
    journal = opened()
    journal.acknowledge(fill(journal)[9], 10)
    assert journal.state is JournalState.ROOM


def test_a_limit_below_its_size_makes_it_lowered(opened: Opener) -> None:
    fill(opened(8 * MIB))
    journal = opened(MIB)
    assert (journal.state, refusal(journal)) == (JournalState.LOWERED, "journal_lowered")


def test_lowered_accepts_events_again_well_below_the_limit(opened: Opener) -> None:
    positions = fill(opened(4 * MIB))
    journal = opened(MIB)
    states = []
    for position in positions:
        journal.acknowledge(position, 1)
        states.append(journal.state)
    assert list(dict.fromkeys(states)) == [JournalState.LOWERED, JournalState.FULL, JournalState.ROOM]


@pytest.mark.parametrize("size", [300, 36_000], ids=["single events", "batches"])
def test_all_events_can_be_deleted_under_a_lowered_limit(opened: Opener, size: int) -> None:
    """The file is larger than the map for the new limit, which would leave no spare page to delete with."""
    journal = opened(100 * MIB)
    while journal.used_bytes < 80 * MIB:
        last = journal.append([b"x" * size])
    events = journal.events
    journal = opened(MIB)
    journal.acknowledge(last, events)
    while journal.events:
        before = journal.events
        journal.recover()
        assert journal.events < before
    assert opened(MIB).events == 0


def test_a_full_disk_makes_it_disk_full(opened: Opener, tmp_path: Path) -> None:
    journal = opened()
    with disk(FULL, tmp_path):
        assert (refusal(journal), journal.state) == ("disk_full", JournalState.DISK_FULL)


def test_disk_full_becomes_room_with_an_event_that_fits(opened: Opener, tmp_path: Path) -> None:
    journal = opened()
    with disk(FULL, tmp_path):
        refusal(journal)
    journal.append(LARGE)
    assert journal.state is JournalState.ROOM


@pytest.mark.parametrize("device", [FULL, BROKEN])
def test_a_repaired_disk_is_noticed_without_an_event(opened: Opener, tmp_path: Path, device: str) -> None:
    """While a probe says "not ready", no events arrive that could show the repair."""
    journal = opened()
    with disk(device, tmp_path):
        refusal(journal)
        journal.recover()
        assert journal.state in {JournalState.DISK_FULL, JournalState.FAILING}
    journal.recover()
    assert journal.state.value == "up"


def test_an_error_of_the_disk_is_not_reported_as_a_full_disk(
    opened: Opener, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = opened()
    with disk(BROKEN, tmp_path):
        assert (refusal(journal), journal.state) == ("journal_failing", JournalState.FAILING)
    assert "Input/output error" in caplog.records[-1].error  # type: ignore[attr-defined]


def test_failing_becomes_room_with_an_event_that_is_written(opened: Opener, tmp_path: Path) -> None:
    journal = opened()
    with disk(BROKEN, tmp_path):
        refusal(journal)
    journal.append(LARGE)
    assert journal.state is JournalState.ROOM


@pytest.mark.parametrize("device", [FULL, BROKEN])
def test_acknowledged_events_that_cannot_be_deleted_count_as_kept_only(
    opened: Opener, tmp_path: Path, device: str
) -> None:
    journal = opened()
    position = journal.append([b"1", b"2"])
    journal.append([b"3"])
    with disk(device, tmp_path):
        journal.acknowledge(position, 2)
    assert (journal.events, journal.unacknowledged) == (3, 1)


def test_acknowledged_events_that_cannot_be_deleted_are_not_read_again(opened: Opener, tmp_path: Path) -> None:
    journal = opened()
    position = journal.append([b"1", b"2"])
    journal.append([b"3"])
    with disk(FULL, tmp_path):
        journal.acknowledge(position, 2)
    assert journal.read(0, 100)[0] == [b"3"]


def test_acknowledged_events_that_could_not_be_deleted_are_deleted_later(opened: Opener, tmp_path: Path) -> None:
    journal = opened()
    position = journal.append([b"1", b"2"])
    with disk(FULL, tmp_path):
        journal.acknowledge(position, 2)
    journal.recover()
    assert journal.events == 0
    assert opened().events == 0


@pytest.mark.parametrize("device", [FULL, BROKEN])
def test_an_error_that_lmdb_cannot_recover_from_makes_it_fatal(opened: Opener, tmp_path: Path, device: str) -> None:
    journal = opened(sync=True)
    with bad_disk(device, tmp_path / DATA, synced_writes=True):
        assert (refusal(journal), journal.state) == ("journal_fatal", JournalState.FATAL)


@pytest.mark.parametrize("how", ["append", "acknowledge"])
def test_fatal_is_reported_once(opened: Opener, tmp_path: Path, how: str) -> None:
    told = []
    journal = opened(sync=True, on_fatal=lambda: told.append(1))
    position = journal.append(LARGE)
    with bad_disk(BROKEN, tmp_path / DATA, synced_writes=True):
        for _ in range(2):
            if how == "append":
                refusal(journal)
            else:
                journal.acknowledge(position, 1)
    assert told == [1]


def test_fatal_stays_until_it_is_opened_again(opened: Opener, tmp_path: Path) -> None:
    journal = opened(sync=True)
    journal.append([b"1"])
    with bad_disk(BROKEN, tmp_path / DATA, synced_writes=True):
        refusal(journal)
    journal.recover()
    assert (refusal(journal), journal.state) == ("journal_fatal", JournalState.FATAL)
    with pytest.raises(JournalError, match="cannot be read"):
        journal.read(0, 1)
    journal = opened(sync=True)
    assert (journal.state, journal.read(0, 1)[0]) == (JournalState.ROOM, [b"1"])


def test_a_journal_that_would_become_fatal_at_its_first_event_is_not_opened(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise each worker would die at its first request."""
    opened()
    open_it = lmdb.open

    def open_on_a_bad_disk(*args: object, **kwargs: object) -> lmdb.Environment:
        environment = open_it(*args, **kwargs)  # type: ignore[arg-type]
        bad = bad_disk(BROKEN, tmp_path / DATA, synced_writes=True)
        bad.__enter__()
        cleanups.append(bad)
        return environment

    cleanups: list[AbstractContextManager[None]] = []
    monkeypatch.setattr(lmdb, "open", open_on_a_bad_disk)
    with pytest.raises(lmdb.Error, match="Input/output error"):
        opened(sync=True)
    for bad in cleanups:
        bad.__exit__(None, None, None)


class JournalStates(RuleBasedStateMachine):
    """A journal, with all its calls in any order, on a disk that fills, fails, and is repaired."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.numbers = itertools.count()
        self.kept: dict[int, list[bytes]] = {}
        self.bad: AbstractContextManager[None] | None = None
        self.open(64 * 1024)

    def open(self, max_bytes: int) -> None:
        self.journal = Journal(Path(self.folder.name), max_bytes=max_bytes, sync=False)
        self.acknowledged: set[int] = set()

    @rule(size=st.sampled_from([10, 3000, 9000]), count=st.integers(1, 3))
    def append(self, size: int, count: int) -> None:
        events = [b"%d " % next(self.numbers) + b"x" * size for _ in range(count)]
        lowered = self.journal.used_bytes > self.journal.max_bytes
        try:
            position = self.journal.append(events)
        except JournalFullError as refused:
            reason = refused.reason
        else:
            assert self.bad is None
            self.kept[position] = events
            reason = "none"
        assert (reason == "journal_lowered") == lowered

    @precondition(lambda self: self.waiting())
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        waiting = self.waiting()
        position = data.draw(st.sampled_from(waiting))
        gone = [at for at in waiting if at <= position]
        self.journal.acknowledge(position, sum(len(self.kept[at]) for at in gone))
        self.acknowledged.update(gone)
        if self.bad is None:
            assert not self.undeleted()
        self.forget_deleted()

    @rule()
    def recover(self) -> None:
        self.journal.recover()
        if self.bad is None:
            assert not self.undeleted()
            assert self.journal.state in {JournalState.ROOM, JournalState.FULL, JournalState.LOWERED}
        self.forget_deleted()

    @precondition(lambda self: self.bad is None)
    @rule(device=st.sampled_from([FULL, BROKEN]))
    def disk_fails(self, device: str) -> None:
        self.bad = disk(device, Path(self.folder.name))
        self.bad.__enter__()

    @precondition(lambda self: self.bad is not None)
    @rule()
    def disk_is_repaired(self) -> None:
        assert self.bad is not None
        self.bad.__exit__(None, None, None)
        self.bad = None

    @precondition(lambda self: self.bad is None)
    @rule(max_bytes=st.sampled_from([32 * 1024, 64 * 1024, 128 * 1024]))
    def restart_with_another_limit(self, max_bytes: int) -> None:
        self.journal.close()
        self.open(max_bytes)

    @invariant()
    def counts_what_is_on_the_disk(self) -> None:
        assert self.journal.events == self.journal._count() == sum(map(len, self.kept.values()))

    @invariant()
    def reads_what_is_not_acknowledged_and_nothing_else(self) -> None:
        waiting = [event for at in self.waiting() for event in self.kept[at]]
        assert self.journal.read(0, 1_000_000)[0] == waiting
        assert self.journal.unacknowledged == len(waiting)

    @invariant()
    def is_lowered_exactly_while_it_holds_more_than_its_limit(self) -> None:
        if self.journal.state not in {JournalState.DISK_FULL, JournalState.FAILING}:
            lowered = self.journal.used_bytes > self.journal.max_bytes
            assert (self.journal.state is JournalState.LOWERED) == lowered

    def waiting(self) -> list[int]:
        return [at for at in sorted(self.kept) if at not in self.acknowledged]

    def undeleted(self) -> int:
        return self.journal.events - self.journal.unacknowledged

    def forget_deleted(self) -> None:
        """Drop deleted events from the model. Acknowledged events may still be on the disk; the oldest go first."""
        surplus = sum(map(len, self.kept.values())) - self.journal._count()
        for at in sorted(self.acknowledged & self.kept.keys()):
            if surplus <= 0:
                break
            surplus -= len(self.kept.pop(at))

    def teardown(self) -> None:
        if self.bad is not None:
            self.disk_is_repaired()
        self.journal.close()
        self.folder.cleanup()


JournalStates.TestCase.settings = settings(stateful_step_count=40)
TestJournalStates = JournalStates.TestCase
