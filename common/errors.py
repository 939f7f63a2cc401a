"""The tree of errors: everything Pulse raises on purpose.

PulseError
├── SettingsError          a variable of the environment is not usable; the process does not start
│   └── EnvFileError       the file .env is not usable; the process does not start
├── SchemaError            a schema has a rule that the fast decoder cannot follow; the process does not start
├── InvalidEventError      bytes that are not an event, or an event that breaks a rule
├── QueueFullError         the API can take no more events for now
├── RateError              the holder of a write key has sent more events than its rate allows
├── JournalFullError       the journal can keep no more events for now
├── JournalError           a journal cannot be used, though its events are not damaged; the process does not start
├── TopicError             a topic is missing, or not as it has to be
├── ReadError              a topic cannot be read: no broker answers, or no longer
├── DeliveryError          Kafka did not acknowledge some records
├── StoreError             MongoDB did not take a write; nothing is known about what it stored
├── ForgetError            a customer cannot be forgotten yet
├── IndexConflictError     an index of the collection stands in the way of one of ours
├── RefusedDocumentError   MongoDB will never take this document
├── TooManyDeadLettersError  so many records cannot be stored that something else must be wrong
├── ExportError            what is stored cannot be exported; nothing is lost, and a later run goes on
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
"""Which kinds of rule can be broken."""


class Fault(str):
    """What to tell a client of a broken rule, and which kind of rule (`RULES`) that is. A message for marshmallow."""

    __slots__ = ("rule",)
    rule: str

    def __new__(cls, rule: str, message: str) -> Self:
        """`message` may have places to `format`, as marshmallow's messages have."""
        fault = super().__new__(cls, message)
        fault.rule = rule
        return fault

    def format(self, *args: object, **kwargs: object) -> Self:
        """As that of a str; the rule stays."""
        return type(self)(self.rule, super().format(*args, **kwargs))


class PulseError(Exception):
    """Base of all errors below; its text is one line that a person can act on."""


class SettingsError(PulseError):
    """A setting has a value that is not allowed."""

    def __init__(self, name: str, value: str, allowed: str) -> None:
        super().__init__(f"{name}={value} is not allowed: give {allowed}")


class EnvFileError(SettingsError):
    """The file `.env` is there and cannot be read, or has a line that is no setting."""

    def __init__(self, allowed: str) -> None:
        PulseError.__init__(self, f".env cannot be used: give {allowed}")


class SchemaError(PulseError):
    """A schema has a rule that the fast decoder cannot follow for certain."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where} has {what}, which common/fast_decoder.py does not know: teach it, or do without.")


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
    "journal_fatal": "The journal that keeps events until Kafka has them has failed, and is being opened anew",
}
"""Why events can be kept nowhere, as the metric calls it and as a client reads it."""


class QueueFullError(PulseError):
    """The request's events can be kept nowhere. `reason` is one of NO_ROOM; `retry_after` in seconds."""

    def __init__(self, reason: str, retry_after: int) -> None:
        super().__init__(f"{NO_ROOM[reason]}; try again in {retry_after} s.")
        self.reason = reason
        self.retry_after = retry_after


class RateError(PulseError):
    """A write key has no more events left of its rate. `retry_after` in seconds."""

    def __init__(self, key: str, rate: int, retry_after: int) -> None:
        super().__init__(f"This write key is for {rate} events a second; try again in {retry_after} s.")
        self.key = key
        self.rate = rate
        self.retry_after = retry_after


class JournalFullError(PulseError):
    """The journal has reached its limit, or the disk its end; nothing of the request is in it. `reason`: of NO_ROOM."""

    def __init__(self, reason: str) -> None:
        super().__init__(NO_ROOM[reason])
        self.reason = reason


class JournalError(PulseError):
    """A journal cannot be opened or read. Its events are where they were; the text says why and what to do."""


class TopicError(PulseError):
    """A topic is missing, has fewer partitions or replicas than asked for, or a setting that loses or stops events."""


class ReadError(PulseError):
    """A topic cannot be read, or not to its end: no broker answers."""


class DeliveryError(PulseError):
    """Kafka did not acknowledge what was sent; it may or may not have stored it."""


class StoreError(PulseError):
    """MongoDB did not confirm a write: treat what happened to it as unknown and write it again."""


class ForgetError(PulseError):
    """A customer cannot be forgotten, or not yet; the next run goes on with what was begun."""


class IndexConflictError(PulseError):
    """An index of the collection, or what is stored in it, stands in the way of an index that the consumer needs."""

    def __init__(self, index: str, collection: str, why: str, mend: str) -> None:
        """`collection` with its database. `why` goes on after the names, `mend` says what somebody has to do."""
        super().__init__(f"Index {index} of {collection} {why}: {mend} (docs/operations.md#index-conflict).")


class RefusedDocumentError(PulseError):
    """MongoDB, or its BSON, has no place for this one document; the others of its batch are not concerned."""


class TooManyDeadLettersError(PulseError):
    """So many of the recent records cannot be stored that the fault is ours, not theirs: better to stop."""

    def __init__(self, dead: int, records: int, max_ratio: float, newest: str) -> None:
        """`newest` says where the newest of them is and what is wrong with it."""
        super().__init__(
            f"{dead} of the last {records} records cannot be stored, more than CONSUMER_DLQ_MAX_RATIO={max_ratio:g} "
            f"allows; {newest}. Mend what refuses them and start again, or start once with CONSUMER_DLQ_MAX_RATIO=1 "
            "to have them all in the dead letter topic."
        )


class ExportError(PulseError):
    """What is stored cannot be exported until somebody has mended something; the text says what."""


class LocalStackError(PulseError):
    """A local server cannot be set up or started; the text says what to do."""
