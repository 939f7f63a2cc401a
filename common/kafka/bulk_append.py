"""Passes a chunk of records to the Kafka client at once: does the work of its `send` once per batch, not per record.

It uses internals of kafka-python-ng 2.2.3, so it works only with that version. Only `client` and `sender` use it. The
tests show that Kafka gets the same bytes as from `send`.
"""

import threading
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

from kafka import TopicPartition
from kafka.partitioner.default import murmur2
from kafka.producer.record_accumulator import ProducerBatch
from kafka.record.memory_records import MemoryRecordsBuilder
from kafka.record.util import encode_varint

_VERSION = "2.2.3"
_MAGIC = 2
_SMALL_BYTES = 100_000

Record = tuple[bytes | None, bytes | None, tuple[tuple[str, bytes], ...]]
"""Key, value and headers."""


def supported() -> bool:
    """Whether the client is the version whose internals this module uses."""
    try:
        return version("kafka-python-ng") == _VERSION
    except PackageNotFoundError:
        return False


def lift_limit(producer: Any) -> None:
    """Allow a chunk to go to any number of partitions at once.

    The client has 32 buffers, assigns one to each batch, and waits for a free one before it sends any batch of the
    chunk. It does not write into them: the size of a chunk limits the memory, and each batch uses only its own
    size.
    """
    without_limit = type(producer._accumulator._free)(0, 0)
    producer._accumulator._free = without_limit


def takes(producer: Any, records: Sequence[Record]) -> bool:
    """Whether the records are plain (with key and value, without headers, far below any size limit), and the broker
    supports the current format (Kafka 0.11).
    """
    return producer._accumulator.config["message_version"] == _MAGIC and all(
        key and value is not None and not headers and len(key) + len(value) < _SMALL_BYTES
        for key, value, headers in records
    )


def append(producer: Any, topic: str, records: Sequence[Record]) -> list[Any]:
    """Have the producer send records that `takes` accepts; returns the future of each record's batch, in order.

    Blocks for at most `max_block_ms` for the topic's metadata; raises KafkaTimeoutError.
    """
    max_block = producer.config["max_block_ms"] / 1000
    partitions = [TopicPartition(topic, number) for number in sorted(producer._wait_on_metadata(topic, max_block))]
    now_ms = int(time.time() * 1000)
    batches: list[ProducerBatch] = []
    filling: dict[TopicPartition, ProducerBatch] = {}
    futures: list[Any] = []
    for key, value, _ in cast("Sequence[tuple[bytes, bytes, Any]]", records):
        # The same as the client's default partitioner, and Java's.
        partition = partitions[(_HASHES[key] & 0x7FFFFFFF) % len(partitions)]
        batch = filling.get(partition)
        if batch is None or not write(batch.records, now_ms, key, value):
            batch = filling[partition] = _new_batch(producer._accumulator, partition)
            write(batch.records, now_ms, key, value)
            batches.append(batch)
        futures.append(batch.produce_future)
    _enqueue(producer._accumulator, batches)
    return futures


def write(records: MemoryRecordsBuilder, now_ms: int, key: bytes, value: bytes) -> bool:
    """Add a record as the builder's own `append` would, in a third of the time; False when the batch is full.

    All records of a batch must have the same time.
    """
    builder = records._builder
    buffer, offset = builder._buffer, records._next_offset
    key_size, value_size, place = _VARINTS[len(key)], _VARINTS[len(value)], _VARINTS[offset]
    # The attributes, the time difference and the number of headers, all 0, are one byte each.
    size = 3 + len(place) + len(key_size) + len(key) + len(value_size) + len(value)
    record = b"".join((_VARINTS[size], b"\0\0", place, key_size, key, value_size, value, b"\0"))
    if offset and len(buffer) + len(record) > builder._batch_size:
        return False
    buffer += record
    builder._first_timestamp = builder._max_timestamp = now_ms
    builder._last_offset = offset
    builder._num_records = records._next_offset = offset + 1
    return True


class Hashes(dict[bytes, int]):
    """Caches the hashes of keys: the client takes 8 us for a short key, 380 us for one of 1 KiB.

    Clears the cache before it exceeds 8 MiB: 40,000 keys of 36 bytes.
    """

    _MAX_BYTES = 8 * 1024 * 1024
    _BYTES_OF_AN_ENTRY = 160

    def __init__(self) -> None:
        super().__init__()
        self._bytes = 0

    def __missing__(self, key: bytes) -> int:
        self._bytes += len(key) + self._BYTES_OF_AN_ENTRY
        if self._bytes > self._MAX_BYTES:
            self.clear()
            self._bytes = len(key) + self._BYTES_OF_AN_ENTRY
        found = self[key] = int(murmur2(key))
        return found


class _Varints(dict[int, bytes]):
    """Caches small numbers in the encoding of the record format; there are too many large ones."""

    _COMMON = 16_384

    def __missing__(self, number: int) -> bytes:
        encoded = bytearray()
        encode_varint(number, encoded.append)
        varint = bytes(encoded)
        if number < self._COMMON:
            self[number] = varint
        return varint


_VARINTS = _Varints()
_HASHES = Hashes()


def _new_batch(accumulator: Any, partition: TopicPartition) -> ProducerBatch:
    config = accumulator.config
    records = MemoryRecordsBuilder(_MAGIC, config["compression_attrs"], config["batch_size"])
    # Does not wait, because of `lift_limit`.
    buffer = accumulator._free.allocate(config["batch_size"], 0)
    return ProducerBatch(partition, records, buffer)


def _enqueue(accumulator: Any, batches: list[ProducerBatch]) -> None:
    """As the accumulator's own `append`, so that a concurrent close finds them too."""
    accumulator._appends_in_progress.increment()
    try:
        for batch in batches:
            with accumulator._tp_locks[None]:
                lock = accumulator._tp_locks.setdefault(batch.topic_partition, threading.Lock())
            with lock:
                accumulator._batches[batch.topic_partition].append(batch)
                accumulator._incomplete.add(batch)
    finally:
        accumulator._appends_in_progress.decrement()
