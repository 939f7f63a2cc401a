"""The records that wait for the next flush: events, dead letters, and the offsets that both cover."""

from collections.abc import Callable
from typing import Any, NamedTuple

from common.kafka import ReceivedRecord
from consumer.dead_letters import DeadLetter


class BufferedEvent(NamedTuple):
    """A record and the event in it."""

    record: ReceivedRecord
    event: dict[str, Any]


MAX_BYTES = 8 * 1024 * 1024
"""The limit for records, in their size in Kafka: decoded they take several times as much."""


class Buffer:
    """Filled record by record, flushed as a whole: at a number of records or bytes, or at a time after the last flush.
    So a record that arrives after a quiet period is flushed immediately.

    With a backlog, a poll returns more records than a flush needs: one write stores all of them.
    """

    def __init__(self, max_records: int, max_age: float, clock: Callable[[], float]) -> None:
        """`max_age`: the maximum wait of a record, in seconds of the (monotonic) clock."""
        self._max_records = max_records
        self._max_age = max_age
        self._clock = clock
        self._cleared_at = clock()
        self.events: list[BufferedEvent] = []
        """Not stored yet."""
        self.letters: list[DeadLetter] = []
        """Not in the dead letter topic yet."""
        self.offsets: dict[int, int] = {}
        """By partition, the next offset, to commit once all buffered records are safe."""
        self.records = 0
        """The number of records since the last clear, safe or not."""
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.events) + len(self.letters)

    @property
    def due(self) -> bool:
        """Whether it is time to flush."""
        full = self.records >= self._max_records or self._bytes >= MAX_BYTES
        return full or (bool(self.offsets) and self._clock() - self._cleared_at >= self._max_age)

    def add_event(self, record: ReceivedRecord, event: dict[str, Any]) -> None:
        """Add a valid record."""
        self._cover(record)
        self.events.append(BufferedEvent(record, event))

    def add_letter(self, letter: DeadLetter) -> None:
        """Add an invalid record."""
        self._cover(letter.record)
        self.letters.append(letter)

    def jump(self, partition: int, offset: int) -> None:
        """Continue a partition at another offset than the next one: there is nothing to store before it."""
        self.offsets[partition] = offset

    def clear(self) -> None:
        """Drop everything: it is safe, or another consumer reads it again."""
        self.events, self.letters, self.offsets, self.records, self._bytes = [], [], {}, 0, 0
        self._cleared_at = self._clock()

    def _cover(self, record: ReceivedRecord) -> None:
        self.offsets[record.partition] = record.offset + 1
        self.records += 1
        self._bytes += len(record.value or b"")
