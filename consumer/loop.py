"""Poll, decode, flush, commit: the consumer's main thread.

The rule: it commits an offset only when everything before it is in MongoDB or acknowledged as a dead letter.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from common import event_json
from common.errors import InvalidEventError, PulseError, RefusedDocumentError, StoreError, TopicError
from common.kafka import ReceivedRecord, Source
from common.metrics import Children, ConsumerMetrics
from common.outage import Outage
from common.restored import first_place
from common.retry import Backoff
from consumer import policy
from consumer.buffer import Buffer
from consumer.dead_letters import DeadLetter, DeadLetters
from consumer.forgotten import Forgotten
from consumer.health import Health
from consumer.writer import Writer

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_IDS_LOGGED = 10


class Loop:
    """Moves records from the source to the writer until told to stop. Handles rebalances itself."""

    def __init__(
        self,
        source: Source,
        buffer: Buffer,
        writer: Writer,
        forgotten: Forgotten,
        dead_letters: DeadLetters,
        *,
        max_retries: int,
        death_limit: policy.DeathLimit,
        metrics: ConsumerMetrics,
        health: Health,
        backoff: Backoff,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`max_retries`: the number of retries of a document that MongoDB refuses before it becomes a dead letter."""
        self._source = source
        self._buffer = buffer
        self._writer = writer
        self._forgotten = forgotten
        self._dead_letters = dead_letters
        self._max_retries = max_retries
        self._death_limit = death_limit
        self._metrics = metrics
        self._events_consumed = Children(metrics.events_consumed)
        self._dead_letters_sent = Children(metrics.dead_letters)
        self._health = health
        self._outage = Outage("storing events", backoff, clock)
        self._clock = clock
        self._retry_at = 0.0
        self._store_was_away = False

    def run(self, stopping: Callable[[], bool]) -> None:
        """Work until `stopping()`, then stop. Blocks as the source and writer do.

        Raises TooManyDeadLettersError; and TopicError if the topic was deleted, after it has stored the records that it
        had read and left the group. The caller can then connect the source and call `run` again.
        """
        self._source.subscribe(self)
        try:
            while not stopping():
                self.step()
        except TopicError:
            self._leave_deleted_topic()
            raise
        self.stop()

    def stop(self) -> None:
        """Flush once, commit the safe offsets, and leave the group."""
        self._flush_if_any()
        self._source.close()
        if len(self._buffer):
            logger.warning("stopped with events not stored; they will be read again", extra=self._waiting())
        else:
            logger.info("stopped; all records that were read are stored")

    def _leave_deleted_topic(self) -> None:
        """Try once to store the records that were read, without a commit: the offsets would apply to the new topic."""
        if self._buffer.offsets:
            self._flush(commit=False)
        if len(self._buffer):
            logger.error("events of the deleted topic were read, but could not be stored", extra=self._waiting())
        self.on_lost()
        self._health.assigned(None)
        self._source.close()

    def step(self) -> None:
        """One poll and, if due, one flush."""
        records = self._source.poll(_POLL_SECONDS)
        self._take(records)
        self._show_state(moved=bool(records))
        if not self._outage.ongoing:
            if self._buffer.due:
                self._flush()
        elif self._clock() >= self._retry_at or (self._store_was_away and self._writer.available()):
            # The pause is over, or MongoDB is back earlier.
            self._metrics.retries.inc()
            self._flush()
        else:
            # A rebalance may have resumed the partitions.
            self._source.pause()

    def on_assigned(self, partitions: frozenset[int]) -> None:
        """Part of a poll."""
        self._health.assigned(partitions)
        for partition in partitions:
            self._metrics.lag.labels(partition).set(0)
            self._metrics.records_lost.labels(partition)
        logger.info("partitions assigned", extra={"partitions": sorted(partitions)})

    def on_revoked(self) -> None:
        """Part of a poll: try once to store and commit; drop the rest, which its next owner reads again."""
        try:
            self._flush_if_any()
        finally:
            self.on_lost()

    def on_lost(self) -> None:
        """Part of a poll: drop unstored records, since another member owns their partitions now."""
        self._buffer.clear()
        self._outage.forget()
        self._metrics.lag.clear()
        self._health.letters(None)

    def on_jump(self, partition: int, offset: int, *, lost: int) -> None:
        """Part of a poll. The jump is committed, or the next start would report the same records again."""
        self._metrics.records_lost.labels(partition).inc(lost)
        self._buffer.jump(partition, offset)

    def _take(self, records: Sequence[ReceivedRecord]) -> None:
        types: list[str] = []
        for record in records:
            try:
                event = event_json.decode(record.value)
            except InvalidEventError as error:
                self._buffer.add_letter(DeadLetter.of(record, error))
            else:
                # The place of the first arrival: a later one with the same event_id stores nothing.
                event["kafka"] = first_place(record.headers, record.partition, record.offset)
                self._buffer.add_event(record, event)
                types.append(event["event_type"])
        self._events_consumed.count(types)

    def _show_state(self, *, moved: bool) -> None:
        lag = self._source.lag()
        for partition, behind in lag.items():
            self._metrics.lag.labels(partition).set(behind)
        self._metrics.buffer_size.set(len(self._buffer))
        self._health.polled()
        if not self._outage.ongoing:
            # During an outage, the last write sets the state.
            self._health.store(up=self._writer.available())
        # Waiting for MongoDB counts as progress, and so does having nothing to do.
        if moved or self._outage.ongoing or not any(lag.values()):
            self._health.progressed()

    def _flush_if_any(self) -> None:
        if self._buffer.offsets:
            self._flush()

    def _flush(self, *, commit: bool = True) -> None:
        """Store the buffered records, then commit; on a transient failure keep the unsafe ones, and plan a retry."""
        try:
            self._store()
            self._bury()
        except PulseError as error:
            rule = policy.of_error(error)
            if rule is None or rule.action is not policy.Action.RETRY:
                raise
            self._plan_retry(error)
            return
        if self._outage.ongoing:
            self._outage.over()
            self._source.resume()
        if commit:
            self._source.commit(self._buffer.offsets)
        self._buffer.clear()

    def _store(self) -> None:
        """Write the unstored events; those that MongoDB refuses repeatedly become letters. Raises StoreError."""
        first_failed: datetime | None = None
        attempts = 0
        while self._buffer.events:
            refused = self._write()
            attempts += 1
            first_failed = first_failed or datetime.now(UTC)
            waiting = self._buffer.events
            self._buffer.events = [waiting[index] for index in refused]
            if attempts > self._max_retries:
                self._buffer.events = []
                self._buffer.letters += [
                    DeadLetter(waiting[index].record, error, attempts, first_failed, datetime.now(UTC))
                    for index, error in refused.items()
                ]

    def _write(self) -> Mapping[int, RefusedDocumentError]:
        """Write all waiting events once, except those of forgotten customers; returns the refused ones, by index."""
        try:
            self._leave_out_events()
            waiting = [buffered.event for buffered in self._buffer.events]
            if not waiting:
                return {}
            with self._metrics.write_duration.time():
                written = self._writer.write(waiting)
            if self._forgotten.late:
                # A customer forgotten in the meantime may have been deleted before this write.
                self._metrics.forgotten.inc(len(self._forgotten.leave_out(waiting)))
        except StoreError:
            self._metrics.writes.labels("error").inc()
            self._health.store(up=False)
            raise
        self._health.store(up=True)
        self._metrics.writes.labels("success").inc()
        self._metrics.events_stored.inc(written.stored)
        self._metrics.duplicates_skipped.inc(written.duplicates)
        if written.conflicts:
            self._metrics.conflicting_ids.inc(len(written.conflicts))
            some = {"events": len(written.conflicts), "event_ids": written.conflicts[:_IDS_LOGGED]}
            logger.warning("other events already have these ids; not stored", extra=some)
        now = datetime.now(UTC)
        for index, event in enumerate(waiting):
            if index not in written.refused:
                self._metrics.end_to_end.observe(max(0.0, (now - event["received_at"]).total_seconds()))
        return written.refused

    def _leave_out_events(self) -> None:
        """Remove forgotten customers' events from the buffer. Raises StoreError."""
        events = self._buffer.events
        if gone := self._forgotten.leave_out([buffered.event for buffered in events]):
            self._buffer.events = [buffered for index, buffered in enumerate(events) if index not in gone]
            self._metrics.forgotten.inc(len(gone))

    def _leave_out_letters(self) -> None:
        """Remove forgotten customers' letters from the buffer. Raises StoreError."""
        letters = self._buffer.letters
        if gone := self._forgotten.leave_out_records([letter.record for letter in letters]):
            self._buffer.letters = [letter for index, letter in enumerate(letters) if index not in gone]
            self._metrics.forgotten.inc(len(gone))

    def _bury(self) -> None:
        """Send the letters. Raises StoreError, DeliveryError, or, before any is sent, TooManyDeadLettersError."""
        if self._buffer.letters:
            self._leave_out_letters()
        records, letters = self._buffer.records, self._buffer.letters
        news = [letter for letter in letters if not letter.replayed]
        self._death_limit.check(records, len(news), f"the newest is {news[-1]}" if news else "")
        if letters:
            self._send(letters)
        self._death_limit.count(records, len(news))

    def _send(self, letters: Sequence[DeadLetter]) -> None:
        """Send the letters; unsafe ones stay in the buffer. Raises DeliveryError if there are any."""
        unsent = self._dead_letters.send(letters)
        self._buffer.letters = [failed.letter for failed in unsent]
        reasons = Counter(letter.reason for letter in letters)
        reasons.subtract(failed.letter.reason for failed in unsent)
        self._dead_letters_sent.count(reasons.elements())
        if sent := len(letters) - len(unsent):
            logger.warning("dead letters sent", extra={"letters": sent, "reasons": dict(+reasons)})
        if unsent:
            error = self._dead_letters.problem(unsent)
            self._health.letters(str(error))
            raise error
        self._health.letters(None)

    def _plan_retry(self, error: PulseError) -> None:
        self._retry_at = self._clock() + self._outage.failed(error, **self._waiting())
        self._store_was_away = not self._writer.available()
        self._source.pause()

    def _waiting(self) -> dict[str, int]:
        return {"events": len(self._buffer)}
