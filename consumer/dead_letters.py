"""Records that cannot be stored go, byte for byte, to the dead letter topic, with what is known about why."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from common.errors import DeliveryError
from common.events import format_timestamp
from common.kafka import Record, RecordSender
from consumer.source import ReceivedRecord


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record, and why it was given up: the error's class and its message, and when (UTC)."""

    record: ReceivedRecord
    reason: str
    message: str
    failed_at: datetime
    attempts: int = 1

    @classmethod
    def of(cls, record: ReceivedRecord, error: Exception) -> "DeadLetter":
        """The letter of a record that failed just now."""
        return cls(record, type(error).__name__, str(error), datetime.now(UTC))


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
        failed_at = format_timestamp(letter.failed_at)
        why = {
            "dlq.error.class": letter.reason,
            "dlq.error.message": letter.message,
            "dlq.source.topic": self._source_topic,
            "dlq.source.partition": letter.record.partition,
            "dlq.source.offset": letter.record.offset,
            "dlq.source.timestamp": letter.record.timestamp_ms,
            "dlq.attempts": letter.attempts,
            "dlq.failed.first": failed_at,
            "dlq.failed.last": failed_at,
        }
        headers = tuple((name, str(value).encode()) for name, value in why.items())
        # A record may lack a value; the client takes none that lacks both key and value.
        return Record(letter.record.key, letter.record.value or b"", letter.record.headers + headers)
