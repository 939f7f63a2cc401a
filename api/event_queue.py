"""What waits in memory between the request threads and the producer thread, and how much may wait."""

import queue
import threading
from collections.abc import Sequence

from api.intake import AcceptedEvent
from common.errors import QueueFullError

RETRY_AFTER_SECONDS = 1


class EventQueue:
    """One item a request. Full is counted in events that Kafka has not acknowledged, waiting or on their way.

    Request threads `put`, the producer thread takes and acknowledges.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._unacknowledged = 0
        self._lock = threading.Lock()
        self._requests: queue.Queue[Sequence[AcceptedEvent]] = queue.Queue()

    @property
    def unacknowledged(self) -> int:
        """Events accepted that Kafka does not have for certain."""
        return self._unacknowledged

    def put(self, events: Sequence[AcceptedEvent]) -> None:
        """Take all of a request's events, or none: raises QueueFullError when they do not fit. Does not block."""
        with self._lock:
            if self._unacknowledged + len(events) > self.capacity:
                raise QueueFullError(RETRY_AFTER_SECONDS)
            self._unacknowledged += len(events)
            self._requests.put(events)

    def take(self, at_least: int) -> list[AcceptedEvent]:
        """What waits, oldest first: whole requests, until there are `at_least` so many events or no more.

        Blocks until there is something, or `wake` was called: then there may be nothing.
        """
        events = list(self._requests.get())
        while len(events) < at_least:
            try:
                events += self._requests.get_nowait()
            except queue.Empty:
                break
        return events

    def acknowledge(self, count: int) -> None:
        """So many events have reached Kafka: make room for others."""
        with self._lock:
            self._unacknowledged -= count

    def wake(self) -> None:
        """Let a blocked `take` return."""
        self._requests.put(())
