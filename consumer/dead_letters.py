"""Records that cannot be stored go, byte for byte, to the dead letter topic, with what is known about why."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from common.dead_letter_headers import REPLAYS, dead_letter_headers
from common.errors import DeliveryError
from common.kafka import ReceivedRecord, Record, RecordSender


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record, why it was given up, after how many attempts, and when (UTC) the first and the last of them failed."""

    record: ReceivedRecord
    error: Exception
    attempts: int
    first_failed_at: datetime
    last_failed_at: datetime

    @classmethod
    def of(cls, record: ReceivedRecord, error: Exception) -> "DeadLetter":
        """The letter of a record that failed just now, for good."""
        now = datetime.now(UTC)
        return cls(record, error, 1, now, now)

    def __str__(self) -> str:
        """Where it is and why it died, without its contents."""
        return f"offset {self.record.offset} of partition {self.record.partition} ({self.reason})"

    @property
    def replayed(self) -> bool:
        """Whether it died before and was sent back to its topic."""
        return any(name == REPLAYS for name, _ in self.record.headers)

    @property
    def reason(self) -> str:
        """The class of the error."""
        return type(self.error).__name__


class DeadLetters:
    """Sends letters to their topic."""

    def __init__(self, sender: RecordSender, source_topic: str) -> None:
        self._sender = sender
        self._source_topic = source_topic

    def send(self, letters: Sequence[DeadLetter]) -> None:
        """Send all and wait until Kafka has them; raises DeliveryError when any is not acknowledged."""
        results = self._sender.send([self._record(letter) for letter in letters])
        failed = [error for error in results if error is not None]
        if failed:
            raise DeliveryError(f"Kafka did not take {len(failed)} of {len(letters)} dead letters: {failed[0]!r}")

    def _record(self, letter: DeadLetter) -> Record:
        record = letter.record
        headers = dead_letter_headers(
            letter.error,
            letter.last_failed_at,
            self._source_topic,
            headers=record.headers,
            attempts=letter.attempts,
            first_failed_at=letter.first_failed_at,
            partition=record.partition,
            offset=record.offset,
            timestamp=record.timestamp_ms,
        )
        return Record(record.key, record.value, headers)
