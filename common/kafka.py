"""The only place that imports the Kafka client (with `bulk_append` and `fetcher`, which it alone uses): connections,
sending with acknowledgement, reading a topic, metadata.

Written against what kafka-python-ng 2.2.3 and the current kafka-python share (docs/decisions.md).
"""

import contextlib
import inspect
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future as ThreadFuture
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

from kafka import ConsumerRebalanceListener, KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka import errors as kafka_errors
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic
from kafka.consumer import fetcher
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.errors import (
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    OffsetOutOfRangeError,
    RecordListTooLargeError,
    TopicAlreadyExistsError,
    UnknownError,
    UnknownTopicOrPartitionError,
    UnsupportedCodecError,
    for_code,
)
from kafka.future import Future
from kafka.structs import OffsetAndMetadata

from common import bulk_append
from common.errors import ReadError, TopicError
from common.settings import KafkaSettings

T = TypeVar("T")

_NO_OFFSET = "NoOffsetForPartitionError"
# The two clients have it in different places.
NO_OFFSET: type[KafkaError] = getattr(fetcher, _NO_OFFSET, None) or getattr(kafka_errors, _NO_OFFSET)
"""What `poll` raises where the group has committed nothing."""
OUT_OF_RANGE: tuple[type[KafkaError], ...] = (
    OffsetOutOfRangeError,
    # kafka-python alone looks whether a log has been cut.
    *filter(None, [getattr(kafka_errors, "LogTruncationError", None)]),
)
"""What `poll` raises where the record that comes next is gone, or was never there."""

__all__ = [
    "MAX_RECORD_BATCH_BYTES",
    "NO_OFFSET",
    "OUT_OF_RANGE",
    "ConsumerRebalanceListener",
    "GroupOffsets",
    "KafkaError",
    "KafkaReader",
    "KafkaSender",
    "KafkaTail",
    "NewTopic",
    "ReceivedRecord",
    "Record",
    "RecordReader",
    "RecordSender",
    "TopicAlreadyExistsError",
    "TopicConfig",
    "TopicPartition",
    "change_topic_config",
    "connect_admin",
    "connect_consumer",
    "group_offsets",
    "missing_topics",
    "never_takes",
    "offset_to_commit",
    "out_of_range",
    "poll",
    "position",
    "reachable",
    "topic_config",
    "without_offset",
]

MAX_RECORD_BATCH_BYTES = 1_000_000
"""The largest batch of records the client builds; a broker takes 1,048,588 bytes by default."""

_MAX_REQUEST_BYTES = 2 * MAX_RECORD_BATCH_BYTES
# Values can be large: so much of them is decoded before the caller looks how much it has.
_MAX_POLL_RECORDS = 500
# Of all partitions of a broker together; one batch of records comes whole, however large it is.
_MAX_FETCH_BYTES = 8 * 1024 * 1024
_MAX_TAIL_FETCH_BYTES = 512 * 1024
_METADATA_TIMEOUT_MS = 10_000
# In the answer to DescribeConfigs: where a value comes from.
_OF_THE_TOPIC = 1
# What kafka-python-ng makes of a connection that was closed at once (by a proxy whose Kafka is away, by some other
# server): it asks for the socket when that is gone.
_NO_SOCKET = "Invalid file object: None"
_POSITION_HAS_DEADLINE = "timeout_ms" in inspect.signature(KafkaConsumer.position).parameters


class Record(NamedTuple):
    """What goes to Kafka. Records with the same key go to the same partition."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class ReceivedRecord(NamedTuple):
    """What comes from Kafka. `timestamp_ms`: when it was produced, since the epoch."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class RecordSender(Protocol):
    """Sends records to one topic and says of each whether Kafka has it."""

    def send(self, records: Sequence[Record]) -> list[Exception | None]:
        """Send the records and wait for Kafka's answer: None for each acknowledged, else its error.

        Records of one partition keep their order. An error says nothing about whether Kafka stored the
        record. Blocks until all is answered or the timeout is over; raises nothing for a broker's fault.
        """

    def close(self) -> None:
        """Drop the connection. Does not wait."""


