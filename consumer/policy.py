"""What is done about each failure, and why: one table, and the limit past which letters mean that we are at fault."""

from collections import deque
from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, NamedTuple

from bson.errors import BSONError
from pymongo.errors import PyMongoError

from common.errors import DeliveryError, InvalidEventError, StoreError, TooManyDeadLettersError


class Action(Enum):
    """What happens to the records concerned."""

    RETRY = auto()
    """All of them are tried again, with growing pauses, for as long as it takes; nothing more is read meanwhile."""
    REFUSE = auto()
    """This record alone is tried CONSUMER_MAX_RETRIES times more, then it goes to the dead letter topic."""
    BURY = auto()
    """This record goes to the dead letter topic at once."""
    SKIP = auto()
    """Nothing: the event is stored already."""


class Rule(NamedTuple):
    """One row of the table."""

    action: Action
    why: str


ERRORS: Mapping[type[Exception], Rule] = {
    InvalidEventError: Rule(Action.BURY, "bytes that are no event will not become one"),
    PyMongoError: Rule(Action.RETRY, "MongoDB is away, changes its primary, is late or refuses us: no event's fault"),
    BSONError: Rule(Action.REFUSE, "the document cannot be written as BSON"),
    OverflowError: Rule(Action.REFUSE, "a number in the document is beyond what BSON holds"),
    UnicodeError: Rule(Action.REFUSE, "a text in the document cannot be written as UTF-8"),
    StoreError: Rule(Action.RETRY, "what became of the write is unknown; upserts absorb a second one"),
    DeliveryError: Rule(Action.RETRY, "the dead letter topic does not have the letters, so their offsets must wait"),
}
"""By class; a subclass counts as its nearest ancestor here. What is not here is our own fault and ends the process."""

_DUPLICATE_KEY = 11000
_SERVER = Rule(Action.RETRY, "the server's state is at fault, not the document")
_RIGHTS = Rule(Action.RETRY, "a missing right or a wrong password is no event's fault")
_ROOM = Rule(Action.RETRY, "the server has no room: it will take the document when somebody makes some")

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

STORED_ALREADY = Rule(Action.SKIP, "another consumer stored the same event between our look and our insert")
REFUSED = Rule(Action.REFUSE, "MongoDB refuses this document: a validator, another unique index, a limit")
"""Any other code, a duplicate key in another index than that of event_id among them."""


def of_error(error: Exception) -> Rule | None:
    """The rule for an exception, if there is one."""
    return next((ERRORS[class_] for class_ in type(error).__mro__ if class_ in ERRORS), None)


def of_write_error(write_error: Mapping[str, Any]) -> Rule:
    """The rule for an entry of a bulk write's `writeErrors`."""
    if write_error["code"] == _DUPLICATE_KEY and write_error.get("keyPattern") == {"event_id": 1}:
        return STORED_ALREADY
    return CODES.get(write_error["code"], REFUSED)


class DeathLimit:
    """Whether more of the recent records die than may: then the fault is ours, and the topic must not be drained.

    Recent are the last 1,000. After a start it takes 100 to judge, so that one bad record is no reason to stop. What
    somebody sent back from the dead letter topic does not count when it dies again: that is no news.
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
        """Raise TooManyDeadLettersError if a batch with so many records, so many of them dead, is too much.

        `newest` describes the newest of these.
        """
        of = max(self._records + records, self._ENOUGH)
        all_dead = self._dead + dead
        if dead and all_dead > of * self._max_ratio:
            raise TooManyDeadLettersError(all_dead, self._records + records, self._max_ratio, newest)

    def count(self, records: int, dead: int) -> None:
        """Remember a batch that has been dealt with."""
        self._batches.append((records, dead))
        self._records += records
        self._dead += dead
        while self._records - self._batches[0][0] >= self._WINDOW:
            records, dead = self._batches.popleft()
            self._records -= records
            self._dead -= dead
