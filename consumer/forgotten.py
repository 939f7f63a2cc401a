"""Forgotten customers: their list in MongoDB, and the records that the consumer leaves out because of it.

For the proof that none of their old events is stored again, see "A customer is forgotten" in docs/architecture.md.
"""

import hmac
import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from bson.codec_options import CodecOptions
from pymongo import DeleteOne, ReadPreference
from pymongo.collection import Collection as MongoCollection
from pymongo.errors import PyMongoError

from common.dead_letter_headers import FAILED_FIRST, Headers
from common.errors import StoreError
from common.events import parse_timestamp
from common.kafka import ReceivedRecord
from common.mongo_errors import first_line

logger = logging.getLogger(__name__)

Event = Mapping[str, Any]
Documents = MongoCollection[dict[str, Any]]

FORGOTTEN = ".forgotten"
"""The suffix of the list's collection: it has one document per customer, and one for the list itself."""
EXPORTS = "exports"
"""The collection that says what was exported to files (`ops/export`): where it has something, files are changed too."""
LIST = "list"
"""The `_id` of the list's own document, with the `key` for the hashes, and the `version`, which grows before a
deletion.
"""
ID_FIELDS = ("customer_id", "user_id", "anonymous_id", "previous_id")
"""The fields of an event that name a customer."""

REFRESH_SECONDS = 1.0
"""The maximum age of the list that a write uses."""
LATE_SECONDS = 10.0
"""If a write ends this long after its list was read, its events are checked again."""
GRACE_SECONDS = 20.0
"""How long the tool waits until no write with an older list can be in progress: more than LATE_SECONDS."""

_BEGINNING = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ForgottenList:
    """The list at the time of reading. `before`: by the keyed hash of an id, the time of receipt from which events
    count as new business. `newest` is the latest of these times.
    """

    version: int = 0
    key: bytes = b""
    before: Mapping[str, datetime] = field(default_factory=dict)
    newest: datetime = _BEGINNING

    def covers(self, ids: Sequence[str], received_at: datetime) -> datetime | None:
        """The time before which one of these ids is forgotten, if `received_at` is earlier."""
        moments = (self.before.get(hash_of(self.key, id_), _BEGINNING) for id_ in ids)
        return next((before for before in moments if received_at < before), None)


class Forgotten(Protocol):
    """Tells the consumer which records to leave out. For one thread."""

    def leave_out(self, events: Sequence[Event]) -> frozenset[int]:
        """The indexes of forgotten customers' events; deletes those events if they are stored.

        Uses a list that is at most REFRESH_SECONDS old. Blocks; raises StoreError.
        """

    def leave_out_records(self, records: Sequence[ReceivedRecord]) -> frozenset[int]:
        """The same for records that cannot be stored: without a valid event, or refused by MongoDB."""

    @property
    def late(self) -> bool:
        """Whether the list is so old that events written with it must be passed to `leave_out` again."""


