"""The Kafka side: records in, offsets out, and whose partitions they are."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from kafka import ConsumerRebalanceListener, TopicPartition
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.errors import KafkaError

from common.errors import TopicError
from common.kafka.client import (
    MAX_POLL_RECORDS,
    NO_OFFSET,
    OUT_OF_RANGE,
    connect_consumer,
    offset_to_commit,
    out_of_range,
    poll,
    position,
    without_offset,
)
from common.kafka.records import ReceivedRecord
from common.settings import KafkaSettings

logger = logging.getLogger(__name__)


class RebalanceHandler(Protocol):
    """What hears, during a `poll`, of partitions that come and go, and of records that will never come."""

    def on_assigned(self, partitions: frozenset[int]) -> None:
        """These partitions are ours now."""

    def on_revoked(self) -> None:
        """All partitions go; what was read of them can still be committed, now."""

    def on_lost(self) -> None:
        """All partitions are somebody else's already."""

    def on_jump(self, partition: int, offset: int, *, lost: int) -> None:
        """A partition goes on at another offset than the next one, having lost so many records that were never read."""


class Source(Protocol):
    """A member of the consumer group. For one thread only."""

    def subscribe(self, handler: RebalanceHandler) -> None:
        """Join the group, at the next poll."""

    def poll(self, timeout: float) -> list[ReceivedRecord]:
        """New records, waiting up to `timeout` seconds for some. Can block longer while the broker is away.

        Raises TopicError when the topic was deleted.
        """

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Have Kafka store, by partition, the offset to go on from. Does not wait for it, and raises nothing.

        Kafka gets it before it learns that this member leaves or rejoins. A commit that fails is sent again by a later
        `poll`; what is not committed when the partitions go is read again.
        """

    def pause(self) -> None:
        """Get no records from `poll`, which keeps the membership. A rebalance ends it."""

    def resume(self) -> None:
        """Get records again."""

    def lag(self) -> dict[int, int]:
        """By partition, how many records there are behind those polled, where it is known. Does not block."""

    def close(self) -> None:
        """Leave the group; commits nothing."""


class KafkaSource:
    """`Source` on a real broker."""

    def __init__(
        self,
        settings: KafkaSettings,
        group_id: str,
        *,
        topic_missing: Callable[[], bool] = lambda: False,
    ) -> None:
        """`topic_missing`: whether the topic is known to be gone.

        Call `connect` before anything else, and again after TopicError.
        """
        self._topic_missing = topic_missing
        self._settings = settings
        self._group_id = group_id
        self._consumer: Any = None
        self._next_offsets: dict[int, int] = {}
        self._to_commit: dict[int, int] = {}
        self._commit_failed = False

    def connect(self) -> None:
        """Blocks some seconds; raises KafkaError without a broker and TopicError without the topic."""
        consumer = connect_member(self._settings, self._group_id)
        # Also because kafka-python, when it joins without having seen the topic, is given no partition of it.
        if self._topic_missing() or not consumer.partitions_for_topic(self._settings.topic):
            consumer.close(autocommit=False)
            raise TopicError(f"Topic {self._settings.topic} does not exist: run `python -m common.topics`.")
        self._consumer = consumer

    def subscribe(self, handler: RebalanceHandler) -> None:
        self._handler = handler
        self._consumer.subscribe([self._settings.topic], listener=_Listener(self._during_rebalance, handler))

    def poll(self, timeout: float) -> list[ReceivedRecord]:
        if self._commit_failed:
            self.commit({})
        if self._topic_missing():
            raise TopicError(f"Topic {self._settings.topic} was deleted: create it with `python -m common.topics`.")
        try:
            records = poll(self._consumer, timeout)
        except NO_OFFSET as error:
            self._begin_at_the_oldest_record(without_offset(error))
            return []
        except OUT_OF_RANGE as error:
            self._go_on_behind_what_is_gone(out_of_range(error))
            return []
        for record in records:
            self._next_offsets[record.partition] = record.offset + 1
        return records

    def commit(self, offsets: Mapping[int, int]) -> None:
        self._commit_failed = False
        self._to_commit.update(offsets)
        commits = {self._partition(number): offset_to_commit(offset) for number, offset in self._to_commit.items()}
        # The client's `commit` has no deadline while the broker is away, and kafka-python rebalances in a thread that
        # must not wait for its own answers.
        self._consumer.commit_async(commits, callback=self._after_commit)

    def pause(self) -> None:
        self._consumer.pause(*self._consumer.assignment())

    def resume(self) -> None:
        # kafka-python-ng throws away what it has fetched for a paused partition, and then goes on behind it as if
        # it had been polled. Seeking makes it fetch that again.
        for partition in self._consumer.paused():
            if partition.partition in self._next_offsets:
                self._consumer.seek(partition, self._next_offsets[partition.partition])
            self._consumer.resume(partition)

    def lag(self) -> dict[int, int]:
        lag = {}
        for partition, offset in self._next_offsets.items():
            end = self._consumer.highwater(self._partition(partition))
            if end is not None:
                # Behind the last record may be transactions' markers alone: the client goes past them, nobody polls
                # them.
                at = position(self._consumer, self._partition(partition)) if end > offset else offset
                lag[partition] = max(0, end - at)
        return lag

    def close(self) -> None:
        self._consumer.close(autocommit=False)

    def _begin_at_the_oldest_record(self, partitions: Sequence[Any]) -> None:
        """Where the group has committed nothing: it is new, or was away until Kafka forgot its offsets."""
        try:
            begins = self._consumer.beginning_offsets(partitions)
        except KafkaError as error:
            # The next poll comes here again.
            logger.info("Kafka did not tell its oldest offsets yet", extra={"error": repr(error)})
            return
        for partition, begin in begins.items():
            self._consumer.seek(partition, begin)
            # Or what retention takes before the first record is polled would not be missed.
            self._next_offsets[partition.partition] = begin
            if begin:
                places = {"partition": partition.partition, "begins_at": begin}
                logger.warning(
                    "the group has no offset; it begins at the oldest record, and others are gone", extra=places
                )

    def _go_on_behind_what_is_gone(self, positions: Mapping[int, int | None]) -> None:
        """Seek to the oldest record of each of these partitions; say how many were deleted before they were read."""
        try:
            self._poll_again_what_the_client_dropped()
            begins = self._consumer.beginning_offsets([self._partition(number) for number in positions])
        except KafkaError as error:
            # The next poll comes here again.
            logger.info("Kafka did not tell its oldest offsets yet", extra={"error": repr(error)})
            return
        for number, asked in positions.items():
            begin = begins[self._partition(number)]
            self._consumer.seek(self._partition(number), begin)
            self._next_offsets[number] = begin
            # What is on its way there is about what is no more.
            self._to_commit.pop(number, None)
            places = {"partition": number, "offset": asked, "goes_on_at": begin}
            lost = 0 if asked is None else max(0, begin - asked)
            if lost:
                gone = {**places, "records": lost}
                logger.error("records were gone before they were read: Kafka's retention is over", extra=gone)
            else:
                logger.error("Kafka has fewer records than were read: the topic was made anew or cut", extra=places)
            self._handler.on_jump(number, begin, lost=lost)

    def _poll_again_what_the_client_dropped(self) -> None:
        """kafka-python-ng loses what it has for a `poll` that raises, and goes on behind it."""
        for partition in self._consumer.assignment():
            offset = self._next_offsets.get(partition.partition)
            if offset is None:
                # Nothing of it was polled: it stands where the group left it.
                offset = self._consumer.committed(partition)
            if offset is not None:
                self._consumer.seek(partition, offset)

    def _during_rebalance(self, handle: Callable[[], None]) -> None:
        try:
            handle()
        finally:
            self._next_offsets.clear()
            self._to_commit.clear()
            self._commit_failed = False

    def _after_commit(self, _: Any, answer: Any) -> None:
        if isinstance(answer, Exception):
            # The first sentence: the client explains some errors at length, in several lines.
            sentence = " ".join(str(answer).split()).partition(". ")[0]
            logger.info("offsets not committed yet", extra={"error": sentence})
            # Not if its partitions are gone: they are another member's business then.
            self._commit_failed = bool(self._to_commit)

    def _partition(self, number: int) -> Any:
        return TopicPartition(self._settings.topic, number)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # the client has no types
    """Turns the client's callbacks into the handler's; the client logs what they raise and goes on."""

    def __init__(self, during_rebalance: Callable[[Callable[[], None]], None], handler: RebalanceHandler) -> None:
        self._during_rebalance = during_rebalance
        self._handler = handler

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        self._handler.on_assigned(frozenset(partition.partition for partition in assigned))

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        if revoked:
            self._during_rebalance(self._handler.on_revoked)

    def on_partitions_lost(self, lost: Iterable[Any]) -> None:
        del lost
        self._during_rebalance(self._handler.on_lost)


def connect_member(settings: KafkaSettings, group_id: str) -> Any:
    """A consumer of the group that commits nothing by itself. `poll` of it raises NO_OFFSET and OUT_OF_RANGE.

    A poll returns 500 records at most. Blocks some seconds; raises KafkaError without a broker.
    """
    return connect_consumer(
        settings,
        group_id=group_id,
        # The client would go on at the oldest record in silence: nobody would hear of those that are gone.
        auto_offset_reset="none",
        max_poll_records=MAX_POLL_RECORDS,
        session_timeout_ms=10_000,
        heartbeat_interval_ms=3_000,
        # Eager: a rebalance revokes all partitions, which is what `consumer/loop.py` counts on.
        partition_assignment_strategy=[RangePartitionAssignor],
    )
