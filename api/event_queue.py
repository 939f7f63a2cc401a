"""The events that wait for Kafka, in memory and in the journal, with their limits."""

import math
import queue
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from prometheus_client import Gauge

from api.intake import AcceptedEvent, read_back, received_at
from api.journal.journal import Journal
from common.errors import JournalError, JournalFullError, QueueFullError
from common.metrics import ApiMetrics, Children

RETRY_AFTER_SECONDS = 1

_GAUGES_SECONDS = 0.05


class Taken(NamedTuple):
    """The next events for the producer: those of whole requests, the journal position of the last, and their bytes."""

    events: list[AcceptedEvent]
    position: int
    size: int


class EventQueue:
    """One item per request. Request threads `put`; one thread takes, sends, and acknowledges before it takes more.

    Without a journal, all events wait in memory. With one, all events are in the journal until Kafka has them, and
    memory holds a copy of the oldest:

    - *in memory*: a request goes to the journal and to memory, and is taken from memory;
    - *overflowing*, once more events wait than `capacity` or `max_bytes` allow: requests go to the journal only, so
      that the order is kept. The producer takes the events in memory, then continues in the journal; when the journal
      has no more, the queue is in memory again.

    A queue whose journal holds earlier events starts overflowing: these are read and sent first. The lock makes an
    append to the journal and to memory atomic, so that both have the same order.
    """

    def __init__(self, capacity: int, max_bytes: int, metrics: ApiMetrics) -> None:
        """`capacity` limits the events in memory that Kafka has not acknowledged, waiting or in flight; `max_bytes`
        limits their uncompressed size in Kafka.
        """
        self.capacity = capacity
        self.max_bytes = max_bytes
        self.journal: Journal | None = None
        self.grouped_by: int | None = None
        """The thread whose requests share a `commit`, which it calls after its puts; other threads commit each put."""
        self._coming: list[Taken] = []
        self._uncommitted = 0
        self._failed: QueueFullError | None = None
        self._metrics = metrics
        self._accepted = Children(metrics.events_accepted)
        self._in_memory = 0
        self._bytes_in_memory = 0
        self._overflowing = False
        self._taken_to = 0
        self._sending: list[AcceptedEvent] = []
        self._lock = threading.Lock()
        self._requests: queue.Queue[Taken] = queue.Queue()
        self._filled: dict[Gauge, float] = {}
        self._gauges_due_at = 0.0
        metrics.oldest_unsent.set(math.inf)

    def keep_in(self, journal: Journal) -> None:
        """Use this journal. Call it once, before the first put or take."""
        self.journal = journal
        self._overflowing = journal.unacknowledged > 0
        self._set_gauges()
        self._set_oldest()

    @property
    def in_memory(self) -> int:
        """The number of events in memory without Kafka's acknowledgement."""
        return self._in_memory

    @property
    def filled(self) -> float:
        """The used share of the memory limits: of events or of bytes, whichever is larger."""
        return max(self._in_memory / self.capacity, self._bytes_in_memory / self.max_bytes)

    @property
    def unacknowledged(self) -> int:
        """The number of accepted events without Kafka's acknowledgement."""
        return self._in_memory if self.journal is None else self.journal.unacknowledged

    @property
    def uncommitted(self) -> int:
        """The number of requests that the thread `grouped_by` has put since its last `commit`."""
        return self._uncommitted

    def put(self, events: Sequence[AcceptedEvent]) -> None:
        """Add all events of a request; raises QueueFullError, and adds no event, if there is no room for them.

        They are kept when this returns or, in the thread `grouped_by`, when `commit` returns.
        """
        with self._lock:
            if self._failed is not None:
                # Until the `grouped_by` thread has seen the error: nothing of its iteration is kept.
                raise self._failed
            size, position = _size(events), 0
            if self.journal is not None:
                try:
                    position = self.journal.add([event.value for event in events])
                except JournalFullError as error:
                    raise QueueFullError(error.reason, RETRY_AFTER_SECONDS) from None
            elif self._in_memory and not self._fits(len(events), size):
                # A single request is accepted, however large: otherwise it would never fit.
                raise QueueFullError("queue_full", RETRY_AFTER_SECONDS)
            self._coming.append(Taken(list(events), position, size))
            if self.journal is not None and threading.get_ident() == self.grouped_by:
                self._uncommitted += 1
            else:
                self._commit()

    def commit(self) -> None:
        """Keep all requests since the last call; raises QueueFullError, and keeps no request, if that fails."""
        with self._lock:
            failed, self._failed, self._uncommitted = self._failed, None, 0
            if failed is not None:
                raise failed
            self._commit()

    def _commit(self) -> None:
        coming, self._coming = self._coming, []
        if not coming:
            return
        first = not self.unacknowledged
        if self.journal is not None:
            try:
                self.journal.commit()
            except JournalFullError as error:
                full = QueueFullError(error.reason, RETRY_AFTER_SECONDS)
                if self._uncommitted:
                    # Another thread committed them too: the thread that put them must see the error.
                    self._failed = full
                raise full from None
        for taken in coming:
            if self.journal is not None and not self._fits(len(taken.events), taken.size):
                self._overflowing = True
            if not self._overflowing:
                self._in_memory += len(taken.events)
                self._bytes_in_memory += taken.size
                self._requests.put(taken)
        self._accepted.count(event.event_type for taken in coming for event in taken.events)
        # Not for each request: three gauges take as long as the journal.
        if time.monotonic() >= self._gauges_due_at:
            self._set_gauges()
        if first:
            self._metrics.oldest_unsent.set(time.time())

    def _fits(self, events: int, size: int) -> bool:
        return self._in_memory + events <= self.capacity and self._bytes_in_memory + size <= self.max_bytes

    def take(self, enough_events: int, enough_bytes: int, timeout: float) -> Taken:
        """The oldest waiting requests, until they have `enough_events` or `enough_bytes`, or there are no more.

        Waits up to `timeout` seconds for the first; returns no events if there is none.
        """
        if self.journal is not None and self._overflowing and self._requests.empty():
            read = self._read_on(self.journal, enough_events, enough_bytes)
            if read.events:
                return read
        events: list[AcceptedEvent] = []
        size = 0
        while len(events) < enough_events and size < enough_bytes:
            try:
                taken = self._requests.get(block=not events, timeout=timeout)
            except queue.Empty:
                break
            events += taken.events
            size += taken.size
            self._taken_to = taken.position
        self._sending = events
        return Taken(events, self._taken_to, size)

    def acknowledge(self, taken: Taken) -> None:
        """Kafka has acknowledged all taken events: delete them and make room for others."""
        with self._lock:
            self._sending = []
            self._in_memory -= len(taken.events)
            self._bytes_in_memory -= taken.size
            if self.journal is not None and taken.events:
                self.journal.acknowledge(taken.position, len(taken.events))
            self._set_gauges()
            self._set_oldest()

    def look_after(self) -> None:
        """Let the journal recover, and set the gauges. Call it regularly while there is nothing to acknowledge."""
        with self._lock:
            if self.journal is not None:
                self.journal.recover()
            self._set_gauges()

    def oldest(self) -> datetime | None:
        """The time of receipt of the oldest event without Kafka's acknowledgement."""
        with self._lock:
            return self._oldest()

    def _oldest(self) -> datetime | None:
        if not self.unacknowledged:
            return None
        if self.journal is not None:
            try:
                values = self.journal.read(0, 1, 1)[0]
            except JournalError:
                # The producer gets the error; the time of the oldest event is unknown.
                return None
        else:
            waiting = self._sending or next((taken.events for taken in self._requests.queue), [])
            values = [waiting[0].value] if waiting else []
        return received_at(values[0]) if values else None

    def _read_on(self, journal: Journal, enough_events: int, enough_bytes: int) -> Taken:
        with self._lock:
            values, position = journal.read(self._taken_to, enough_events, enough_bytes)
            events = [read_back(value) for value in values]
            size = _size(events)
            if values:
                self._taken_to = position
                self._in_memory += len(values)
                self._bytes_in_memory += size
            else:
                self._overflowing = False
            self._set_gauges()
        return Taken(events, position, size)

    def _set_gauges(self) -> None:
        # Under the lock, or an older number could overwrite a newer one.
        self._gauges_due_at = time.monotonic() + _GAUGES_SECONDS
        self._metrics.queue_depth.set(self._in_memory)
        self._set_filled(self._metrics.queue_filled, self.filled)
        if self.journal is not None:
            self._set_filled(self._metrics.journal_filled, self.journal.used_bytes / self.journal.max_bytes)
            self._metrics.journal_events.set(self.journal.events)
            self._metrics.journal_bytes.set(self.journal.used_bytes)

    def _set_filled(self, gauge: Gauge, ratio: float) -> None:
        # In whole percents: each request pays for this, and a gauge costs some microseconds.
        percents = round(ratio, 2)
        if self._filled.get(gauge) != percents:
            self._filled[gauge] = percents
            gauge.set(percents)

    def _set_oldest(self) -> None:
        oldest = self._oldest()
        self._metrics.oldest_unsent.set(oldest.timestamp() if oldest else math.inf)


def _size(events: Sequence[AcceptedEvent]) -> int:
    return sum(len(event.key) + len(event.value) for event in events)
