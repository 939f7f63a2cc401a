"""Connections of the Kafka client, and the differences of its two versions.

Written against what kafka-python-ng 2.2.3 and the current kafka-python share (docs/decisions). Only this package
imports the client.
"""

import inspect
from collections.abc import Callable
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka import errors as kafka_errors
from kafka.consumer import fetcher
from kafka.errors import KafkaConnectionError, KafkaError, OffsetOutOfRangeError, UnsupportedCodecError
from kafka.structs import OffsetAndMetadata

from common.errors import ReadError, TopicError
from common.kafka import bulk_append, clock
from common.kafka.records import ReceivedRecord
from common.settings import KafkaSettings

_NO_OFFSET = "NoOffsetForPartitionError"
# The two clients define it in different places.
NO_OFFSET: type[KafkaError] = getattr(fetcher, _NO_OFFSET, None) or getattr(kafka_errors, _NO_OFFSET)
"""The error of `poll` if the group has no committed offset."""
OUT_OF_RANGE: tuple[type[KafkaError], ...] = (
    OffsetOutOfRangeError,
    # Only kafka-python checks whether a log was truncated.
    *filter(None, [getattr(kafka_errors, "LogTruncationError", None)]),
)
"""The errors of `poll` if the next record was deleted, or never existed."""

MAX_POLL_RECORDS = 500
"""Values can be large: a poll decodes up to N of them before the caller can check their size."""
# For all partitions of a broker together; one batch of records is always complete, however large.
_MAX_FETCH_BYTES = 8 * 1024 * 1024
# Without an answer for N ms the client closes the connection: it may be dead, and no packet says so (half-open).
# kafka-python-ng's default is 305 s. Not shorter, since a member that joins waits for the flushes of all others.
_ANSWER_MS = 60_000
# kafka-python-ng's error for a connection that was closed immediately (by a proxy without its Kafka, by another kind
# of server): it uses the socket after the close.
_NO_SOCKET = "Invalid file object: None"
if bulk_append.supported():
    clock.use_monotonic()
_POSITION_HAS_DEADLINE = "timeout_ms" in inspect.signature(KafkaConsumer.position).parameters


def connect(client: Callable[..., Any], settings: KafkaSettings, **options: Any) -> Any:
    try:
        return client(**_connection(settings), **options)
    except UnicodeError as error:
        # A name that a broker advertises; the names in KAFKA_BROKERS are valid.
        raise KafkaConnectionError(f"a broker's name cannot be looked up: {error}") from error
    except ValueError as error:
        if str(error) != _NO_SOCKET:
            raise
        raise KafkaConnectionError("the peer closed the connection immediately; is it a Kafka broker?") from error


def connect_consumer(settings: KafkaSettings, **options: Any) -> Any:
    """A consumer without auto-commit that reads only committed transactions."""
    consumer = connect(
        KafkaConsumer,
        settings,
        enable_auto_commit=False,
        fetch_max_bytes=_MAX_FETCH_BYTES,
        **where_known(KafkaConsumer, isolation_level="read_committed"),
        **{"request_timeout_ms": _ANSWER_MS, **options},
    )
    if bulk_append.supported():
        # Imported here, since kafka-python lacks its base.
        from common.kafka import fetcher  # noqa: PLC0415

        fetcher.install(consumer)
    return consumer


def _connection(settings: KafkaSettings) -> dict[str, Any]:
    return {
        "client_id": "pulse",
        # How long to try to connect; kafka-python-ng has a fixed two seconds.
        **where_known(KafkaProducer, bootstrap_timeout_ms=5_000),
        "bootstrap_servers": [str(broker) for broker in settings.brokers],
        "security_protocol": settings.security_protocol,
        "sasl_mechanism": settings.sasl_mechanism if settings.with_sasl else None,
        "sasl_plain_username": settings.sasl_username,
        "sasl_plain_password": settings.sasl_password,
        "ssl_cafile": settings.ssl_cafile,
    }


def where_known(client: Any, **options: Any) -> dict[str, Any]:
    """The options that this version of the client supports."""
    return {name: value for name, value in options.items() if name in client.DEFAULT_CONFIG}


def bounds(consumer: Any, topic: str) -> tuple[dict[int, int], dict[int, int]]:
    """By partition, the first offset and the one after the last."""
    numbers = consumer.partitions_for_topic(topic)
    if not numbers:
        raise TopicError(f"Topic {topic} does not exist: run `python -m common.topics`.")
    partitions = [TopicPartition(topic, number) for number in numbers]
    begins, ends = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
    return ({p.partition: begins[p] for p in partitions}, {p.partition: ends[p] for p in partitions})


def poll(consumer: Any, timeout: float, most: int | None = None) -> list[ReceivedRecord]:
    """New records of a consumer, not more than `most`, waiting up to `timeout` seconds for some; without those of
    aborted transactions.

    Can block longer while the broker is unavailable. Raises KafkaError, and ReadError for an unsupported compression.
    """
    try:
        polled = consumer.poll(timeout_ms=int(timeout * 1000), max_records=most or MAX_POLL_RECORDS)
    except UnsupportedCodecError as error:
        raise ReadError(
            f"Kafka holds records compressed in a way that cannot be read here ({error}): install the packages of "
            "requirements/consumer.txt, or have their producer use gzip, snappy, lz4 or zstd."
        ) from error
    return [_received(record) for of_partition in polled.values() for record in of_partition]


def position(consumer: Any, partition: Any) -> int:
    """The next offset of an assigned partition: after the last polled record, and after skipped ones.

    Does not block after a poll or a seek of the partition.
    """
    # kafka-python may query the broker for the position: without a deadline, unless it gets one.
    deadline = {"timeout_ms": 0} if _POSITION_HAS_DEADLINE else {}
    offset: int = consumer.position(partition, **deadline)
    return offset


def _received(record: Any) -> ReceivedRecord:
    """Convert the client's record. A missing header value becomes empty, since the client cannot send it back
    otherwise.
    """
    return ReceivedRecord(
        partition=record.partition,
        offset=record.offset,
        timestamp_ms=record.timestamp,
        key=record.key,
        value=record.value,
        headers=tuple((name, value or b"") for name, value in record.headers),
    )


def out_of_range(error: KafkaError) -> dict[int, int | None]:
    """By partition, the requested offset that does not exist; None if the error only says that the log was
    truncated.
    """
    if isinstance(error, OffsetOutOfRangeError):
        return {partition.partition: offset for partition, offset in error.args[0].items()}
    return {partition.partition: None for partition in error.divergent_offsets}


def without_offset(error: KafkaError) -> list[Any]:
    """The partitions without a committed offset, from the client's error."""
    (named,) = error.args
    # kafka-python-ng names only one.
    return [named] if isinstance(named, TopicPartition) else list(named)


def offset_to_commit(offset: int) -> Any:
    """The next offset, in the form for the client's `commit`."""
    # kafka-python has a third field, the leader's epoch: -1 is "not known".
    return OffsetAndMetadata(offset, "", *(-1,) * (len(OffsetAndMetadata._fields) - 2))
