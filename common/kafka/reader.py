"""Reads a topic up to its end at the time of opening, and the committed offsets of a group."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

from kafka import TopicPartition
from kafka.errors import KafkaError

from common.errors import ReadError
from common.kafka.client import bounds, connect_consumer, poll, position
from common.kafka.records import ReceivedRecord
from common.settings import KafkaSettings

T = TypeVar("T")


class RecordReader(Protocol):
    """Reads a topic up to its end at the time of opening, without later records."""

    @property
    def size(self) -> int:
        """The maximum number of records: it may include deleted ones."""

    def read(self, first: Mapping[int, int] | None = None) -> Iterator[ReceivedRecord]:
        """The records, in the order of each partition; can be called again. Blocks; raises ReadError, KafkaError.

        `first`: by partition, the offset to begin at; other partitions are left out. Without it, all there is.
        """

    def close(self) -> None:
        """Drop the connection. Does not wait."""


class KafkaReader:
    """`RecordReader` on a real broker. Joins no group and commits nothing. For one thread."""

    def __init__(self, settings: KafkaSettings, topic: str, *, timeout: float = 15.0) -> None:
        """Connects. Blocks up to `timeout` seconds for each answer; raises ReadError, TopicError, KafkaError."""
        self._topic = topic
        self._timeout = timeout
        self._silence = f"No answer from Kafka at {settings.broker_list} within {timeout:g} s"
        self._consumer = _connect_reader(settings, timeout)
        try:
            self._begins, self._ends = _within(timeout, partial(bounds, self._consumer, topic), self._silence)
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        return sum(end - self._begins[partition] for partition, end in self._ends.items())

    @property
    def ends(self) -> dict[int, int]:
        """By partition, the offset after the last record, where another reader can continue."""
        return dict(self._ends)

    def since(self, moment_ms: int) -> dict[int, int]:
        """By partition, the offset of the first record produced then or later, in milliseconds since the epoch.

        Partitions without one are left out. Blocks up to the timeout; raises ReadError, KafkaError.
        """
        partitions = {self._partition(number): moment_ms for number in self._begins}
        found = _within(self._timeout, partial(self._consumer.offsets_for_times, partitions), self._silence)
        return {partition.partition: at.offset for partition, at in found.items() if at is not None}

    def read(self, first: Mapping[int, int] | None = None) -> Iterator[ReceivedRecord]:
        wanted = self._begins if first is None else first
        positions = {n: max(begin, self._begins[n]) for n, begin in wanted.items() if n in self._begins}
        positions = {n: begin for n, begin in positions.items() if begin < self._ends[n]}
        self._consumer.assign([self._partition(number) for number in positions])
        for number, begin in positions.items():
            self._consumer.seek(self._partition(number), begin)
        heard_at = time.monotonic()
        while any(position < self._ends[number] for number, position in positions.items()):
            records = poll(self._consumer, 0.2)
            for record in records:
                if record.offset < self._ends[record.partition]:
                    yield record
            # Not the offsets of the records: some offsets have no record, and only the client knows that it has passed
            # them.
            before, positions = positions, {n: position(self._consumer, self._partition(n)) for n in positions}
            if records or positions != before:
                # The time now, since the caller may have been slow with the records.
                heard_at = time.monotonic()
            elif time.monotonic() - heard_at > self._timeout:
                raise ReadError(f"{self._silence}; the rest of {self._topic} was not read.")

    def close(self) -> None:
        self._consumer.close(autocommit=False)

    def _partition(self, number: int) -> Any:
        return TopicPartition(self._topic, number)


class GroupOffsets(NamedTuple):
    """A partition's oldest offset, the one after its newest, and the group's committed one (None: not committed
    yet).
    """

    begin: int
    end: int
    committed: int | None


def group_offsets(
    settings: KafkaSettings, topic: str, group_id: str, *, timeout: float = 15.0
) -> dict[int, GroupOffsets]:
    """By partition, the offsets of a group. Does not join it.

    Blocks up to `timeout` seconds for each answer; raises ReadError, TopicError, KafkaError.
    """
    consumer = _connect_reader(settings, timeout, group_id=group_id)

    def ask() -> dict[int, GroupOffsets]:
        # First the committed offset: then the end is never before it, unless the topic was created again.
        numbers = consumer.partitions_for_topic(topic) or ()
        committed = {number: consumer.committed(TopicPartition(topic, number)) for number in numbers}
        begins, ends = bounds(consumer, topic)
        return {number: GroupOffsets(begins[number], ends[number], committed.get(number)) for number in ends}

    try:
        return _within(timeout, ask, f"No answer from Kafka at {settings.broker_list} within {timeout:g} s")
    finally:
        consumer.close(autocommit=False)


def _connect_reader(settings: KafkaSettings, timeout: float, **options: Any) -> Any:
    """A consumer that does not join a group. Raises ReadError."""
    try:
        return connect_consumer(
            settings,
            # The caller always seeks: if the position were deleted, the client would ask for another one without a
            # deadline.
            auto_offset_reset="none",
            request_timeout_ms=int(timeout * 1000),
            **options,
        )
    except (KafkaError, OSError) as error:
        raise ReadError(
            f"No connection to Kafka at {settings.broker_list} ({type(error).__name__}): "
            "start it, or set KAFKA_BROKERS."
        ) from None


def _within(timeout: float, call: Callable[[], T], silence: str) -> T:
    """The call's result. Runs it in a thread, since the client waits for metadata without a deadline."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(call())
        except BaseException as error:  # noqa: BLE001, raised where it is waited for
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return result.result(timeout)
    except TimeoutError:
        raise ReadError(f"{silence}.") from None