class KafkaSender:
    """`RecordSender` on a real broker. Connects when first used. For one thread at a time.

    The client itself retries nothing: a caller that sends a failed record again before any later one
    keeps the order of each partition, whatever failed.
    """

    def __init__(self, settings: KafkaSettings, topic: str, *, timeout: float = 30.0) -> None:
        """`timeout`: seconds to wait for an acknowledgement, a batch of records (one a partition)."""
        self._settings = settings
        self._topic = topic
        self._timeout = timeout
        self._producer: Any = None
        self._in_bulk = bulk_append.supported()

    def send(self, records: Sequence[Record]) -> list[Exception | None]:
        answers: list[Any] = []
        failure: Exception | None = None
        try:
            producer = self._connect()
            answers.extend(self._append(producer, records))
            producer.flush(timeout=self._timeout)
        except (KafkaError, OSError) as error:
            failure = error
        unfinished = failure or KafkaTimeoutError(f"no acknowledgement within {self._timeout:g} s")
        results = [answer.exception if answer.is_done else unfinished for answer in answers]
        results += [unfinished] * (len(records) - len(answers))
        if unfinished in results:
            # What is still under way would be sent behind our back, after what we send next.
            self.close()
        return results

    def close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            # kafka-python complains of what is given up.
            with contextlib.suppress(KafkaError):
                producer.close(timeout=0)

    def _append(self, producer: Any, records: Sequence[Record]) -> Iterable[Any]:
        """The futures of the records' answers, in order."""
        if self._in_bulk and bulk_append.takes(producer, records):
            return bulk_append.append(producer, self._topic, records)
        return (self._append_one(producer, record) for record in records)

    def _append_one(self, producer: Any, record: Record) -> Any:
        """The future of a record's answer."""
        # The client sends none that lacks both.
        value = b"" if record.key is None and record.value is None else record.value
        try:
            return producer.send(self._topic, value=value, key=record.key, headers=list(record.headers))
        except MessageSizeTooLargeError as error:
            # kafka-python raises it, kafka-python-ng answers with it.
            return Future().failure(error)

    def _connect(self) -> Any:
        if self._producer is None:
            self._producer = _new(
                KafkaProducer,
                self._settings,
                acks="all",
                retries=0,
                max_in_flight_requests_per_connection=1,
                batch_size=MAX_RECORD_BATCH_BYTES,
                max_request_size=_MAX_REQUEST_BYTES,
                # `flush` sends; until then a batch is only filled, so that a call makes one batch a partition.
                linger_ms=1000,
                max_block_ms=_METADATA_TIMEOUT_MS,
                request_timeout_ms=int(self._timeout * 1000),
                compression_type=None if self._settings.compression == "none" else self._settings.compression,
                # kafka-python turns this on by default and would then want retries of its own.
                **_where_known(KafkaProducer, enable_idempotence=False),
            )
            if self._in_bulk:
                bulk_append.lift_limit(self._producer)
        return self._producer


class RecordReader(Protocol):
    """Reads a topic as it was when the reader was opened: what comes later is not seen."""

    @property
    def size(self) -> int:
        """How many records there are, at most: deleted ones may be counted."""

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
            self._begins, self._ends = _within(timeout, partial(_bounds, self._consumer, topic), self._silence)
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        return sum(end - self._begins[partition] for partition, end in self._ends.items())

    @property
    def ends(self) -> dict[int, int]:
        """By partition, the offset after the last record: where another reader goes on."""
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
            # Not the offsets of the records: others may hold none, and only the client knows that it is past them.
            before, positions = positions, {n: position(self._consumer, self._partition(n)) for n in positions}
            if records or positions != before:
                # Now, not before: the caller may have taken its time with the records.
                heard_at = time.monotonic()
            elif time.monotonic() - heard_at > self._timeout:
                raise ReadError(f"{self._silence}; the rest of {self._topic} was not read.")

    def close(self) -> None:
        self._consumer.close(autocommit=False)

    def _partition(self, number: int) -> Any:
        return TopicPartition(self._topic, number)


class GroupOffsets(NamedTuple):
    """Of a partition: its oldest offset, the one after its newest, and where a group goes on (None: nowhere yet)."""

    begin: int
    end: int
    committed: int | None


