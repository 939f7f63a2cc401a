"""Reading the events of a damaged journal."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.journal.check import is_event
from api.journal.journal import DATA, Journal
from api.journal.salvage import salvaged
from tests.journals import journalled

EVENTS = [journalled(number) for number in range(3000)]


def a_journal(folder: Path, an_entry: int, events: list[bytes]) -> Path:
    """The file of a journal with N events in each entry, a third of them sent."""
    journal = Journal(folder, max_bytes=64 * 1024 * 1024, sync=False)
    positions = [journal.append(events[first : first + an_entry]) for first in range(0, len(events), an_entry)]
    journal.acknowledge(positions[len(positions) // 3 - 1], len(events) // 3)
    journal.close()
    return folder / DATA


@pytest.fixture(params=[1, 100], ids=["single events", "batches"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return a_journal(tmp_path, request.param, EVENTS)


def test_an_undamaged_journal_has_its_unsent_events_in_order(file: Path) -> None:
    assert list(salvaged(file)) == EVENTS[1000:]


def test_a_journal_without_its_first_pages_has_all_unsent_events(file: Path) -> None:
    file.write_bytes(b"\0" * 8192 + file.read_bytes()[8192:])
    assert set(EVENTS[1000:]) <= set(salvaged(file))


def test_a_truncated_journal_has_the_events_before_the_cut(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) * 2 // 3])
    found = set(salvaged(file))
    assert len(found) > 500
    assert found <= set(EVENTS)


def test_a_zeroed_page_loses_only_its_own_events(file: Path) -> None:
    data = file.read_bytes()
    lost_page = data.index(EVENTS[2000]) // 4096 * 4096
    file.write_bytes(data[:lost_page] + b"\0" * 4096 + data[lost_page + 4096 :])
    lost = set(EVENTS[1000:]) - set(salvaged(file))
    assert EVENTS[2000] in lost
    assert len(lost) <= 100


@pytest.mark.parametrize(
    "contents", [b"", b"x", b"invalid" * 10_000, b"\xff" * 50_000], ids=lambda data: str(len(data))
)
def test_a_file_without_a_journal_has_no_events(tmp_path: Path, contents: bytes) -> None:
    (tmp_path / DATA).write_bytes(contents)
    assert list(salvaged(tmp_path / DATA)) == []


@pytest.fixture(scope="module")
def some_journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_journal(tmp_path_factory.mktemp("journal"), 25, EVENTS[:300])


@given(damage=st.lists(st.tuples(st.integers(0, 2**20), st.binary(min_size=1, max_size=200)), max_size=20))
def test_only_events_are_read_from_a_journal_with_any_damage(
    some_journal: Path, damage: list[tuple[int, bytes]]
) -> None:
    data = bytearray(some_journal.read_bytes())
    for offset, invalid in damage:
        at = offset % len(data)
        data[at : at + len(invalid)] = invalid
    damaged = some_journal.with_name("damaged")
    damaged.write_bytes(data)
    assert all(map(is_event, salvaged(damaged)))
