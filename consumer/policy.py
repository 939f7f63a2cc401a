"""The table of failures with their actions and reasons, and the limit of dead letters that stops the consumer."""

from collections import deque
from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, NamedTuple

from bson.errors import BSONError
from pymongo.errors import PyMongoError

from common.errors import DeliveryError, InvalidEventError, StoreError, TooManyDeadLettersError


class Action(Enum):
    """The action for the affected records."""

    RETRY = auto()
    """Retry all of them, with exponential back-off, forever; read nothing more in the meantime."""
    REFUSE = auto()
    """Retry this record alone CONSUMER_MAX_RETRIES times, then send it to the dead letter topic."""
    BURY = auto()
    """Send this record to the dead letter topic immediately."""
    SKIP = auto()
    """Do nothing: the event is already stored."""


class Rule(NamedTuple):
    """One row of the table."""

    action: Action
    why: str


ERRORS: Mapping[type[Exception], Rule] = {
    InvalidEventError: Rule(Action.BURY, "bytes that are not an event will never become one"),
    PyMongoError: Rule(
        Action.RETRY, "MongoDB is down, changes its primary, is slow or denies access: no event is at fault"
    ),
    BSONError: Rule(Action.REFUSE, "the document cannot be written as BSON"),
    OverflowError: Rule(Action.REFUSE, "a number in the document is beyond what BSON holds"),
    UnicodeError: Rule(Action.REFUSE, "a text in the document cannot be written as UTF-8"),
    StoreError: Rule(Action.RETRY, "the outcome of the write is unknown; upserts absorb a second one"),
    DeliveryError: Rule(Action.RETRY, "the dead letter topic does not have the letters, so their offsets must wait"),
}
"""By class; a subclass counts as its nearest ancestor here. Any other error is a bug and ends the process."""

_DUPLICATE_KEY = 11000
_SERVER = Rule(Action.RETRY, "the server's state is at fault, not the document")
_RIGHTS = Rule(Action.RETRY, "a missing right or a wrong password is not an event's fault")
_ROOM = Rule(Action.RETRY, "the server has no room: it will accept the document when it has room again")

CODES: Mapping[int, Rule] = {
    6: _SERVER,  # HostUnreachable
    7: _SERVER,  # HostNotFound
    24: _SERVER,  # LockTimeout
    50: _SERVER,  # MaxTimeMSExpired
    63: _SERVER,  # StaleShardVersion
    64: _SERVER,  # WriteConcernTimeout
    89: _SERVER,  # NetworkTimeout
    91: _SERVER,  # ShutdownInProgress
    112: _SERVER,  # WriteConflict
    133: _SERVER,  # FailedToSatisfyReadPreference
    150: _SERVER,  # StaleEpoch
    189: _SERVER,  # PrimarySteppedDown
    262: _SERVER,  # ExceededTimeLimit
    9001: _SERVER,  # SocketException
    10107: _SERVER,  # NotWritablePrimary
    11600: _SERVER,  # InterruptedAtShutdown
    11602: _SERVER,  # InterruptedDueToReplStateChange
    13388: _SERVER,  # StaleConfig
    13435: _SERVER,  # NotPrimaryNoSecondaryOk
    13436: _SERVER,  # NotPrimaryOrSecondary
    13: _RIGHTS,  # Unauthorized
    18: _RIGHTS,  # AuthenticationFailed
    8000: _RIGHTS,  # AtlasError, such as a user without the right or a quota
    146: _ROOM,  # ExceededMemoryLimit
    14031: _ROOM,  # OutOfDiskSpace
}
"""By MongoDB's code of one document's write error."""

STORED_ALREADY = Rule(Action.SKIP, "another consumer stored the same event between our query and our insert")
REFUSED = Rule(Action.REFUSE, "MongoDB refuses this document: a validator, another unique index, a limit")
"""Any other code, including a duplicate key in another index than that of event_id."""


def of_error(error: Exception) -> Rule | None:
    """The rule for an exception, if there is one."""
    return next((ERRORS[class_] for class_ in type(error).__mro__ if class_ in ERRORS), None)


def of_write_error(write_error: Mapping[str, Any]) -> Rule:
    """The rule for an entry of a bulk write's `writeErrors`."""
    if write_error["code"] == _DUPLICATE_KEY and write_error.get("keyPattern") == {"event_id": 1}:
        return STORED_ALREADY
    return CODES.get(write_error["code"], REFUSED)


class DeathLimit:
    """Stops the consumer if too many recent records would become dead letters: then the records are not at fault.

    Recent records are the last 1,000. After a start at least 100 count, so that one bad record does not stop the
    consumer. A replayed letter that fails again does not count, since that is not a new failure.
    """

    _WINDOW = 1000
    _ENOUGH = 100

    def __init__(self, max_ratio: float) -> None:
        """`max_ratio`: from 0 to 1; 1 never stops."""
        self._max_ratio = max_ratio
        self._batches: deque[tuple[int, int]] = deque()
        self._records = 0
        self._dead = 0

    def check(self, records: int, dead: int, newest: str) -> None:
        """Raise TooManyDeadLettersError if a batch of `records`, with `dead` dead letters, exceeds the limit.

        `newest` describes the newest of these letters.
        """
        of = max(self._records + records, self._ENOUGH)
        all_dead = self._dead + dead
        if dead and all_dead > of * self._max_ratio:
            raise TooManyDeadLettersError(all_dead, self._records + records, self._max_ratio, newest)

    def count(self, records: int, dead: int) -> None:
        """Count a finished batch."""
        self._batches.append((records, dead))
        self._records += records
        self._dead += dead
        while self._records - self._batches[0][0] >= self._WINDOW:
            records, dead = self._batches.popleft()
            self._records -= records
            self._dead -= dead
