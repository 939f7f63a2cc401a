"""Sends records that cannot be stored to the dead letter topic, byte for byte, with the cause."""

import json
import logging
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

from common.dead_letter_headers import REPLAYS, dead_letter_headers
from common.errors import DeliveryError, StoreError
from common.kafka import ReceivedRecord, Record, RecordSender, never_takes
from common.metrics import ConsumerMetrics

logger = logging.getLogger(__name__)

_REPLICAS = "bring its brokers back, or lower its min.insync.replicas"
_SETTINGS = "its settings refuse them; its cleanup.policy must be delete"
_REMEDIES = {
    "UnknownTopicOrPartitionError": "create it with `python -m common.topics`",
    "TopicAuthorizationFailedError": "let this user write to it",
    "NotEnoughReplicasError": _REPLICAS,
    "NotEnoughReplicasAfterAppendError": _REPLICAS,
    # kafka-python-ng's name for an error that it does not know, and the actual one.
    "UnknownError": _SETTINGS,
    "InvalidRecordError": _SETTINGS,
    "StoreError": "they are too large for it: raise its max.message.bytes, or let MongoDB store them",
}
"""By error class."""
_OTHER_REMEDY = "check that it exists (`python -m common.topics`), and that its brokers are up"
_MOST_OF_AN_ERROR = 200  # characters


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that cannot be stored: the error, the number of attempts, and the times (UTC) of the first and last."""

    record: ReceivedRecord
    error: Exception
    attempts: int
    first_failed_at: datetime
    last_failed_at: datetime

    @classmethod
    def of(cls, record: ReceivedRecord, error: Exception) -> "DeadLetter":
        """The letter of a record that has just failed permanently."""
        now = datetime.now(UTC)
        return cls(record, error, 1, now, now)

    def __str__(self) -> str:
        """Its place and reason, without its contents."""
        return f"offset {self.record.offset} of partition {self.record.partition} ({self.reason})"

    @property
    def replayed(self) -> bool:
        """Whether it was a dead letter before and was sent back to its topic."""
        return any(name == REPLAYS for name, _ in self.record.headers)

    @property
    def reason(self) -> str:
        """The class of the error."""
        return type(self.error).__name__


class Unsent(NamedTuple):
    """A letter that was not sent, and the error."""

    letter: DeadLetter
    error: Exception


class LetterStore(Protocol):
    """Keeps letters that are too large for their topic."""

    def keep_letter(self, name: str, content: bytes) -> None:
        """Keep a letter; a second call with the same name changes nothing. Blocks; raises StoreError."""


class DeadLetters:
    """Sends letters to their topic."""

    def __init__(
        self, sender: RecordSender, source_topic: str, store: LetterStore, topic: str, metrics: ConsumerMetrics
    ) -> None:
        """`topic`: the topic of `sender`; `source_topic`: the topic of the records."""
        self._sender = sender
        self._source_topic = source_topic
        self._store = store
        self._topic = topic
        self._metrics = metrics

    def send(self, letters: Sequence[DeadLetter]) -> list[Unsent]:
        """Send all letters and wait until Kafka has them; returns those to send again.

        Letters that are too large for the topic go to the store. Blocks as sending and storing do.
        """
        answers = self._sender.send([self._record(letter) for letter in letters])
        failed = [Unsent(letter, error) for letter, error in zip(letters, answers, strict=True) if error is not None]
        too_large = [letter for letter, error in failed if never_takes(error)]
        unsent = [one for one in failed if not never_takes(one.error)]
        if len(letters) == 1:
            return unsent + [Unsent(letter, error) for letter in too_large if (error := self._keep(letter))]
        # Kafka refuses a batch as a whole: in smaller batches it accepts all letters that are not too large themselves.
        middle = (len(too_large) + 1) // 2
        for part in (too_large[:middle], too_large[middle:]):
            if part:
                unsent += self.send(part)
        return unsent

    def problem(self, unsent: Sequence[Unsent]) -> DeliveryError:
        """The problem with the topic, and what to do, in one line."""
        error = unsent[0].error
        remedy = _REMEDIES.get(type(error).__name__, _OTHER_REMEDY)
        return DeliveryError(f"{self._topic} takes no dead letters, {len(unsent)} wait ({_one_line(error)}): {remedy}")

    def _keep(self, letter: DeadLetter) -> Exception | None:
        """Keep a letter that its topic will never accept; returns the error if the caller must try again."""
        record = letter.record
        name = f"{self._source_topic}-{record.partition}-{record.offset}@{record.timestamp_ms}"
        try:
            self._store.keep_letter(name, _as_json(self._record(letter)))
        except StoreError as error:
            return error
        self._metrics.letters_too_large.inc()
        logger.error("a dead letter is too large for its topic; it is in MongoDB", extra={"letter": name})
        return None

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


def _one_line(error: Exception) -> str:
    return " ".join((str(error) or repr(error)).split())[:_MOST_OF_AN_ERROR]


def _as_json(record: Record) -> bytes:
    """The record as JSON, with bytes in base64, since they may not be text."""

    def text(content: bytes | None) -> str | None:
        return None if content is None else b64encode(content).decode()

    headers = [[name, text(value)] for name, value in record.headers]
    return json.dumps({"key": text(record.key), "value": text(record.value), "headers": headers}).encode()
