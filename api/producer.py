"""The thread that sends events from the queue to Kafka, however long it takes."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from api.event_queue import EventQueue
from api.intake import AcceptedEvent, read_back
from api.journal.journal import Journal
from api.undeliverable import Undeliverable
from common.errors import JournalError
from common.kafka import MAX_RECORD_BATCH_BYTES, RecordSender, never_takes
from common.metrics import ApiMetrics, Children
from common.outage import Outage
from common.retry import Backoff
from common.threads import all_stacks

logger = logging.getLogger(__name__)

_CHUNK_EVENTS = 2000
_TAKE_SECONDS = 0.1
_END_SECONDS = 0.5
_PAUSE_SECONDS = 0.03
_CHUNK_BYTES = MAX_RECORD_BATCH_BYTES * 3 // 4
# So that few chunks are small remainders.
_TAKE_BYTES = 2 * _CHUNK_BYTES
_RECORD_OVERHEAD_BYTES = 64


class Failed(NamedTuple):
    """An event to send again, and the error."""

    event: AcceptedEvent
    error: Exception


class Producer:
    """Sends chunk after chunk, each until Kafka has acknowledged all of it.

    A chunk is small enough to make one batch per partition, and the next chunk waits for it: so a failed batch is sent
    again before later events of the same customer, and the order is kept.
    """

    def __init__(
        self,
        queue: EventQueue,
        sender: RecordSender,
        undeliverable: Undeliverable,
        *,
        metrics: ApiMetrics,
        backoff: Backoff,
        on_death: Callable[[], None],
    ) -> None:
        """`on_death` is called, in the thread, if it ends by an unexpected error: nothing would be sent any more."""
        self._queue = queue
        self._sender = sender
        self._undeliverable = undeliverable
        self._metrics = metrics
        self._events_produced = Children(metrics.events_produced)
        self._outage = Outage("sending events to Kafka", backoff)
        self._on_death = on_death
        self._stopping = threading.Event()
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._live, name="producer", daemon=True)
        self._left_behind: Iterable[Journal] = ()

    @property
    def alive(self) -> bool:
        """Whether the thread runs; without it, no event leaves the process."""
        return self._thread.is_alive()

    @property
    def failing(self) -> bool:
        """Whether the last chunk failed."""
        return self._outage.ongoing

    def start(self, left_behind: Iterable[Journal] = ()) -> None:
        """Start sending, first the leftover events of dead workers. Call it in the serving process, after any fork."""
        self._left_behind = left_behind
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Send the waiting events, for at most `timeout` seconds (blocks)."""
        self._stopping.set()
        self._thread.join(timeout)
        self.give_up()
        # Unless it sends, it ends at once.
        self._thread.join(_END_SECONDS)

    def give_up(self) -> None:
        """Send no more than the current chunk. Does not block: the thread itself may call it."""
        self._given_up.set()

    def _live(self) -> None:
        try:
            self._run()
        except BaseException:
            # Not raised again: the thread ends anyway, and Python would print the error outside the log.
            logger.critical("the producer thread died", exc_info=True, extra={"stacks": all_stacks()})
            self._on_death()

    def _run(self) -> None:
        for journal in self._left_behind:
            try:
                self._empty(journal)
            except JournalError:
                # Our own events must not wait for another worker's.
                logger.exception("the journal of a dead worker cannot be read")
        while not self._given_up.is_set():
            taken = self._queue.take(_CHUNK_EVENTS, _TAKE_BYTES, _TAKE_SECONDS)
            if taken.events and self._deliver(taken.events):
                self._queue.acknowledge(taken)
                if len(taken.events) < _CHUNK_EVENTS and taken.size < _TAKE_BYTES:
                    # Collect events in the meantime: a chunk costs much more than its events.
                    self._stopping.wait(_PAUSE_SECONDS)
            elif not taken.events:
                self._queue.look_after()
            if self._stopping.is_set() and not self._queue.unacknowledged:
                self._sender.close()
                return

    def _empty(self, journal: Journal) -> None:
        """Send all events in a dead worker's journal."""
        logger.warning("sending the events of a dead worker", extra={"events": journal.unacknowledged})
        values, position = journal.read(0, _CHUNK_EVENTS, _TAKE_BYTES)
        while values and self._deliver([read_back(value) for value in values]):
            journal.acknowledge(position, len(values))
            values, position = journal.read(position, _CHUNK_EVENTS, _TAKE_BYTES)

    def _deliver(self, events: list[AcceptedEvent]) -> bool:
        """Send the events until Kafka has all of them, in order; False if the process stops before that."""
        return all(self._deliver_chunk(chunk) for chunk in _chunks(events))

    def _deliver_chunk(self, chunk: list[AcceptedEvent]) -> bool:
        left = self._try(chunk)
        while left:
            waiting = self._queue.unacknowledged
            if self._given_up.wait(self._outage.failed(left[0].error, waiting=waiting)):
                return False
            self._queue.look_after()
            left = self._try([failed.event for failed in left])
        self._outage.over(waiting=self._queue.unacknowledged)
        return True

    def _try(self, chunk: list[AcceptedEvent]) -> list[Failed]:
        """Send a chunk once; returns the events to send again, in order."""
        left: list[Failed] = []
        produced: list[str] = []
        for event, error in zip(chunk, self._send(chunk), strict=True):
            if error is None:
                produced.append(event.event_type)
            elif left or not never_takes(error):
                # After a failed event, all later ones wait too, to keep the order.
                left.append(Failed(event, error))
            elif len(chunk) > 1:
                # Kafka refuses a batch as a whole: it may accept this event alone.
                left += self._try([event])
            elif not self._undeliverable.keep(event, error):
                left.append(Failed(event, error))
        self._events_produced.count(produced)
        self._metrics.produce_errors.inc(len(left))
        return left

    def _send(self, chunk: list[AcceptedEvent]) -> list[Exception | None]:
        try:
            return self._sender.send([event.record for event in chunk])
        except Exception as error:
            # This thread must survive any error: it keeps the chunk and tries again.
            logger.exception("sending failed unexpectedly")
            return [error] * len(chunk)


def _chunks(events: list[AcceptedEvent]) -> Iterator[list[AcceptedEvent]]:
    """The events in order, in chunks that fit into one batch."""
    chunk: list[AcceptedEvent] = []
    size = 0
    for event in events:
        event_size = len(event.key) + len(event.value) + _RECORD_OVERHEAD_BYTES
        if size + event_size > _CHUNK_BYTES and chunk:
            yield chunk
            chunk, size = [], 0
        chunk.append(event)
        size += event_size
    if chunk:
        yield chunk
