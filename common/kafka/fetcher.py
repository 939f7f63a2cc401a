"""Adds to kafka-python-ng's consumer what kafka-python's has: all codecs, and reading only committed transactions.

It uses internals of kafka-python-ng 2.2.3, so it works only with that version. Only `client` uses it.
"""

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import zstandard
from kafka.consumer.fetcher import READ_COMMITTED, Fetcher
from kafka.future import Future
from kafka.metrics import Metrics
from kafka.protocol.fetch import FetchRequest
from kafka.protocol.offset import OffsetRequest
from kafka.record.default_records import DefaultRecordBatch

# The first version with zstd batches. With an older one the broker answers with an error that the client only logs.
# Kafka has it since 2.1.
_FETCH_VERSION = 10
_NO_SESSION, _NO_EPOCH, _NO_OFFSET = 0, -1, -1
_READS_ZSTD = (2, 1)
_KNOWS_TRANSACTIONS = (0, 11)
_PRODUCER_ID = 9  # its place in the header of a batch


def install(consumer: Any) -> None:
    """Replace the fetcher of a new consumer."""
    consumer._fetcher = CommittedFetcher(consumer._client, consumer._subscription, **consumer.config)


class CommittedFetcher(Fetcher):  # type: ignore[misc]  # the client has no types
    """The client's fetcher, with other fetch requests, and a filter for the batches of the answer."""

    def __init__(self, client: Any, subscriptions: Any, **config: Any) -> None:
        # Separate metrics, since the consumer's already contain those of its first fetcher.
        super().__init__(client, subscriptions, Metrics(), **config)
        self._isolation_level = READ_COMMITTED
        self._aborted: Sequence[tuple[int, int]] = ()

    def _create_fetch_requests(self) -> dict[Any, Any]:
        requests: dict[Any, Any] = super()._create_fetch_requests()
        if self.config["api_version"] < _READS_ZSTD:
            return requests
        return {node: _modern(request) for node, request in requests.items()}

    def _handle_fetch_response(self, request: Any, send_time: float, response: Any) -> None:
        if request.API_VERSION >= _FETCH_VERSION:
            # The client expects partition and offset at the positions of its own request.
            asked = [(topic, [(entry[0], entry[2]) for entry in partitions]) for topic, partitions in request.topics]
            request = SimpleNamespace(topics=asked)
        super()._handle_fetch_response(request, send_time, response)

    def _parse_fetched_data(self, completed_fetch: Any) -> Any:
        # The aborted transactions, each with its producer and its first offset.
        self._aborted = completed_fetch.partition_data[-2] or () if completed_fetch.response_version >= 4 else ()
        return super()._parse_fetched_data(completed_fetch)

    def _unpack_message_set(self, tp: Any, records: Any) -> Iterator[Any]:
        batches = _CommittedBatches(records, self._aborted)
        yield from super()._unpack_message_set(tp, batches)
        if batches.last_offset is not None:
            # The next fetch starts there, even if the last batches were skipped.
            self._subscriptions.assignment[tp].last_offset_from_message_batch = batches.last_offset

    def _send_offset_request(self, node_id: Any, timestamps: dict[Any, int]) -> Any:
        """As the client's own, but the end is that of the last finished transaction, or readers would wait for open
        ones.
        """
        if self.config["api_version"] < _KNOWS_TRANSACTIONS:
            return super()._send_offset_request(node_id, timestamps)
        by_topic = defaultdict(list)
        for partition, timestamp in timestamps.items():
            by_topic[partition.topic].append((partition.partition, timestamp))
        answer = Future()
        sent = self._client.send(node_id, OffsetRequest[2](-1, self._isolation_level, list(by_topic.items())))
        sent.add_callback(self._handle_offset_response, answer)
        sent.add_errback(answer.failure)
        return answer


class _CommittedBatches:
    """The batches of an answer, without transaction markers and aborted batches. `last_offset`: that of all batches."""

    def __init__(self, records: Any, aborted: Sequence[tuple[int, int]]) -> None:
        self.last_offset: int | None = None
        self._records = records
        self._aborted = deque(sorted(aborted, key=lambda transaction: transaction[1]))
        self._aborting: set[int] = set()

    def next_batch(self) -> Any:
        while (batch := self._records.next_batch()) is not None:
            if not isinstance(batch, DefaultRecordBatch):
                # This format is older than transactions and zstd.
                return batch
            self.last_offset = batch.base_offset + batch.last_offset_delta
            if not self._is_left_out(batch, self.last_offset):
                if batch.compression_type == batch.CODEC_ZSTD:
                    _decompress(batch)
                return batch
        return None

    def _is_left_out(self, batch: DefaultRecordBatch, last_offset: int) -> bool:
        producer_id = batch._header_data[_PRODUCER_ID]
        while self._aborted and self._aborted[0][1] <= last_offset:
            self._aborting.add(self._aborted.popleft()[0])
        if batch.is_control_batch:
            # The producer's next batch belongs to another transaction.
            self._aborting.discard(producer_id)
            return True
        return batch.is_transactional and producer_id in self._aborting


def _modern(request: Any) -> Any:
    topics = [
        (topic, [(number, _NO_EPOCH, offset, _NO_OFFSET, most) for number, offset, most in partitions])
        for topic, partitions in request.topics
    ]
    return FetchRequest[_FETCH_VERSION](
        -1,  # not a broker
        request.max_wait_time,
        request.min_bytes,
        request.max_bytes,
        request.isolation_level,
        _NO_SESSION,
        _NO_EPOCH,
        topics,
        [],
    )


def _decompress(batch: DefaultRecordBatch) -> None:
    """As the client, which fails beyond 1 MiB if the batch does not contain its size, as Java's does not."""
    compressed = memoryview(batch._buffer)[batch._pos :]
    with zstandard.ZstdDecompressor().stream_reader(compressed, read_across_frames=True) as reader:
        batch._buffer = bytearray(reader.read())
    batch._pos = 0
    batch._decompressed = True
