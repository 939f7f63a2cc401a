"""What waits for the next flush: events, dead letters, and the offsets that both cover."""

from collections.abc import Callable
from typing import Any, NamedTuple

from common.kafka import ReceivedRecord
from consumer.dead_letters import DeadLetter


class BufferedEvent(NamedTuple):
    """A record and the event in it."""

    record: ReceivedRecord
    event: dict[str, Any]


MAX_BYTES = 8 * 1024 * 1024
"""Of records, as they are in Kafka: decoded they take some times as much."""


class Buffer:
    """Filled record by record, flushed as a whole: once it has so many records or bytes, or so many seconds after the
    last flush. So a record that comes after a quiet while is flushed at once.

    With a backlog a poll brings more than makes a flush due: all of that goes with one write.
    """

    def __init__(self, max_records: int, max_age: float, clock: Callable[[], float]) -> None:
        """`max_age` is in seconds of the (monotonic) clock: how long a record waits at most."""
        self._max_records = max_records
        self._max_age = max_age
        self._clock = clock
        self._cleared_at = clock()
        self.events: list[BufferedEvent] = []
        """Not stored yet."""
        self.letters: list[DeadLetter] = []
        """Not in the dead letter topic yet."""
        self.offsets: dict[int, int] = {}
        """By partition, the offset to go on from: what to commit once all of this is safe."""
        self.records = 0
        """How many records came in since it was cleared, safe or not."""
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.events) + len(self.letters)

    @property
    def due(self) -> bool:
        """Whether it is time to flush."""
        full = self.records >= self._max_records or self._bytes >= MAX_BYTES
        return full or (bool(self.offsets) and self._clock() - self._cleared_at >= self._max_age)

    def add_event(self, record: ReceivedRecord, event: dict[str, Any]) -> None:
        """A record that decodes."""
        self._cover(record)
        self.events.append(BufferedEvent(record, event))

    def add_letter(self, letter: DeadLetter) -> None:
        """A record that does not."""
        self._cover(letter.record)
        self.letters.append(letter)

    def jump(self, partition: int, offset: int) -> None:
        """A partition goes on at another offset than the next one: there is nothing to store before it."""
        self.offsets[partition] = offset

    def clear(self) -> None:
        """Forget everything: it is safe, or somebody else reads it again."""
        self.events, self.letters, self.offsets, self.records, self._bytes = [], [], {}, 0, 0
        self._cleared_at = self._clock()

    def _cover(self, record: ReceivedRecord) -> None:
        self.offsets[record.partition] = record.offset + 1
        self.records += 1
        self._bytes += len(record.value or b"")
