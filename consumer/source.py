"""The Kafka side: records in, offsets out, and whose partitions they are."""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from common import kafka
from common.errors import TopicError
from common.kafka import ReceivedRecord
from common.settings import KafkaSettings

logger = logging.getLogger(__name__)


class RebalanceHandler(Protocol):
    """What hears of partitions that come and go, during a `poll`."""

    def on_assigned(self, partitions: frozenset[int]) -> None:
        """These partitions are ours now."""

    def on_revoked(self) -> None:
        """All partitions go; what was read of them can still be committed, now."""

    def on_lost(self) -> None:
        """All partitions are somebody else's already."""


class Source(Protocol):
    """A member of the consumer group. For one thread only."""

    def subscribe(self, handler: RebalanceHandler) -> None:
        """Join the group, at the next poll."""

    def poll(self, timeout: float) -> list[ReceivedRecord]:
        """New records, waiting up to `timeout` seconds for some. Can block longer while the broker is away."""

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

    def __init__(self, settings: KafkaSettings, group_id: str, *, max_records: int) -> None:
        """`max_records`: what one poll returns at most. Call `connect` before anything else."""
        self._settings = settings
        self._group_id = group_id
        self._max_records = max_records
        self._consumer: Any = None
        self._next_offsets: dict[int, int] = {}
        self._to_commit: dict[int, int] = {}
        self._commit_failed = False

    def connect(self) -> None:
        """Blocks some seconds; raises KafkaError without a broker and TopicError without the topic."""
        consumer = kafka.connect_consumer(self._settings, self._group_id, max_records=self._max_records)
        # Also because kafka-python, when it joins without having seen the topic, is given no partition of it.
        if not consumer.partitions_for_topic(self._settings.topic):
            consumer.close(autocommit=False)
            raise TopicError(f"Topic {self._settings.topic} does not exist: run `python -m common.topics`.")
        self._consumer = consumer

    def subscribe(self, handler: RebalanceHandler) -> None:
        self._consumer.subscribe([self._settings.topic], listener=_Listener(self._during_rebalance, handler))

    def poll(self, timeout: float) -> list[ReceivedRecord]:
        if self._commit_failed:
            self.commit({})
        records = kafka.poll(self._consumer, timeout)
        self._follow(records)
        return records

    def commit(self, offsets: Mapping[int, int]) -> None:
        self._commit_failed = False
        self._to_commit.update(offsets)
        commits = {
            self._partition(number): kafka.offset_to_commit(offset) for number, offset in self._to_commit.items()
        }
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
                at = kafka.position(self._consumer, self._partition(partition)) if end > offset else offset
                lag[partition] = max(0, end - at)
        return lag

    def close(self) -> None:
        self._consumer.close(autocommit=False)

    def _follow(self, records: Iterable[ReceivedRecord]) -> None:
        """Note where each partition goes on, and say so if records are gone that nobody has read."""
        for record in records:
            missing = record.offset - self._next_offsets.get(record.partition, record.offset)
            if missing > 0:
                gone = {"partition": record.partition, "records": missing, "before_offset": record.offset}
                logger.error("records were gone before they were read: Kafka's retention is over", extra=gone)
            self._next_offsets[record.partition] = record.offset + 1

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
        return kafka.TopicPartition(self._settings.topic, number)


class _Listener(kafka.ConsumerRebalanceListener):  # type: ignore[misc]  # the client has no types
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
