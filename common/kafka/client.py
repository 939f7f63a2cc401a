"""Connections of the Kafka client, and what its two versions do differently.

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
from common.kafka import bulk_append
from common.kafka.records import ReceivedRecord
from common.settings import KafkaSettings

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

MAX_POLL_RECORDS = 500
"""Values can be large: so many are decoded before the caller looks how much it has."""
# Of all partitions of a broker together; one batch of records comes whole, however large it is.
_MAX_FETCH_BYTES = 8 * 1024 * 1024
# What kafka-python-ng makes of a connection that was closed at once (by a proxy whose Kafka is away, by some other
# server): it asks for the socket when that is gone.
_NO_SOCKET = "Invalid file object: None"
_POSITION_HAS_DEADLINE = "timeout_ms" in inspect.signature(KafkaConsumer.position).parameters


def connect(client: Callable[..., Any], settings: KafkaSettings, **options: Any) -> Any:
    try:
        return client(**_connection(settings), **options)
    except UnicodeError as error:
        # Of those that a broker gives for itself and others; KAFKA_BROKERS has none.
        raise KafkaConnectionError(f"a broker's name cannot be looked up: {error}") from error
    except ValueError as error:
        if str(error) != _NO_SOCKET:
            raise
        raise KafkaConnectionError("the peer closed the connection immediately; is it a Kafka broker?") from error


def connect_consumer(settings: KafkaSettings, **options: Any) -> Any:
    """A consumer that commits nothing by itself and reads, of transactions, only what was committed."""
    consumer = connect(
        KafkaConsumer,
        settings,
        enable_auto_commit=False,
        fetch_max_bytes=_MAX_FETCH_BYTES,
        **where_known(KafkaConsumer, isolation_level="read_committed"),
        **options,
    )
    if bulk_append.supported():
        # Here, since what it is built on does not exist in kafka-python.
        from common.kafka import fetcher  # noqa: PLC0415

        fetcher.install(consumer)
    return consumer


def _connection(settings: KafkaSettings) -> dict[str, Any]:
    return {
        "client_id": "pulse",
        # How long to look for a broker before giving up; kafka-python-ng has a fixed two seconds.
        **where_known(KafkaProducer, bootstrap_timeout_ms=5_000),
        "bootstrap_servers": [str(broker) for broker in settings.brokers],
        "security_protocol": settings.security_protocol,
        "sasl_mechanism": settings.sasl_mechanism,
        "sasl_plain_username": settings.sasl_username,
        "sasl_plain_password": settings.sasl_password,
        "ssl_cafile": settings.ssl_cafile,
    }


def where_known(client: Any, **options: Any) -> dict[str, Any]:
    """Those options that this version of the client has."""
    return {name: value for name, value in options.items() if name in client.DEFAULT_CONFIG}


def bounds(consumer: Any, topic: str) -> tuple[dict[int, int], dict[int, int]]:
    """By partition, the first offset and the one after the last."""
    numbers = consumer.partitions_for_topic(topic)
    if not numbers:
        raise TopicError(f"Topic {topic} does not exist: run `python -m common.topics`.")
    partitions = [TopicPartition(topic, number) for number in numbers]
    begins, ends = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
    return ({p.partition: begins[p] for p in partitions}, {p.partition: ends[p] for p in partitions})


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
