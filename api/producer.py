"""The thread that takes events from the queue to Kafka, however long it takes."""

import logging
import threading
import time
from collections.abc import Iterator

from api.event_queue import EventQueue
from api.intake import AcceptedEvent
from common.kafka import MAX_BATCH_BYTES, RecordSender
from common.metrics import ApiMetrics
from common.retry import Backoff

logger = logging.getLogger(__name__)

_CHUNK_EVENTS = 2000
_CHUNK_BYTES = MAX_BATCH_BYTES * 3 // 4
_RECORD_OVERHEAD_BYTES = 64


class Producer:
    """Sends chunk after chunk, each until Kafka has acknowledged all of it.

    A chunk is small enough to make one batch a partition, and the next one waits for it: so a failed
    batch is sent again before anything of the same customer that came later, and order is kept.
    """

    def __init__(self, queue: EventQueue, sender: RecordSender, metrics: ApiMetrics, backoff: Backoff) -> None:
        self._queue = queue
        self._sender = sender
        self._metrics = metrics
        self._backoff = backoff
        self._stopping = threading.Event()
        self._given_up = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="producer", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the thread runs: without it no event leaves the process."""
        return self._thread.is_alive()

    @property
    def failing(self) -> bool:
        """Whether Kafka did not take the last chunk."""
        return self._failing

    def start(self) -> None:
        """Start sending. Call it in the process that serves, after any fork."""
        self._thread.start()

    def stop(self, timeout: float) -> int:
        """Send what waits, for at most `timeout` seconds (blocks); returns how many events could not be sent."""
        self._stopping.set()
        self._queue.wake()
        self._thread.join(timeout)
        self._given_up.set()
        left = self._queue.unacknowledged
        if left:
            logger.error("events lost: Kafka did not take them in time", extra={"events": left, "seconds": timeout})
        else:
            logger.info("all events are in Kafka")
        return left

    def _run(self) -> None:
        while not self._given_up.is_set():
            for chunk in _chunks(self._queue.take(_CHUNK_EVENTS)):
                self._deliver(chunk)
            if self._stopping.is_set() and not self._queue.unacknowledged:
                self._sender.close()
                return

    def _deliver(self, chunk: list[AcceptedEvent]) -> None:
        left, error = self._try(chunk)
        if error is None:
            return
        started = time.monotonic()
        self._failing = True
        logger.warning("Kafka does not take events; trying until it does", extra={"error": repr(error)})
        for pause in self._backoff.pauses():
            if self._given_up.wait(pause):
                return
            left, error = self._try(left)
            if error is None:
                break
        self._failing = False
        seconds = round(time.monotonic() - started, 1)
        logger.warning("Kafka takes events again", extra={"seconds": seconds, "waiting": self._queue.unacknowledged})

    def _try(self, chunk: list[AcceptedEvent]) -> tuple[list[AcceptedEvent], Exception | None]:
        """Send a chunk once; returns what Kafka did not acknowledge, in order, and an error of it."""
        try:
            results = self._sender.send([event.record for event in chunk])
        except Exception as error:
            # Whatever it is, this thread must live on: the chunk is kept and tried again.
            logger.exception("sending failed unexpectedly")
            results = [error] * len(chunk)
        left: list[AcceptedEvent] = []
        for event, result in zip(chunk, results, strict=True):
            if result is None:
                self._metrics.events_produced.labels(event.event_type).inc()
            else:
                left.append(event)
        acknowledged = len(chunk) - len(left)
        self._queue.acknowledge(acknowledged)
        self._metrics.queue_depth.dec(acknowledged)
        if left:
            self._metrics.produce_errors.inc(len(left))
        return left, next((result for result in results if result is not None), None)


def _chunks(events: list[AcceptedEvent]) -> Iterator[list[AcceptedEvent]]:
    """The events in their order, in pieces that fit into one batch."""
    chunk: list[AcceptedEvent] = []
    size = 0
    for event in events:
        event_size = len(event.record.key or b"") + len(event.record.value) + _RECORD_OVERHEAD_BYTES
        if size + event_size > _CHUNK_BYTES and chunk:
            yield chunk
            chunk, size = [], 0
        chunk.append(event)
        size += event_size
    if chunk:
        yield chunk
