"""Follows a topic from shortly before its end."""

from collections.abc import Mapping

from kafka import TopicPartition

from common.errors import TopicError
from common.kafka.client import bounds, connect_consumer, poll, position
from common.kafka.records import ReceivedRecord
from common.settings import KafkaSettings

# Under load most of the prefetched records are dropped.
_MAX_FETCH_BYTES = 512 * 1024


class KafkaTail:
    """Follows a topic from shortly before its end. Joins no group and commits nothing. For one thread."""

    def __init__(
        self, settings: KafkaSettings, topic: str, first: Mapping[int, int] | None = None, *, last: int
    ) -> None:
        """Connects. Begins at the offsets in `first`, if they exist, otherwise `last` records before the end.

        Blocks some seconds; raises TopicError, KafkaError.
        """
        self._consumer = connect_consumer(
            settings,
            auto_offset_reset="none",
            max_partition_fetch_bytes=_MAX_FETCH_BYTES,
        )
        self._topic = topic
        try:
            self._seek(first or {}, last)
        except BaseException:
            self.close()
            raise

    def poll(self, timeout: float, most: int | None = None) -> list[ReceivedRecord]:
        """New records, not more than `most`, waiting up to `timeout` seconds for some.

        Can block longer while the broker is unavailable. Raises KafkaError, ReadError for an unsupported
        compression, and TopicError if the topic has new partitions: only a new tail sees them.
        """
        records = poll(self._consumer, timeout, most)
        if len(self._consumer.partitions_for_topic(self._topic) or ()) > len(self._partitions):
            raise TopicError(f"Topic {self._topic} has more partitions now.")
        return records

    def skip(self, most: int) -> int:
        """Skip to the newest `most` records of each partition; returns the number of skipped records.

        Uses the end of the partition from the last fetch. Does not block.
        """
        left_out = 0
        for partition in self._partitions:
            end, at = self._consumer.highwater(partition), position(self._consumer, partition)
            if end is not None and end - at > most:
                left_out += end - most - at
                self._consumer.seek(partition, end - most)
        return left_out

    def _seek(self, first: Mapping[int, int], last: int) -> None:
        begins, ends = bounds(self._consumer, self._topic)
        self._partitions = [TopicPartition(self._topic, number) for number in sorted(ends)]
        self._consumer.assign(self._partitions)
        for partition in self._partitions:
            begin, end = begins[partition.partition], ends[partition.partition]
            wanted = first.get(partition.partition, -1)
            self._consumer.seek(partition, wanted if begin <= wanted <= end else max(begin, end - last))

    @property
    def positions(self) -> dict[int, int]:
        """By partition, the offset where another tail can continue."""
        return {partition.partition: position(self._consumer, partition) for partition in self._partitions}

    def close(self) -> None:
        """Drop the connection. Does not wait."""
        self._consumer.close(autocommit=False)
