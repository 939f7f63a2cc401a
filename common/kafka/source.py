"""The Kafka side of the consumer: records in, offsets out, and the group's partitions."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from kafka import ConsumerRebalanceListener, TopicPartition
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.errors import KafkaError

from common.errors import TopicError
from common.kafka.client import (
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
    """Is called, during a `poll`, for assigned and revoked partitions, and for deleted records."""

    def on_assigned(self, partitions: frozenset[int]) -> None:
        """The group has assigned these partitions."""

    def on_revoked(self) -> None:
        """The group revokes all partitions; a commit is still possible now."""

    def on_lost(self) -> None:
        """All partitions already belong to other members."""

    def on_jump(self, partition: int, offset: int, *, lost: int) -> None:
        """A partition continues at another offset than the next one, after it has `lost` unread records."""


class Source(Protocol):
    """A member of the consumer group. For one thread only."""

    def subscribe(self, handler: RebalanceHandler) -> None:
        """Join the group, at the next poll."""

    def poll(self, timeout: float) -> list[ReceivedRecord]:
        """New records, waiting up to `timeout` seconds for some. Can block longer while the broker is unavailable.

        Raises TopicError if the topic was deleted.
        """

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Commit the next offset of each partition. Does not wait for the result, and never raises.

        Kafka gets the commit before it learns that this member leaves or rejoins. A later `poll` repeats a failed
        commit; if the partitions are revoked before it succeeds, the records are read again.
        """

    def pause(self) -> None:
        """Make `poll` return no records, but keep the membership. A rebalance ends the pause."""

    def resume(self) -> None:
        """End the pause."""

    def lag(self) -> dict[int, int]:
        """By partition, the number of unpolled records, if known. Does not block."""

    def close(self) -> None:
        """Leave the group, without a commit."""


class KafkaSource:
    """`Source` on a real broker."""

    def __init__(
        self,
        settings: KafkaSettings,
        group_id: str,
        *,
        topic_missing: Callable[[], bool] = lambda: False,
    ) -> None:
        """`topic_missing`: whether the topic is known to be missing.

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
        # Also because kafka-python gets no partition if it joins before it has seen the topic.
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
        # The client's `commit` has no deadline while the broker is unavailable, and kafka-python rebalances in a thread
        # that must not wait for its own answers.
        self._consumer.commit_async(commits, callback=self._after_commit)

    def pause(self) -> None:
        self._consumer.pause(*self._consumer.assignment())

    def resume(self) -> None:
        # kafka-python-ng drops the fetched records of a paused partition, and then continues after them as if they had
        # been polled. A seek makes it fetch them again.
        for partition in self._consumer.paused():
            if partition.partition in self._next_offsets:
                self._consumer.seek(partition, self._next_offsets[partition.partition])
            self._consumer.resume(partition)

    def lag(self) -> dict[int, int]:
        lag = {}
        for partition, offset in self._next_offsets.items():
            end = self._consumer.highwater(self._partition(partition))
            if end is not None:
                # After the last record there may be only transaction markers: the client passes them, but never returns
                # them.
                at = position(self._consumer, self._partition(partition)) if end > offset else offset
                lag[partition] = max(0, end - at)
        return lag

    def close(self) -> None:
        self._consumer.close(autocommit=False)

    def _begin_at_the_oldest_record(self, partitions: Sequence[Any]) -> None:
        """Seek if the group has no committed offset: it is new, or its offsets have expired."""
        try:
            begins = self._consumer.beginning_offsets(partitions)
        except KafkaError as error:
            # The next poll comes here again.
            logger.info("Kafka did not tell its oldest offsets yet", extra={"error": repr(error)})
            return
        for partition, begin in begins.items():
            self._consumer.seek(partition, begin)
            # Otherwise a deletion by retention before the first poll would go unnoticed.
            self._next_offsets[partition.partition] = begin
            if begin:
                places = {"partition": partition.partition, "begins_at": begin}
                logger.warning(
                    "the group has no offset; it begins at the oldest record, and older ones are gone", extra=places
                )

    def _go_on_behind_what_is_gone(self, positions: Mapping[int, int | None]) -> None:
        """Seek to the oldest record of each of these partitions; report the number of deleted, unread records."""
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
            # A pending commit would be about deleted records.
            self._to_commit.pop(number, None)
            places = {"partition": number, "offset": asked, "goes_on_at": begin}
            lost = 0 if asked is None else max(0, begin - asked)
            if lost:
                gone = {**places, "records": lost}
                logger.error("records were deleted before they were read: Kafka's retention is over", extra=gone)
            else:
                logger.error(
                    "Kafka has fewer records than were read: the topic was created again or truncated", extra=places
                )
            self._handler.on_jump(number, begin, lost=lost)

    def _poll_again_what_the_client_dropped(self) -> None:
        """Seek back: if a `poll` raises, kafka-python-ng drops its fetched records, and continues after them."""
        for partition in self._consumer.assignment():
            offset = self._next_offsets.get(partition.partition)
            if offset is None:
                # Not polled yet: it is at the group's committed offset.
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
            # Only the first sentence: the client explains some errors in several lines.
            sentence = " ".join(str(answer).split()).partition(". ")[0]
            logger.info("offsets not committed yet", extra={"error": sentence})
            # Not after a revocation: then the partitions belong to another member.
            self._commit_failed = bool(self._to_commit)

    def _partition(self, number: int) -> Any:
        return TopicPartition(self._settings.topic, number)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # the client has no types
    """Maps the client's callbacks to the handler's; the client logs their exceptions and continues."""

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
    """A consumer of the group without auto-commit. Its `poll` raises NO_OFFSET and OUT_OF_RANGE.

    A poll returns 500 records at most. Blocks some seconds; raises KafkaError without a broker.
    """
    return connect_consumer(
        settings,
        group_id=group_id,
        # Otherwise the client would silently continue at the oldest record, and deleted ones would go unnoticed.
        auto_offset_reset="none",
        session_timeout_ms=10_000,
        heartbeat_interval_ms=3_000,
        # Eager: a rebalance revokes all partitions; `consumer/loop.py` relies on that.
        partition_assignment_strategy=[RangePartitionAssignor],
    )
