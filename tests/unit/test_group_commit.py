"""The journal keeps the requests of a turn in one transaction, with one sync if API_JOURNAL_SYNC=full."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from api.event_queue import EventQueue
from api.journal.journal import DATA, Journal
from common.errors import QueueFullError
from common.metrics import ApiMetrics
from tests import MIB
from tests.bad_disks import BROKEN, FULL, bad_disk
from tests.unit.test_event_queue import MUCH, events


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path, max_bytes=2 * MIB, sync=True)
    yield journal
    journal.close()


@pytest.fixture
def queue(journal: Journal) -> EventQueue:
    queue = EventQueue(1000, MUCH, ApiMetrics(CollectorRegistry()))
    queue.keep_in(journal)
    queue.grouped_by = threading.get_ident()
    return queue


def test_the_next_commit_keeps_the_events_that_were_put(queue: EventQueue, journal: Journal) -> None:
    queue.put(events(2))
    queue.put(events(3, first=2))
    assert (journal.events, queue.uncommitted) == (0, 2)
    queue.commit()
    assert (journal.events, queue.uncommitted) == (5, 0)


def test_nothing_is_sent_before_it_is_kept(queue: EventQueue) -> None:
    queue.put(events(2))
    assert queue.take(100, MUCH, timeout=0).events == []
    queue.commit()
    assert len(queue.take(100, MUCH, timeout=0).events) == 2


def test_requests_keep_their_order(queue: EventQueue, journal: Journal) -> None:
    for first in range(0, 10, 2):
        queue.put(events(2, first=first))
    queue.commit()
    kept = [event.value for event in events(10)]
    assert journal.read(0, 100)[0] == kept
    assert [event.value for event in queue.take(100, MUCH, timeout=0).events] == kept


@pytest.mark.parametrize(("fault", "reason"), [(FULL, "disk_full"), (BROKEN, "journal_failing")])
def test_a_commit_that_fails_keeps_none_of_them(
    queue: EventQueue, journal: Journal, tmp_path: Path, fault: object, reason: str
) -> None:
    queue.put(events(1))
    queue.commit()
    queue.put(events(2, first=1))
    queue.put(events(3, first=3))
    with bad_disk(fault, tmp_path / DATA), pytest.raises(QueueFullError) as raised:  # type: ignore[arg-type]
        queue.commit()
    assert raised.value.reason == reason
    assert (journal.events, queue.in_memory, queue.uncommitted) == (1, 1, 0)


def test_events_are_kept_after_a_failed_commit(queue: EventQueue, journal: Journal, tmp_path: Path) -> None:
    queue.put(events(2))
    with bad_disk(FULL, tmp_path / DATA), pytest.raises(QueueFullError):
        queue.commit()
    queue.put(events(3))
    queue.commit()
    assert [event.value for event in queue.take(100, MUCH, timeout=0).events] == [event.value for event in events(3)]
    assert journal.events == 3


def test_only_the_request_of_a_turn_that_does_not_fit_is_refused(queue: EventQueue, journal: Journal) -> None:
    taken = 0
    with pytest.raises(QueueFullError):
        while True:
            queue.put(events(1))
            taken += 1
    queue.commit()
    assert journal.events == taken
    assert journal.used_bytes <= journal.max_bytes


def test_accepted_events_are_counted_once_they_are_kept(journal: Journal, tmp_path: Path) -> None:
    registry = CollectorRegistry()
    queue = EventQueue(1000, MUCH, ApiMetrics(registry))
    queue.keep_in(journal)
    queue.grouped_by = threading.get_ident()

    def accepted() -> float:
        names = ("page_view", "click", "purchase", "add_to_cart", "search", "custom")
        found = [registry.get_sample_value("pulse_api_events_accepted_total", {"event_type": name}) for name in names]
        return sum(value or 0 for value in found)

    queue.put(events(2))
    assert accepted() == 0
    with bad_disk(FULL, tmp_path / DATA), pytest.raises(QueueFullError):
        queue.commit()
    assert accepted() == 0
    queue.put(events(2))
    queue.commit()
    assert accepted() == 2


def test_without_a_journal_events_need_no_commit() -> None:
    queue = EventQueue(1000, MUCH, ApiMetrics(CollectorRegistry()))
    queue.grouped_by = threading.get_ident()
    queue.put(events(2))
    assert queue.uncommitted == 0
    assert len(queue.take(100, MUCH, timeout=0).events) == 2


def in_another_thread(call: Callable[[], None]) -> None:
    """Run the call in another thread; raises the error of the call."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(call).result(timeout=30)


def test_a_put_of_another_thread_also_commits_the_earlier_events(queue: EventQueue, journal: Journal) -> None:
    queue.put(events(2))
    in_another_thread(lambda: queue.put(events(3, first=2)))
    assert journal.read(0, 100)[0] == [event.value for event in events(5)]


def test_requests_committed_by_another_thread_still_count_as_uncommitted(queue: EventQueue, journal: Journal) -> None:
    queue.put(events(2))
    in_another_thread(lambda: queue.put(events(3, first=2)))
    queue.put(events(1, first=5))
    assert queue.uncommitted == 2
    queue.commit()
    assert (journal.events, queue.uncommitted) == (6, 0)


def test_the_next_commit_raises_the_failed_commit_of_another_thread(
    queue: EventQueue, journal: Journal, tmp_path: Path
) -> None:
    queue.put(events(2))
    with bad_disk(FULL, tmp_path / DATA), pytest.raises(QueueFullError):
        in_another_thread(lambda: queue.put(events(3, first=2)))
    for put in (queue.put, lambda late: in_another_thread(lambda: queue.put(late))):
        with pytest.raises(QueueFullError):
            put(events(1, first=5))
    with pytest.raises(QueueFullError):
        queue.commit()
    assert (journal.events, queue.in_memory) == (0, 0)


def test_events_are_kept_after_a_failed_commit_of_another_thread(
    queue: EventQueue, journal: Journal, tmp_path: Path
) -> None:
    queue.put(events(2))
    with bad_disk(FULL, tmp_path / DATA), pytest.raises(QueueFullError):
        in_another_thread(lambda: queue.put(events(3, first=2)))
    with pytest.raises(QueueFullError):
        queue.commit()
    queue.put(events(2))
    queue.commit()
    assert journal.events == 2


def test_a_failed_put_of_another_thread_alone_does_not_fail_the_next_commit(
    queue: EventQueue, journal: Journal, tmp_path: Path
) -> None:
    with bad_disk(FULL, tmp_path / DATA), pytest.raises(QueueFullError):
        in_another_thread(lambda: queue.put(events(3)))
    queue.put(events(2))
    queue.commit()
    assert journal.events == 2
