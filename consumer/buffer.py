"""What waits for the next flush: documents, dead letters, and the offsets that both cover."""

from collections.abc import Callable
from typing import Any

from consumer.dead_letters import DeadLetter
from consumer.source import ReceivedRecord


class Buffer:
    """Filled record by record, flushed as a whole: after so many records or so many seconds, whichever is first."""

    def __init__(self, max_records: int, max_age: float, clock: Callable[[], float]) -> None:
        """`max_age` is in seconds of the (monotonic) clock, since the oldest record came in."""
        self._max_records = max_records
        self._max_age = max_age
        self._clock = clock
        self._oldest = 0.0
        self.documents: list[dict[str, Any]] = []
        self.letters: list[DeadLetter] = []
        self.offsets: dict[int, int] = {}
        """By partition, the offset after the last record here: what to commit once all of this is safe."""

    def __len__(self) -> int:
        return len(self.documents) + len(self.letters)

    @property
    def due(self) -> bool:
        """Whether it is time to flush."""
        return len(self) >= self._max_records or (len(self) > 0 and self._clock() - self._oldest >= self._max_age)

    def add_document(self, record: ReceivedRecord, document: dict[str, Any]) -> None:
        """A record that decodes."""
        self._cover(record)
        self.documents.append(document)

    def add_letter(self, letter: DeadLetter) -> None:
        """A record that does not."""
        self._cover(letter.record)
        self.letters.append(letter)

    def clear(self) -> None:
        """Forget everything: it is safe, or somebody else reads it again."""
        self.documents, self.letters, self.offsets = [], [], {}

    def _cover(self, record: ReceivedRecord) -> None:
        if not len(self):
            self._oldest = self._clock()
        self.offsets[record.partition] = record.offset + 1