class MongoForgotten:
    """`Forgotten` with the list in MongoDB."""

    def __init__(self, events: Documents, clock: Callable[[], float] = time.monotonic) -> None:
        """`events`: the collection that the consumer writes to."""
        self._events = events
        self._documents = forgotten_documents(events)
        self._clock = clock
        self._list = ForgottenList()
        self._read_at = -float("inf")

    @property
    def late(self) -> bool:
        return self._clock() - self._read_at >= LATE_SECONDS

    def leave_out(self, events: Sequence[Event]) -> frozenset[int]:
        gone: set[int] = set()
        # Deleting takes time, so check again: the following write must use a fresh list.
        while found := self._covered(events, gone):
            self._delete(list(found.values()))
            gone.update(found)
        return frozenset(gone)

    def leave_out_records(self, records: Sequence[ReceivedRecord]) -> frozenset[int]:
        self._refresh()
        if not self._list.before:
            return frozenset()
        whose = [whose_record(record.key, record.value, record.headers, record.timestamp_ms) for record in records]
        return frozenset(index for index, one in enumerate(whose) if self._list.covers(one.ids, one.received_at))

    def _covered(self, events: Sequence[Event], known: Collection[int]) -> dict[int, tuple[Event, datetime]]:
        """By index, the forgotten events with their customer's time, without those already `known`."""
        self._refresh()
        # Events received after the newest time need no hash.
        newest = self._list.newest
        old = [index for index, event in enumerate(events) if event["received_at"] < newest and index not in known]
        covered = {index: self._list.covers(ids_in(events[index]), events[index]["received_at"]) for index in old}
        return {index: (events[index], before) for index, before in covered.items() if before}

    def _refresh(self) -> None:
        now = self._clock()
        if now - self._read_at < REFRESH_SECONDS:
            return
        try:
            self._list = read_list(self._documents, self._list)
        except PyMongoError as error:
            raise StoreError(f"MongoDB did not return the forgotten customers: {first_line(error)}") from error
        # The time of the query, not of the answer.
        self._read_at = now

    def _delete(self, events: Sequence[tuple[Event, datetime]]) -> None:
        """Delete these events, which an earlier attempt with an older list may have stored."""
        deletes = [
            DeleteOne(
                {
                    "event_id": event["event_id"],
                    # Otherwise it could match another customer's event with that id.
                    "customer_id": event["customer_id"],
                    "received_at": {"$lt": before},
                }
            )
            for event, before in events
        ]
        try:
            deleted = self._events.bulk_write(deletes, ordered=False).deleted_count
        except PyMongoError as error:
            raise StoreError(f"MongoDB did not delete events of forgotten customers: {first_line(error)}") from error
        logger.info("events of forgotten customers left out", extra={"events": len(events), "were_stored": deleted})


class Whose(NamedTuple):
    """The customers that a record names, and its time of receipt, if known."""

    ids: tuple[str, ...]
    received_at: datetime


def hash_of(key: bytes, id_: str) -> str:
    """A customer's name on the list: the HMAC-SHA-256 of the id."""
    return hmac.digest(key, id_.encode(), "sha256").hex()


def ids_in(event: Event) -> tuple[str, ...]:
    """The ids of customers in an event, without duplicates."""
    return tuple({id_ for name in ID_FIELDS if isinstance(id_ := event.get(name), str)})


def whose_record(key: bytes | None, value: bytes | None, headers: Headers, timestamp_ms: int) -> Whose:
    """The customers of a record, with any value. If the value lacks the time of receipt, uses that of its first
    failure or of its production.
    """
    try:
        content = json.loads(value or b"")
    except (ValueError, RecursionError):
        content = None
    event = content if isinstance(content, dict) else {}
    ids = {*ids_in(event), (key or b"").decode(errors="replace")}
    for text in (event.get("received_at"), dict(headers).get(FAILED_FIRST, b"").decode(errors="replace")):
        with suppress(ValueError, TypeError):
            return Whose(tuple(ids), parse_timestamp(text))  # type: ignore[arg-type]  # a TypeError is expected
    try:
        return Whose(tuple(ids), datetime.fromtimestamp(timestamp_ms / 1000, UTC))
    except (OverflowError, ValueError, OSError):
        # A producer can set any time.
        return Whose(tuple(ids), _BEGINNING)


def by_time(customers: Mapping[str, datetime]) -> dict[datetime, list[str]]:
    """The customers by the time before which their events go: those of one run of the tool have the same."""
    times: dict[datetime, list[str]] = defaultdict(list)
    for id_, before in customers.items():
        times[before].append(id_)
    return times


def forgotten_documents(events: Documents) -> Documents:
    """The collection of the list. Reads from the primary, since other members may lag."""
    aware: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True, tzinfo=UTC)
    return events.database.get_collection(
        events.name + FORGOTTEN, codec_options=aware, read_preference=ReadPreference.PRIMARY
    )


def read_list(documents: Documents, known: ForgottenList) -> ForgottenList:
    """The current list: returns `known` if it has not changed. Blocks; raises PyMongoError."""
    own = documents.find_one({"_id": LIST})
    if own is None:
        return ForgottenList()
    if own["version"] == known.version:
        return known
    # Read it after the version: each addition increments the version.
    customers = documents.find({"_id": {"$ne": LIST}}, {"before": 1})
    before = {customer["_id"]: customer["before"] for customer in customers}
    return ForgottenList(own["version"], own["key"], before, max(before.values(), default=_BEGINNING))
