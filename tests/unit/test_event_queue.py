"""What waits in memory, and how much may."""

import threading

import pytest

from api.event_queue import EventQueue
from api.intake import AcceptedEvent
from common.errors import QueueFullError
from common.kafka import Record


def events(count: int, first: int = 0) -> list[AcceptedEvent]:
    return [AcceptedEvent(str(n), "click", Record(b"key", b"%d" % n)) for n in range(first, first + count)]


def test_gives_events_in_the_order_they_came() -> None:
    queue = EventQueue(capacity=100)
    queue.put(events(3))
    queue.put(events(2, first=3))
    assert queue.take(100) == events(5)


def test_takes_whole_requests_until_there_are_enough() -> None:
    queue = EventQueue(capacity=100)
    for first in (0, 10, 20):
        queue.put(events(10, first))
    assert len(queue.take(15)) == 20


def test_takes_all_of_a_request_or_nothing() -> None:
    queue = EventQueue(capacity=100)
    queue.put(events(60))
    with pytest.raises(QueueFullError):
        queue.put(events(41))
    assert queue.unacknowledged == 60


def test_is_full_until_kafka_acknowledges_not_until_events_are_taken() -> None:
    queue = EventQueue(capacity=100)
    queue.put(events(100))
    queue.take(100)
    with pytest.raises(QueueFullError):
        queue.put(events(1))
    queue.acknowledge(1)
    queue.put(events(1))


def test_says_when_to_try_again() -> None:
    queue = EventQueue(capacity=1)
    queue.put(events(1))
    with pytest.raises(QueueFullError, match="try again in 1 s") as raised:
        queue.put(events(1))
    assert raised.value.retry_after == 1


def test_wake_lets_a_blocked_take_return_nothing() -> None:
    queue = EventQueue(capacity=1)
    taken: list[list[AcceptedEvent]] = []
    thread = threading.Thread(target=lambda: taken.append(queue.take(1)))
    thread.start()
    queue.wake()
    thread.join(5)
    assert taken == [[]]


def test_never_lets_in_more_than_fits_however_many_threads_put() -> None:
    queue = EventQueue(capacity=1000)
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
