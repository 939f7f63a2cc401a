"""The tree of errors: everything Pulse raises on purpose.

PulseError
├── SettingsError          an environment variable is invalid; the process does not start
│   └── EnvFileError       the file .env is invalid; the process does not start
├── SchemaError            a schema has a rule that the fast decoder does not support; the process does not start
├── InvalidEventError      bytes that are not an event, or an event that breaks a rule
├── QueueFullError         the API cannot accept more events for now
├── RateError              the holder of a write key has sent more events than its rate allows
├── JournalFullError       the journal cannot keep more events for now
├── JournalError           a journal is unusable, but not damaged; the process does not start
├── TopicError             a topic is missing, or has wrong settings
├── ReadError              a topic cannot be read: no broker answers, or no longer
├── DeliveryError          Kafka did not acknowledge some records
├── StoreError             MongoDB did not confirm a write; its outcome is unknown
├── ForgetError            a customer cannot be forgotten yet
├── IndexConflictError     an index of the collection conflicts with one of ours
├── RefusedDocumentError   MongoDB will never accept this document
├── TooManyDeadLettersError  too many records cannot be stored: the records are not at fault
├── ExportError            stored events cannot be exported; nothing is lost, and a later run continues
└── LocalStackError        a local server cannot be set up or started
"""

from collections.abc import Mapping
from typing import Any, Self

RULES = (
    "required",
    "type",
    "length",
    "choice",
    "blank",
    "format",
    "storable",
    "unknown",
    "size",
    "json",
    "other",
)
"""The kinds of rules."""


class Fault(str):
    """The message about a broken rule for the client, with the kind of rule (`RULES`). A message for marshmallow."""

    __slots__ = ("rule",)
    rule: str

    def __new__(cls, rule: str, message: str) -> Self:
        """`message` may have placeholders, as marshmallow's messages have."""
        fault = super().__new__(cls, message)
        fault.rule = rule
        return fault

    def format(self, *args: object, **kwargs: object) -> Self:
        """As `str.format`; keeps the rule."""
        return type(self)(self.rule, super().format(*args, **kwargs))


class PulseError(Exception):
    """Base of all errors below; its text is one actionable line."""


class SettingsError(PulseError):
    """A setting has a value that is not allowed."""

    def __init__(self, name: str, value: str, allowed: str) -> None:
        super().__init__(f"{name}={value} is not allowed: give {allowed}")


class EnvFileError(SettingsError):
    """The file `.env` exists, but cannot be read, or has an invalid line."""

    def __init__(self, allowed: str) -> None:
        PulseError.__init__(self, f".env cannot be used: give {allowed}")


class SchemaError(PulseError):
    """A schema has a rule that the fast decoder does not support."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(
            f"{where} has {what}, which common/fast_decoder.py does not support: add it there, or avoid it."
        )


class InvalidEventError(PulseError):
    """Something is not an event. `errors` holds marshmallow's messages by field (by index and field in a batch)."""

    def __init__(self, message: str, errors: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.errors = dict(errors or {})


NO_ROOM = {
    "queue_full": "Too many events are waiting for Kafka",
    "journal_full": "Too many events are waiting for Kafka",
    "journal_lowered": "More events are waiting for Kafka than the limit, which was lowered, allows",
    "disk_full": "The disk that keeps events until Kafka has them is full",
    "journal_failing": "The disk that keeps events until Kafka has them returns errors",
    "journal_fatal": "The journal that keeps events until Kafka has them has failed, and is being opened again",
}
"""Why there is no room for events: the metric's reason, and the message for the client."""


class QueueFullError(PulseError):
    """There is no room for the request's events. `reason` is one of NO_ROOM; `retry_after` in seconds."""

    def __init__(self, reason: str, retry_after: int) -> None:
        super().__init__(f"{NO_ROOM[reason]}; try again in {retry_after} s.")
        self.reason = reason
        self.retry_after = retry_after


class RateError(PulseError):
    """A write key has used up its rate. `retry_after` in seconds."""

    def __init__(self, key: str, rate: int, retry_after: int) -> None:
        super().__init__(f"This write key is for {rate} events a second; try again in {retry_after} s.")
        self.key = key
        self.rate = rate
        self.retry_after = retry_after


class JournalFullError(PulseError):
    """The journal or the disk is full, and no event of the request is in the journal. `reason`: one of NO_ROOM."""

    def __init__(self, reason: str) -> None:
        super().__init__(NO_ROOM[reason])
        self.reason = reason


class JournalError(PulseError):
    """A journal cannot be opened or read. It is unchanged; the text says why and what to do."""


class TopicError(PulseError):
    """A topic is missing, has too few partitions or replicas, or a setting that loses or blocks events."""


class ReadError(PulseError):
    """A topic cannot be read, or not to its end: no broker answers."""


class DeliveryError(PulseError):
    """Kafka did not acknowledge some records; it may or may not have stored them."""


class StoreError(PulseError):
    """MongoDB did not confirm a write: treat its outcome as unknown and write it again."""


class ForgetError(PulseError):
    """A customer cannot be forgotten, or not yet; the next run continues."""


class IndexConflictError(PulseError):
    """An index of the collection, or its documents, conflict with an index that the consumer needs."""

    def __init__(self, index: str, collection: str, why: str, remedy: str) -> None:
        """`collection` with its database. `why` continues the sentence after the names; `remedy` is for the
        operator.
        """
        super().__init__(f"Index {index} of {collection} {why}: {remedy} (docs/operations.md#index-conflict).")


class RefusedDocumentError(PulseError):
    """MongoDB, or its BSON, refuses this one document; the others of its batch are not affected."""


class TooManyDeadLettersError(PulseError):
    """Too many recent records cannot be stored: the records are probably not at fault, so the consumer stops."""

    def __init__(self, dead: int, records: int, max_ratio: float, newest: str) -> None:
        """`newest`: the place and the fault of the newest of them."""
        super().__init__(
            f"{dead} of the last {records} records cannot be stored, more than CONSUMER_DLQ_MAX_RATIO={max_ratio:g} "
            f"allows; {newest}. Fix the cause and start again, or start once with CONSUMER_DLQ_MAX_RATIO=1 "
            "to send all of them to the dead letter topic."
        )


class ExportError(PulseError):
    """Stored events cannot be exported until the operator has fixed the problem that the text names."""


class LocalStackError(PulseError):
    """A local server cannot be set up or started; the text says what to do."""


class ReleaseError(PulseError):
    """A release cannot be made of this checkout; nothing was changed."""
