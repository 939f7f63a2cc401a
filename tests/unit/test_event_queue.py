"""The queue of a worker: order, capacity, the journal behind it, and its metrics."""

import math
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from api.event_queue import EventQueue, Taken
from api.intake import AcceptedEvent
from api.journal.journal import DATA, Journal
from common.errors import QueueFullError
from common.metrics import ApiMetrics
from tests.bad_disks import BROKEN, FULL, bad_disk
from tests.waiting import eventually

MUCH = 2**30


def queue_of(capacity: int, max_bytes: int = MUCH) -> EventQueue:
    return EventQueue(capacity, max_bytes, ApiMetrics(CollectorRegistry()))


def events(count: int, first: int = 0) -> list[AcceptedEvent]:
    return [
        AcceptedEvent(
            str(n),
            "click",
            b"key",
            b'{"event_id":"%d","event_type":"click","customer_id":"key","received_at":"2026-01-31T12:00:00Z"}' % n,
        )
        for n in range(first, first + count)
    ]


def large_events(count: int, first: int = 0) -> list[AcceptedEvent]:
    """N events of 1,000 bytes each."""
    return [event._replace(key=b"", value=event.value.ljust(1000)) for event in events(count, first)]


def test_gives_events_in_the_order_of_their_arrival() -> None:
    queue = queue_of(100)
    queue.put(events(3))
    queue.put(events(2, first=3))
    assert queue.take(100, MUCH, timeout=0).events == events(5)


def test_takes_whole_requests_until_there_are_enough() -> None:
    queue = queue_of(100)
    for first in (0, 10, 20):
        queue.put(events(10, first))
    assert len(queue.take(15, MUCH, timeout=0).events) == 20


def test_takes_whole_requests_until_there_are_enough_bytes() -> None:
    queue = queue_of(100)
    for first in (0, 10, 20):
        queue.put(large_events(10, first))
    assert len(queue.take(100, 15_000, timeout=0).events) == 20
    assert len(queue.take(100, 1, timeout=0).events) == 10


def test_takes_all_of_a_request_or_nothing() -> None:
    queue = queue_of(100)
    queue.put(events(60))
    with pytest.raises(QueueFullError):
        queue.put(events(41))
    assert queue.unacknowledged == 60


def test_is_full_until_kafka_acknowledges_not_until_events_are_taken() -> None:
    queue = queue_of(100)
    queue.put(events(100))
    taken = queue.take(100, MUCH, timeout=0)
    with pytest.raises(QueueFullError):
        queue.put(events(1))
    queue.acknowledge(taken)
    queue.put(events(100))


def test_is_full_of_bytes_before_it_is_of_events() -> None:
    queue = queue_of(100, max_bytes=10_000)
    queue.put(large_events(9))
    with pytest.raises(QueueFullError):
        queue.put(large_events(2, first=9))
    queue.acknowledge(queue.take(1, 1, timeout=0))
    queue.put(large_events(10))


def test_says_when_to_try_again() -> None:
    queue = queue_of(1)
    queue.put(events(1))
    with pytest.raises(QueueFullError, match="try again in 1 s") as raised:
        queue.put(events(1))
    assert raised.value.retry_after == 1


def test_take_waits_for_events() -> None:
    queue = queue_of(1)
    taken: list[Taken] = []
    thread = threading.Thread(target=lambda: taken.append(queue.take(1, MUCH, timeout=30)))
    thread.start()
    queue.put(events(1))
    thread.join(30)
    assert taken[0].events == events(1)


def test_take_returns_no_events_after_its_timeout() -> None:
    assert queue_of(1).take(1, MUCH, timeout=0).events == []


def test_never_accepts_more_than_its_capacity_from_many_threads() -> None:
    queue = queue_of(1000)
    refused = []

    def put() -> None:
        for _ in range(50):
            try:
                queue.put(events(7))
            except QueueFullError:
                refused.append(1)

    threads = [threading.Thread(target=put) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert queue.unacknowledged == 1000 - 1000 % 7
    assert len(refused) == 400 - 1000 // 7


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path, max_bytes=1024 * 1024, sync=False)
    yield journal
    journal.close()