def group_offsets(
    settings: KafkaSettings, topic: str, group_id: str, *, timeout: float = 15.0
) -> dict[int, GroupOffsets]:
    """By partition, how far a group has come. Joins no group.

    Blocks up to `timeout` seconds for each answer; raises ReadError, TopicError, KafkaError.
    """
    consumer = _connect_reader(settings, timeout, group_id=group_id)

    def ask() -> dict[int, GroupOffsets]:
        # First what is committed: the end is then never before it, unless the topic was made anew.
        numbers = consumer.partitions_for_topic(topic) or ()
        committed = {number: consumer.committed(TopicPartition(topic, number)) for number in numbers}
        begins, ends = _bounds(consumer, topic)
        return {number: GroupOffsets(begins[number], ends[number], committed.get(number)) for number in ends}

    try:
        return _within(timeout, ask, f"No answer from Kafka at {settings.broker_list} within {timeout:g} s")
    finally:
        consumer.close(autocommit=False)


def _connect_reader(settings: KafkaSettings, timeout: float, **options: Any) -> Any:
    """A consumer that is no member of a group. Raises ReadError."""
    try:
        return _new_consumer(
            settings,
            # A position is always sought: were it gone, the client would ask for another without a deadline.
            auto_offset_reset="none",
            max_poll_records=_MAX_POLL_RECORDS,
            request_timeout_ms=int(timeout * 1000),
            **options,
        )
    except (KafkaError, OSError) as error:
        raise ReadError(
            f"No connection to Kafka at {settings.broker_list} ({type(error).__name__}): "
            "start it, or set KAFKA_BROKERS."
        ) from None


def _bounds(consumer: Any, topic: str) -> tuple[dict[int, int], dict[int, int]]:
    """By partition, the first offset and the one after the last."""
    numbers = consumer.partitions_for_topic(topic)
    if not numbers:
        raise TopicError(f"Topic {topic} does not exist: run `python -m common.topics`.")
    partitions = [TopicPartition(topic, number) for number in numbers]
    begins, ends = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
    return ({p.partition: begins[p] for p in partitions}, {p.partition: ends[p] for p in partitions})


def _within(timeout: float, call: Callable[[], T], silence: str) -> T:
    """The call's result. The client waits for metadata without a deadline: so it does that in a thread."""
    result: ThreadFuture[T] = ThreadFuture()

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


class KafkaTail:
    """Follows a topic from shortly before its end. Joins no group and commits nothing. For one thread."""

    def __init__(
        self, settings: KafkaSettings, topic: str, first: Mapping[int, int] | None = None, *, last: int
    ) -> None:
        """Connects. Begins at the offsets in `first`, where they exist, else `last` records before the end.

        Blocks some seconds; raises TopicError, KafkaError.
        """
        self._consumer = _new_consumer(
            settings,
            auto_offset_reset="none",
            max_poll_records=_MAX_POLL_RECORDS,
            # Under load most of what is fetched ahead is thrown away.
            max_partition_fetch_bytes=_MAX_TAIL_FETCH_BYTES,
        )
        self._topic = topic
        try:
            self._seek(first or {}, last)
        except BaseException:
            self.close()
            raise

    def poll(self, timeout: float) -> list[ReceivedRecord]:
        """New records, waiting up to `timeout` seconds for some. Can block longer while the broker is away.

        Raises KafkaError, ReadError for what no package here decompresses, and TopicError when there are more
        partitions than there were: it takes another tail to see them.
        """
        records = poll(self._consumer, timeout)
        if len(self._consumer.partitions_for_topic(self._topic) or ()) > len(self._partitions):
            raise TopicError(f"Topic {self._topic} has more partitions now.")
        return records

    def skip(self, most: int) -> int:
        """Go on with the newest where more than `most` records of a partition are ahead; returns how many are left out.

        As far as is known from the last records that came. Does not block.
        """
        left_out = 0
        for partition in self._partitions:
            end, at = self._consumer.highwater(partition), position(self._consumer, partition)
            if end is not None and end - at > most:
                left_out += end - most - at
                self._consumer.seek(partition, end - most)
        return left_out

    def _seek(self, first: Mapping[int, int], last: int) -> None:
        begins, ends = _bounds(self._consumer, self._topic)
        self._partitions = [TopicPartition(self._topic, number) for number in sorted(ends)]
        self._consumer.assign(self._partitions)
        for partition in self._partitions:
            begin, end = begins[partition.partition], ends[partition.partition]
            wanted = first.get(partition.partition, -1)
            self._consumer.seek(partition, wanted if begin <= wanted <= end else max(begin, end - last))

    @property
    def positions(self) -> dict[int, int]:
        """By partition, where another tail would go on."""
        return {partition.partition: position(self._consumer, partition) for partition in self._partitions}

    def close(self) -> None:
        """Drop the connection. Does not wait."""
        self._consumer.close(autocommit=False)


