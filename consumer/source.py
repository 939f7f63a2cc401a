"""The Kafka side: records in, offsets out, and whose partitions they are."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from common import kafka
from common.errors import TopicError
from common.settings import KafkaSettings


class ReceivedRecord(NamedTuple):
    """A record of the events topic. `timestamp_ms`: when it was produced, since the epoch."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


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
        """Store, by partition, the offset to go on from. Blocks; raises KafkaError when it is not stored.

        Called from `on_revoked` it neither blocks nor tells: what is not stored then is read again by the next owner.
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
        self._rebalancing = False

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
        polled = self._consumer.poll(timeout_ms=int(timeout * 1000))
        records = [
            ReceivedRecord(
                partition=record.partition,
                offset=record.offset,
                timestamp_ms=record.timestamp,
                key=record.key,
                value=record.value,
                headers=tuple(record.headers),
            )
            for of_partition in polled.values()
            for record in of_partition
        ]
        for record in records:
            self._next_offsets[record.partition] = record.offset + 1
        return records

    def commit(self, offsets: Mapping[int, int]) -> None:
        commits = {self._partition(number): kafka.offset_to_commit(offset) for number, offset in offsets.items()}
        if self._rebalancing:
            # kafka-python rebalances in a thread that must not wait for its own answers. Both clients send this
            # before they join the group anew.
            self._consumer.commit_async(commits)
        else:
            self._consumer.commit(commits)

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
                lag[partition] = max(0, end - offset)
        return lag

    def close(self) -> None:
        self._consumer.close(autocommit=False)

    def _during_rebalance(self, handle: Callable[[], None]) -> None:
        self._rebalancing = True
        try:
            handle()
        finally:
            self._rebalancing = False
            self._next_offsets.clear()

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
