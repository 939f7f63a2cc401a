"""Poll, decode, flush, commit: the consumer's one thread of work.

The rule: an offset is committed only when everything before it is in MongoDB or acknowledged as a dead letter.
"""

import logging
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from common import events
from common.errors import DeliveryError, InvalidEventError, StoreError
from common.kafka import KafkaError
from common.metrics import ConsumerMetrics
from common.retry import Backoff
from consumer.buffer import Buffer
from consumer.dead_letters import DeadLetter, DeadLetters
from consumer.health import Health
from consumer.source import ReceivedRecord, Source
from consumer.writer import Writer

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.2


class Loop:
    """Moves records from the source to the writer until told to stop. Hears of rebalances itself."""

    def __init__(
        self,
        source: Source,
        buffer: Buffer,
        writer: Writer,
        dead_letters: DeadLetters,
        *,
        metrics: ConsumerMetrics,
        health: Health,
        backoff: Backoff,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._buffer = buffer
        self._writer = writer
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._health = health
        self._backoff = backoff
        self._clock = clock
        self._pauses: Iterator[float] | None = None
        self._retry_at = 0.0

    def run(self, stopping: Callable[[], bool]) -> None:
        """Work until `stopping()`; then flush, commit and leave the group. Blocks as the source and writer do."""
        self._source.subscribe(self)
        while not stopping():
            self.step()
        self._flush_if_any()
        self._source.close()
        if len(self._buffer):
            logger.warning("stopped with events not stored; they will be read again", extra=self._waiting())
        else:
            logger.info("stopped; all that was read is stored")

    def step(self) -> None:
        """One poll and, when it is time, one flush."""
        for record in self._source.poll(_POLL_SECONDS):
            self._take(record)
        self._health.polled()
        for partition, lag in self._source.lag().items():
            self._metrics.lag.labels(partition).set(lag)
        self._metrics.buffer_size.set(len(self._buffer))
        if self._pauses is None:
            if self._buffer.due:
                self._flush()
        elif self._clock() >= self._retry_at:
            self._metrics.retries.inc()
            self._flush()
        else:
            # A rebalance would have resumed what is paused.
            self._source.pause()

    def on_assigned(self, partitions: frozenset[int]) -> None:
        """Part of a poll."""
        self._health.assigned(partitions)
        logger.info("partitions assigned", extra={"partitions": sorted(partitions)})

    def on_revoked(self) -> None:
        """Part of a poll: store and commit what can be, forget the rest; its next owner reads it again."""
        self._flush_if_any()
        self.on_lost()

    def on_lost(self) -> None:
        """Part of a poll: what is read but not stored is another member's business now."""
        self._buffer.clear()
        self._pauses = None
        self._metrics.lag.clear()

    def _take(self, record: ReceivedRecord) -> None:
        try:
            event = events.decode(record.value)
        except InvalidEventError as error:
            self._buffer.add_letter(DeadLetter.of(record, error))
        else:
            self._buffer.add_document(record, event)
            self._metrics.events_consumed.labels(event["event_type"]).inc()

    def _flush_if_any(self) -> None:
        if len(self._buffer):
            self._flush()

    def _flush(self) -> None:
        """Make safe what is buffered, then commit; on a failure keep it and plan the next try."""
        try:
            self._store()
            self._bury()
        except (StoreError, DeliveryError) as error:
            self._plan_retry(error)
            return
        if self._pauses is not None:
            logger.warning("flushing works again", extra=self._waiting())
            self._pauses = None
            self._source.resume()
        self._commit()
        self._buffer.clear()

    def _store(self) -> None:
        documents = self._buffer.documents
        if not documents:
            return
        try:
            with self._metrics.write_duration.time():
                written = self._writer.write(documents)
        except StoreError:
            self._metrics.writes.labels("error").inc()
            self._health.store(up=False)
            raise
        self._health.store(up=True)
        self._metrics.writes.labels("success").inc()
        self._metrics.duplicates_skipped.inc(written.duplicates)
        now = datetime.now(UTC)
        for document in documents:
            self._metrics.end_to_end.observe(max(0.0, (now - document["received_at"]).total_seconds()))

    def _bury(self) -> None:
        letters = self._buffer.letters
        if not letters:
            return
        self._dead_letters.send(letters)
        for letter in letters:
            self._metrics.dead_letters.labels(letter.reason).inc()
            logger.warning(
                "dead letter",
                extra={"partition": letter.record.partition, "offset": letter.record.offset, "reason": letter.reason},
            )

    def _commit(self) -> None:
        try:
            self._source.commit(self._buffer.offsets)
        except KafkaError as error:
            # All of it is stored: what is read again is skipped as a duplicate.
            logger.warning("offsets not committed; a later commit covers them", extra={"error": repr(error)})

    def _plan_retry(self, error: Exception) -> None:
        if self._pauses is None:
            logger.error("flushing failed; trying until it works", extra={"error": str(error), **self._waiting()})
            self._pauses = self._backoff.pauses()
        self._retry_at = self._clock() + next(self._pauses)
        self._source.pause()

    def _waiting(self) -> dict[str, int]:
        return {"events": len(self._buffer)}