def connect_consumer(settings: KafkaSettings, group_id: str) -> Any:
    """A consumer of the group that commits nothing by itself. `poll` of it raises NO_OFFSET and OUT_OF_RANGE.

    A poll returns 500 records at most. Blocks some seconds; raises KafkaError without a broker.
    """
    return _new_consumer(
        settings,
        group_id=group_id,
        # The client would go on at the oldest record in silence: nobody would hear of those that are gone.
        auto_offset_reset="none",
        max_poll_records=_MAX_POLL_RECORDS,
        session_timeout_ms=10_000,
        heartbeat_interval_ms=3_000,
        # Eager: a rebalance revokes all partitions, which is what `consumer/loop.py` counts on.
        partition_assignment_strategy=[RangePartitionAssignor],
    )


def poll(consumer: Any, timeout: float) -> list[ReceivedRecord]:
    """New records of a consumer, waiting up to `timeout` seconds for some; none of an aborted transaction.

    Can block longer while the broker is away. Raises KafkaError, and ReadError for what no package here decompresses.
    """
    try:
        polled = consumer.poll(timeout_ms=int(timeout * 1000))
    except UnsupportedCodecError as error:
        raise ReadError(
            f"Kafka holds records compressed in a way that cannot be read here ({error}): install the packages of "
            "requirements/consumer.txt, or have their producer use gzip, snappy, lz4 or zstd."
        ) from error
    return [_received(record) for of_partition in polled.values() for record in of_partition]


def position(consumer: Any, partition: Any) -> int:
    """The offset that an assigned partition goes on from: past the last record polled, and past what is left out.

    Does not block once something was polled of the partition, or a position sought.
    """
    # kafka-python may ask the broker again where a position stands: without a deadline, unless it is given one.
    deadline = {"timeout_ms": 0} if _POSITION_HAS_DEADLINE else {}
    offset: int = consumer.position(partition, **deadline)
    return offset


def _received(record: Any) -> ReceivedRecord:
    """The client's record as ours. A header may lack a value; the client sends none without: it becomes empty."""
    return ReceivedRecord(
        partition=record.partition,
        offset=record.offset,
        timestamp_ms=record.timestamp,
        key=record.key,
        value=record.value,
        headers=tuple((name, value or b"") for name, value in record.headers),
    )


def out_of_range(error: KafkaError) -> dict[int, int | None]:
    """By partition, the offset that was asked for in vain; None where only known is that the log was cut before it."""
    if isinstance(error, OffsetOutOfRangeError):
        return {partition.partition: offset for partition, offset in error.args[0].items()}
    return {partition.partition: None for partition in error.divergent_offsets}


def without_offset(error: KafkaError) -> list[Any]:
    """The partitions of which nothing is committed, by the client's error."""
    (named,) = error.args
    # kafka-python-ng names one at a time.
    return [named] if isinstance(named, TopicPartition) else list(named)


def offset_to_commit(offset: int) -> Any:
    """The offset to go on from, as the client's `commit` wants it."""
    # kafka-python has a third field, the leader's epoch: -1 is "not known".
    return OffsetAndMetadata(offset, "", *(-1,) * (len(OffsetAndMetadata._fields) - 2))


def never_takes(error: Exception) -> bool:
    """Whether an answer to `send` means that sending the record again is in vain."""
    return isinstance(error, MessageSizeTooLargeError | RecordListTooLargeError)


def connect_admin(settings: KafkaSettings) -> Any:
    """An admin client. Blocks some seconds; raises KafkaError without a broker."""
    return _new(KafkaAdminClient, settings)


class TopicConfig(NamedTuple):
    """The settings of a topic. `own`: those that were made for it; in `values` are the broker's too."""

    values: Mapping[str, str]
    own: Mapping[str, str]


