"""The fetch requests of kafka-python-ng's consumer, and the batches of the answer that it reads."""

from typing import Any

import pytest

from common.kafka import bulk_append

if not bulk_append.supported():
    pytest.skip("kafka-python does all of this itself", allow_module_level=True)

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import READ_COMMITTED, Fetcher
from kafka.consumer.subscription_state import SubscriptionState
from kafka.protocol.fetch import FetchRequest
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.memory_records import MemoryRecords

from common.kafka.fetcher import CommittedFetcher

PARTITION = TopicPartition("events", 0)


def fetcher_of(api_version: tuple[int, int]) -> CommittedFetcher:
    return CommittedFetcher(None, SubscriptionState(), **{**KafkaConsumer.DEFAULT_CONFIG, "api_version": api_version})


@pytest.mark.parametrize(("api_version", "asked_in"), [((2, 6), 10), ((2, 1), 10), ((2, 0), 4), ((0, 11), 4)])
def test_fetches_with_a_version_that_has_zstd_if_the_broker_supports_it(
    api_version: tuple[int, int], asked_in: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka 2.1 to 3 answers fetches below version 10 with an error, if the topic is compressed with zstd."""
    theirs = FetchRequest[4](-1, 500, 1, 1000, READ_COMMITTED, [("events", [(0, 7, 100), (2, 9, 100)])])
    monkeypatch.setattr(Fetcher, "_create_fetch_requests", lambda _: {1: theirs})
    (request,) = fetcher_of(api_version)._create_fetch_requests().values()
    assert (request.API_VERSION, request.isolation_level, request.max_bytes) == (asked_in, READ_COMMITTED, 1000)
    # The request can be encoded by the protocol's schema.
    assert request.encode()


def batch(first: int, count: int, *, producer: int = -1, marker: bool = False) -> bytes:
    """A batch of records; with a producer's id, of a transaction."""
    builder = DefaultRecordBatchBuilder(2, 0, producer >= 0, producer, 0, 0, 100_000)
    for offset in range(count):
        builder.append(offset, 1, b"key", b"%d" % (first + offset), [])
    built = builder.build()
    built[:8] = first.to_bytes(8, "big")
    if marker:
        # Only the broker can write markers: set the bit in the built batch.
        built[builder.ATTRIBUTES_OFFSET + 1] |= builder.CONTROL_MASK
    return bytes(built)


def offsets(*batches: bytes, aborted: list[tuple[int, int]]) -> list[int]:
    fetcher = fetcher_of((2, 6))
    fetcher._subscriptions.assign_from_user([PARTITION])
    fetcher._aborted = aborted
    records: list[Any] = list(fetcher._unpack_message_set(PARTITION, MemoryRecords(b"".join(batches))))
    return [record.offset for record in records]


def test_leaves_out_only_aborted_records() -> None:
    mixed = (
        batch(0, 2, producer=7),
        batch(2, 2, producer=8),
        batch(4, 1),
        batch(5, 1, producer=7, marker=True),
        batch(6, 1, producer=8, marker=True),
        batch(7, 2, producer=7),
        batch(9, 1, producer=7, marker=True),
    )
    assert offsets(*mixed, aborted=[]) == [0, 1, 2, 3, 4, 7, 8]
    assert offsets(*mixed, aborted=[(7, 0)]) == [2, 3, 4, 7, 8]
    assert offsets(*mixed, aborted=[(7, 7), (8, 2)]) == [0, 1, 4]


def test_leaves_out_a_transaction_that_began_before_the_fetched_records() -> None:
    assert offsets(batch(10, 2, producer=7), batch(12, 1, producer=7, marker=True), aborted=[(7, 3)]) == []


def test_the_next_fetch_begins_after_the_records_left_out() -> None:
    fetcher = fetcher_of((2, 6))
    fetcher._subscriptions.assign_from_user([PARTITION])
    records = MemoryRecords(batch(0, 2) + batch(2, 1, producer=7, marker=True))
    assert len(list(fetcher._unpack_message_set(PARTITION, records))) == 2
    assert fetcher._subscriptions.assignment[PARTITION].last_offset_from_message_batch == 2
