"""Gives the Kafka client a chunk of records at once: what its `send` does for each record, done once a batch.

Built on inner parts of kafka-python-ng 2.2.3, so it is for that version alone; the client's own builder makes the
batches. Only `common/kafka.py` uses this. The tests show that Kafka gets what `send` would have given it.
"""

import threading
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from kafka import TopicPartition
from kafka.partitioner.default import murmur2
from kafka.producer.record_accumulator import ProducerBatch
from kafka.record.memory_records import MemoryRecordsBuilder

_VERSION = "2.2.3"
_SMALL_BYTES = 100_000
_hash = lru_cache(100_000)(murmur2)  # 1.7 us else


Record = tuple[bytes | None, bytes | None, tuple[tuple[str, bytes], ...]]
"""Key, value and headers."""


def supported() -> bool:
    """Whether the client is the one whose inner parts are known here."""
    try:
        return version("kafka-python-ng") == _VERSION
    except PackageNotFoundError:
        return False


def takes(records: Sequence[Record]) -> bool:
    """Whether the records are of the common kind: with key and value, without headers, far from any limit of size."""
    return all(
        key and value is not None and not headers and len(key) + len(value) < _SMALL_BYTES
        for key, value, headers in records
    )


def append(producer: Any, topic: str, records: Sequence[Record]) -> list[Any]:
    """Have the producer send records that `takes` agrees to; returns for each, in order, the future of its batch.

    Blocks for at most `max_block_ms` each for the topic's metadata and for memory; raises KafkaTimeoutError.
    """
    max_block_ms = producer.config["max_block_ms"]
    partitions = [
        TopicPartition(topic, number) for number in sorted(producer._wait_on_metadata(topic, max_block_ms / 1000))
    ]
    batches: list[ProducerBatch] = []
    filling: dict[TopicPartition, ProducerBatch] = {}
    futures: list[Any] = []
    for key, value, _ in records:
        # As the client's default partitioner has it, and Java's.
        partition = partitions[(_hash(key) & 0x7FFFFFFF) % len(partitions)]
        batch = filling.get(partition)
        if batch is None or batch.records.append(None, key, value, []) is None:
            batch = filling[partition] = _new_batch(producer._accumulator, partition, max_block_ms)
            batch.records.append(None, key, value, [])
            batches.append(batch)
        futures.append(batch.produce_future)
    _enqueue(producer._accumulator, batches)
    return futures


def _new_batch(accumulator: Any, partition: TopicPartition, max_block_ms: int) -> ProducerBatch:
    config = accumulator.config
    records = MemoryRecordsBuilder(config["message_version"], config["compression_attrs"], config["batch_size"])
    return ProducerBatch(partition, records, accumulator._free.allocate(config["batch_size"], max_block_ms))


def _enqueue(accumulator: Any, batches: list[ProducerBatch]) -> None:
    """As the accumulator's own `append` does, so that a close in the meantime finds them too."""
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
