"""Poll, decode, flush, commit: the consumer's one thread of work.

The rule: an offset is committed only when everything before it is in MongoDB or acknowledged as a dead letter.
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
    """Moves records from the source to the writer until told to stop. Hears of rebalances itself."""

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
        """`max_retries`: how often one document that MongoDB refuses is tried again before it is given up."""
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

        Raises TooManyDeadLettersError; and TopicError when the topic was deleted, after it has stored what it had read
        of it, and left the group. The source can then be connected and `run` be called again.
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
        """Flush once, commit what is safe then, and leave the group."""
        self._flush_if_any()
        self._source.close()
        if len(self._buffer):
            logger.warning("stopped with events not stored; they will be read again", extra=self._waiting())
        else:
            logger.info("stopped; all that was read is stored")

    def _leave_deleted_topic(self) -> None:
        """Store what was read, once, and commit nothing: the offsets would count in the topic that takes its place."""
        if self._buffer.offsets:
            self._flush(commit=False)
        if len(self._buffer):
            logger.error("events of the deleted topic were read, and could not be stored", extra=self._waiting())
        self.on_lost()
        self._health.assigned(None)
        self._source.close()

    def step(self) -> None:
        """One poll and, when it is time, one flush."""
        records = self._source.poll(_POLL_SECONDS)
        self._take(records)
        self._show_state(moved=bool(records))
        if not self._outage.ongoing:
            if self._buffer.due:
                self._flush()
        elif self._clock() >= self._retry_at or (self._store_was_away and self._writer.available()):
            # The pause is over, or MongoDB is back before that.
            self._metrics.retries.inc()
            self._flush()
        else:
            # A rebalance would have resumed what is paused.
            self._source.pause()

    def on_assigned(self, partitions: frozenset[int]) -> None:
        """Part of a poll."""
        self._health.assigned(partitions)
        for partition in partitions:
            self._metrics.lag.labels(partition).set(0)
            self._metrics.records_lost.labels(partition)
        logger.info("partitions assigned", extra={"partitions": sorted(partitions)})

    def on_revoked(self) -> None:
        """Part of a poll: store and commit what can be, once; forget the rest: its next owner reads it again."""
        try:
            self._flush_if_any()
        finally:
            self.on_lost()

    def on_lost(self) -> None:
        """Part of a poll: what is read but not stored is another member's business now."""
        self._buffer.clear()
        self._outage.forget()
        self._metrics.lag.clear()
        self._health.letters(None)

    def on_jump(self, partition: int, offset: int, *, lost: int) -> None:
        """Part of a poll. Committed with what was read before it, or the next start would tell of the same records."""
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
                # Of its first arrival: a later one of the same event_id stores nothing.
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
            # Else the last write tells.
            self._health.store(up=self._writer.available())
        # Waiting for MongoDB is no standstill of ours, and neither is having nothing to do.
        if moved or self._outage.ongoing or not any(lag.values()):
            self._health.progressed()

    def _flush_if_any(self) -> None:
        if self._buffer.offsets:
            self._flush()

    def _flush(self, *, commit: bool = True) -> None:
        """Make safe what is buffered, then commit; on a failure that passes keep what is not safe, and plan a retry."""
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
        """Write what is not stored; what MongoDB refuses again and again becomes a letter. Raises StoreError."""
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
        """Write all that waits, once, but for forgotten customers' events; returns what was refused, by its index."""
        try:
            self._leave_out_events()
            waiting = [buffered.event for buffered in self._buffer.events]
            if not waiting:
                return {}
            with self._metrics.write_duration.time():
                written = self._writer.write(waiting)
            if self._forgotten.late:
                # Who was forgotten meanwhile may have been deleted before this write.
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
            logger.warning("other events have these ids already; not stored", extra=some)
        now = datetime.now(UTC)
        for index, event in enumerate(waiting):
            if index not in written.refused:
                self._metrics.end_to_end.observe(max(0.0, (now - event["received_at"]).total_seconds()))
        return written.refused

    def _leave_out_events(self) -> None:
        """Take forgotten customers' events out of the buffer. Raises StoreError."""
        events = self._buffer.events
        if gone := self._forgotten.leave_out([buffered.event for buffered in events]):
            self._buffer.events = [buffered for index, buffered in enumerate(events) if index not in gone]
            self._metrics.forgotten.inc(len(gone))

    def _leave_out_letters(self) -> None:
        """Take forgotten customers' letters out of the buffer. Raises StoreError."""
        letters = self._buffer.letters
        if gone := self._forgotten.leave_out_records([letter.record for letter in letters]):
            self._buffer.letters = [letter for index, letter in enumerate(letters) if index not in gone]
            self._metrics.forgotten.inc(len(gone))

    def _bury(self) -> None:
        """Send the letters away. Raises StoreError, DeliveryError, or TooManyDeadLettersError before any is sent."""
        if self._buffer.letters:
            self._leave_out_letters()
        records, letters = self._buffer.records, self._buffer.letters
        news = [letter for letter in letters if not letter.replayed]
        self._death_limit.check(records, len(news), f"the newest is {news[-1]}" if news else "")
        if letters:
            self._send(letters)
        self._death_limit.count(records, len(news))

    def _send(self, letters: Sequence[DeadLetter]) -> None:
        """Send the letters; those that are not safe then stay in the buffer. Raises DeliveryError if there are any."""
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