def queue_with(journal: Journal, capacity: int = 10, max_bytes: int = MUCH) -> EventQueue:
    queue = queue_of(capacity, max_bytes)
    queue.keep_in(journal)
    return queue


def numbers(taken: Taken) -> list[int]:
    return [int(event.event_id) for event in taken.events]


def test_with_a_journal_more_than_the_capacity_is_accepted(journal: Journal) -> None:
    queue = queue_with(journal)
    queue.put(events(8))
    queue.put(events(8, first=8))
    assert (queue.in_memory, queue.unacknowledged) == (8, 16)


def test_with_a_journal_more_bytes_than_fit_into_memory_are_accepted(journal: Journal) -> None:
    queue = queue_with(journal, capacity=100, max_bytes=10_000)
    for first in range(0, 40, 8):
        queue.put(large_events(8, first))
    assert (queue.in_memory, queue.unacknowledged) == (8, 40)
    got = []
    while queue.unacknowledged:
        taken = queue.take(100, 10_000, timeout=0)
        assert len(taken.events) <= 16
        got += numbers(taken)
        queue.acknowledge(taken)
    assert got == list(range(40))


def test_overflowed_events_are_read_back_in_order(journal: Journal) -> None:
    queue = queue_with(journal)
    for first in range(0, 40, 8):
        queue.put(events(8, first))
    got = []
    while queue.unacknowledged:
        taken = queue.take(16, MUCH, timeout=0)
        got += numbers(taken)
        queue.acknowledge(taken)
    assert got == list(range(40))


def test_no_event_overtakes_overflowed_events(journal: Journal) -> None:
    queue = queue_with(journal)
    queue.put(events(8))
    queue.put(events(8, first=8))
    taken = queue.take(1, MUCH, timeout=0)
    queue.acknowledge(taken)
    queue.put(events(1, first=16))
    assert numbers(queue.take(1, MUCH, timeout=0)) == list(range(8, 16))


def test_keeps_events_in_memory_again_once_the_journal_is_read(journal: Journal) -> None:
    queue = queue_with(journal)
    queue.put(events(8))
    queue.put(events(8, first=8))
    for _ in range(2):
        queue.acknowledge(queue.take(1, MUCH, timeout=0))
    queue.take(1, MUCH, timeout=0)
    queue.put(events(1, first=16))
    assert queue.in_memory == 1


def test_events_of_a_dead_worker_come_first(journal: Journal) -> None:
    queue_with(journal).put(events(3))
    queue = queue_with(journal)
    queue.put(events(3, first=3))
    assert numbers(queue.take(100, MUCH, timeout=0)) == list(range(6))


def test_a_full_journal_refuses_and_keeps_nothing_of_the_request(journal: Journal) -> None:
    queue = queue_with(journal)
    large = [AcceptedEvent("0", "click", b"key", b'{"text":"%s"}' % (b"x" * 50_000))]
    with pytest.raises(QueueFullError) as raised:
        for _ in range(100):
            queue.put(large)
    assert raised.value.reason == "journal_full"
    assert queue.unacknowledged < 21


def test_knows_the_time_of_receipt_of_its_oldest_event(journal: Journal) -> None:
    queue = queue_with(journal)
    assert queue.oldest() is None
    queue.put(events(3))
    assert queue.oldest() == datetime(2026, 1, 31, 12, tzinfo=UTC)


def test_has_no_oldest_event_when_a_full_disk_still_keeps_acknowledged_events(journal: Journal, tmp_path: Path) -> None:
    queue = queue_with(journal)
    queue.put(events(3))
    taken = queue.take(100, MUCH, timeout=0)
    with bad_disk(FULL, tmp_path / DATA):
        queue.acknowledge(taken)
    assert journal.events == 3
    assert queue.oldest() is None