def topic_config(admin: Any, topic: str) -> TopicConfig:
    """What the broker says of the topic. Blocks; raises KafkaError if it fails or does not say."""
    resource = ConfigResource(ConfigResourceType.TOPIC, topic)
    if "config_filter" in inspect.signature(admin.describe_configs).parameters:
        told = admin.describe_configs([resource], config_filter="all").get("topic", {}).get(topic)
        if not told:  # kafka-python does not say why
            raise UnknownError(f"no settings of {topic}")
        entries = [
            (name, entry["value"], entry["config_source"] == "DYNAMIC_TOPIC_CONFIG") for name, entry in told.items()
        ]
    else:
        ((code, message, _, _, rows),) = admin.describe_configs([resource])[0].resources
        if code:
            raise for_code(code)(message)
        entries = [(name, value, source == _OF_THE_TOPIC) for name, value, _, source, *_ in rows]
    return TopicConfig(
        {name: value for name, value, _ in entries}, {name: value for name, value, own in entries if own}
    )


def change_topic_config(admin: Any, topic: str, changes: Mapping[str, str]) -> None:
    """Change these settings of the topic, and no others. Blocks; raises KafkaError if the broker refuses."""
    # kafka-python-ng's request resets what it does not name.
    whole = {**topic_config(admin, topic).own, **changes}
    answer = admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, whole)])
    if isinstance(answer, dict):
        if (said := answer["topic"][topic]) != "OK":
            raise UnknownError(said)
    else:
        ((code, message, *_),) = answer.resources
        if code:
            raise for_code(code)(message)


def missing_topics(admin: Any, topics: Sequence[str]) -> frozenset[str]:
    """Those of the topics that do not exist. Can block for as long as no broker answers; raises KafkaError."""
    described = admin.describe_topics(list(topics))
    # The two clients name this field differently.
    return frozenset(
        topic.get("topic") or topic.get("name")
        for topic in described
        if topic["error_code"] == UnknownTopicOrPartitionError.errno
    )


def reachable(settings: KafkaSettings, timeout: float = 1.0) -> bool:
    """Whether any of the brokers takes connections. Blocks at most `timeout` seconds."""
    deadline = time.monotonic() + timeout
    for broker in settings.brokers:
        try:
            socket.create_connection((broker.host, broker.port), timeout=max(0.05, deadline - time.monotonic())).close()
        except (OSError, UnicodeError):
            # A resolver's ways with names are many; what it cannot look up is not reachable.
            continue
        return True
    return False


def _new_consumer(settings: KafkaSettings, **options: Any) -> Any:
    """A consumer that commits nothing by itself and reads, of transactions, only what was committed."""
    consumer = _new(
        KafkaConsumer,
        settings,
        enable_auto_commit=False,
        fetch_max_bytes=_MAX_FETCH_BYTES,
        **_where_known(KafkaConsumer, isolation_level="read_committed"),
        **options,
    )
    if bulk_append.supported():
        # Here, since what it is built on does not exist in kafka-python.
        from common import fetcher  # noqa: PLC0415

        fetcher.install(consumer)
    return consumer


def _new(client: Callable[..., Any], settings: KafkaSettings, **options: Any) -> Any:
    try:
        return client(**_connection(settings), **options)
    except UnicodeError as error:
        # Of those that a broker gives for itself and others; KAFKA_BROKERS has none.
        raise KafkaConnectionError(f"a broker's name cannot be looked up: {error}") from error
    except ValueError as error:
        if str(error) != _NO_SOCKET:
            raise
        raise KafkaConnectionError("what listens there closes the connection at once") from error


def _connection(settings: KafkaSettings) -> dict[str, Any]:
    return {
        "client_id": "pulse",
        # How long to look for a broker before giving up; kafka-python-ng has a fixed two seconds.
        **_where_known(KafkaProducer, bootstrap_timeout_ms=5_000),
        "bootstrap_servers": [str(broker) for broker in settings.brokers],
        "security_protocol": settings.security_protocol,
        "sasl_mechanism": settings.sasl_mechanism,
        "sasl_plain_username": settings.sasl_username,
        "sasl_plain_password": settings.sasl_password,
        "ssl_cafile": settings.ssl_cafile,
    }


def _where_known(client: Any, **options: Any) -> dict[str, Any]:
    """Those options that this version of the client has."""
    return {name: value for name, value in options.items() if name in client.DEFAULT_CONFIG}