def test_the_oldest_event_is_not_an_acknowledged_one_that_a_full_disk_still_keeps(
    journal: Journal, tmp_path: Path
) -> None:
    queue = queue_with(journal)
    for first in (0, 2):
        queue.put(events(2, first))
    taken = queue.take(1, MUCH, timeout=0)
    with bad_disk(FULL, tmp_path / DATA):
        queue.acknowledge(taken)
    assert (journal.events, queue.unacknowledged) == (4, 2)
    assert numbers(queue.take(1, MUCH, timeout=0)) == [2, 3]


def test_acknowledged_events_on_a_full_disk_are_deleted_when_it_has_room_again(
    journal: Journal, tmp_path: Path
) -> None:
    queue = queue_with(journal)
    queue.put(events(3))
    taken = queue.take(100, MUCH, timeout=0)
    with bad_disk(FULL, tmp_path / DATA):
        queue.acknowledge(taken)
    queue.look_after()
    assert journal.events == 0


def test_the_metric_counts_the_events_on_the_disk(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    queue = EventQueue(100, MUCH, ApiMetrics(registry))
    journal = Journal(tmp_path, max_bytes=1024 * 1024, sync=False)
    queue.keep_in(journal)
    queue.put(events(3))
    taken = queue.take(100, MUCH, timeout=0)
    with bad_disk(FULL, tmp_path / DATA):
        queue.acknowledge(taken)
    assert registry.get_sample_value("pulse_api_journal_events") == 3
    journal.close()


@pytest.mark.parametrize(
    ("device", "reason", "text"),
    [(FULL, "disk_full", "The disk that keeps events"), (BROKEN, "journal_failing", "returns errors")],
)
def test_the_error_names_the_fault_of_the_disk(
    journal: Journal, tmp_path: Path, device: str, reason: str, text: str
) -> None:
    queue = queue_with(journal)
    with bad_disk(device, tmp_path / DATA), pytest.raises(QueueFullError, match=text) as refused:
        queue.put(events(1))
    assert refused.value.reason == reason


def test_the_metric_has_the_time_of_the_oldest_event(journal: Journal) -> None:
    """The metric is a time, from which Prometheus computes the age, also while this process hangs."""
    registry = CollectorRegistry()

    def oldest() -> float | None:
        return registry.get_sample_value("pulse_api_oldest_unsent_timestamp_seconds")

    queue = EventQueue(100, MUCH, ApiMetrics(registry))
    queue.keep_in(journal)
    assert oldest() == math.inf
    before = time.time()
    queue.put(events(1))
    queue.put(events(1, first=1))
    assert before <= (oldest() or 0) <= time.time()
    queue.acknowledge(queue.take(1, MUCH, timeout=0))
    assert oldest() == datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp()
    queue.acknowledge(queue.take(1, MUCH, timeout=0))
    assert oldest() == math.inf


def test_the_metric_has_the_filled_share_of_its_capacity() -> None:
    registry = CollectorRegistry()
    queue = EventQueue(200, MUCH, ApiMetrics(registry))
    for number in range(3):
        queue.put(events(50, first=number * 50))
    queue.look_after()
    assert registry.get_sample_value("pulse_api_queue_filled_ratio") == 0.75
    queue.acknowledge(queue.take(100, MUCH, timeout=0))
    assert registry.get_sample_value("pulse_api_queue_filled_ratio") == 0.25


def test_the_metric_has_the_filled_share_of_its_bytes_when_that_is_larger() -> None:
    registry = CollectorRegistry()
    queue = EventQueue(200, 10_000, ApiMetrics(registry))
    queue.put(large_events(5))
    queue.look_after()
    assert registry.get_sample_value("pulse_api_queue_filled_ratio") == 0.5
    queue.acknowledge(queue.take(100, MUCH, timeout=0))
    assert registry.get_sample_value("pulse_api_queue_filled_ratio") == 0


def test_requests_update_the_gauges_at_intervals() -> None:
    registry = CollectorRegistry()
    queue = EventQueue(200, MUCH, ApiMetrics(registry))

    def depth_after_one_more() -> float:
        queue.put(events(1))
        return registry.get_sample_value("pulse_api_queue_depth") or 0

    assert depth_after_one_more() == 1
    assert depth_after_one_more() == 1
    eventually(lambda: depth_after_one_more() == queue.in_memory)
