"""The indexes of the collection: creates missing ones, and reports conflicts.

From version 4.2 on, MongoDB builds an index without blocking writes. On large collections that takes hours; only the
unique index behind exactly-once storage must be finished first.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pymongo
from pymongo import ASCENDING, DESCENDING
from pymongo.collection import Collection
from pymongo.errors import OperationFailure

from common.errors import IndexConflictError

logger = logging.getLogger(__name__)

_SECONDS_A_DAY = 86_400
# The driver sends its timeout to MongoDB, which aborts a longer build; every retry would start from the beginning.
_BUILD_SECONDS = 7 * _SECONDS_A_DAY
# Up to this size of the collection, an index takes seconds at most.
_MANY_DOCUMENTS = 100_000
_DUPLICATE_KEY = 11000
# Another consumer dropped it first.
_NOT_FOUND = (26, 27)  # NamespaceNotFound, IndexNotFound

Events = Collection[dict[str, Any]]
Definition = Mapping[str, Any]


class Index(NamedTuple):
    """One of the consumer's indexes, with MongoDB's default name.

    `only`: the filter of a partial index. `expires`: a document is deleted N seconds after the time in its field.
    """

    key: tuple[tuple[str, int], ...]
    unique: bool = False
    only: Mapping[str, Any] | None = None
    expires: int | None = None

    @property
    def name(self) -> str:
        return "_".join(f"{field}_{direction}" for field, direction in self.key)

    @property
    def options(self) -> dict[str, Any]:
        """The options for MongoDB besides the key."""
        options: dict[str, Any] = {"name": self.name}
        if self.unique:
            options["unique"] = True
        if self.only is not None:
            options["partialFilterExpression"] = self.only
        if self.expires is not None:
            options["expireAfterSeconds"] = self.expires
        return options


EVENT_ID = Index((("event_id", ASCENDING),), unique=True)
# Partial indexes: many events have no name, and those of the first version no place. Not with $exists, for which
# SecantusDB does not use an index. Not sparse: a sparse index omits only documents without any field of the key, and
# all have a timestamp.
INDEXES = (
    EVENT_ID,
    Index((("customer_id", ASCENDING), ("timestamp", DESCENDING))),
    Index((("event_type", ASCENDING), ("timestamp", DESCENDING))),
    Index((("event_name", ASCENDING), ("timestamp", DESCENDING)), only={"event_name": {"$gt": ""}}),
    Index((("kafka.partition", ASCENDING), ("kafka.offset", ASCENDING)), only={"kafka.partition": {"$gte": 0}}),
)
TTL = Index((("received_at", ASCENDING),))
"""For MONGO_TTL_DAYS. Not on the client's `timestamp`: MongoDB would delete a late event within a minute."""
_FORMER_TTL = Index((("timestamp", ASCENDING),))
# The attributes of an index like EVENT_ID; `ns` before MongoDB 4.4.
_PLAIN = {"v", "key", "unique", "ns"}


def ensure(events: Events, ttl_days: int | None) -> None:
    """Create the index on `event_id`, which storage needs; adjust the TTL index to the setting.

    None for `ttl_days`: no event expires. Blocks while the index is built. Raises IndexConflictError if an existing
    index conflicts with one of the consumer's, and PyMongoError.
    """
    there = events.index_information()
    missing = _missing(events, there)
    _ensure_ttl(events, there, ttl_days and ttl_days * _SECONDS_A_DAY)
    if EVENT_ID in missing:
        _make(events, [EVENT_ID], if_quick=logging.DEBUG)  # `complete` logs the end for people
    elif there.get(EVENT_ID.name, {"other": True}).keys() <= _PLAIN:
        # MongoDB also lists an unfinished build of another consumer. Creating it again waits until that build is
        # finished.
        _create(events, EVENT_ID)


def complete(events: Events, ttl_days: int | None) -> None:
    """Create all other missing indexes, after `ensure`; skips those that another consumer is building.

    Blocks while they are built. Raises IndexConflictError and PyMongoError.
    """
    there = events.index_information()
    missing = _missing(events, there)
    if ttl_days is not None and TTL.name not in there:
        missing.append(TTL._replace(expires=ttl_days * _SECONDS_A_DAY))
    _make(events, missing)


def _missing(events: Events, there: Mapping[str, Definition]) -> list[Index]:
    return [index for index in INDEXES if not _is_there(events, there, index)]


def _is_there(events: Events, there: Mapping[str, Definition], index: Index) -> bool:
    """Whether an equivalent index exists, under any name; raises IndexConflictError if an index conflicts with it."""
    same = {name: found for name, found in there.items() if tuple(found["key"]) == index.key}
    useless = {name: why for name, found in same.items() if (why := _why_useless(found, index))}
    if len(useless) < len(same):
        return True
    for name, why in useless.items():
        raise IndexConflictError(name, events.full_name, why, "drop it, and the consumer creates its own")
    if index.name in there:
        raise IndexConflictError(
            index.name, events.full_name, "has other fields than the consumer's", "drop it, or give it another name"
        )
    return False


def _why_useless(found: Definition, index: Index) -> str | None:
    """Why an index with the same key is not equivalent."""
    if not index.unique:
        return None
    if not found.get("unique"):
        return "is not unique, so events could be stored twice"
    if "partialFilterExpression" in found or "collation" in found:
        return "is unique for some of the events only, or compares their ids by a language's rules"
    return None


def _make(events: Events, indexes: Sequence[Index], if_quick: int = logging.INFO) -> None:
    """Create the indexes; log each if that may take long, otherwise only the end, with the level `if_quick`."""
    if not indexes:
        return
    long = events.estimated_document_count() > _MANY_DOCUMENTS
    begun = time.monotonic()
    for index in indexes:
        if long:
            logger.info("making an index", extra={"index": index.name})
        _create(events, index)
    made = {"indexes": ", ".join(index.name for index in indexes), "seconds": round(time.monotonic() - begun, 1)}
    logger.log(logging.INFO if long else if_quick, "made the missing indexes", extra=made)


def _create(events: Events, index: Index) -> None:
    try:
        with pymongo.timeout(_BUILD_SECONDS):
            events.create_index(index.key, **index.options)
    except OperationFailure as error:
        if error.code != _DUPLICATE_KEY:
            raise
        raise IndexConflictError(
            index.name,
            events.full_name,
            "cannot be made unique, since several documents have the same event_id",
            "delete all but one of each",
        ) from error


def _ensure_ttl(events: Events, there: Mapping[str, Definition], seconds: int | None) -> None:
    """Drop or change a TTL index that differs from the setting."""
    if "expireAfterSeconds" in there.get(_FORMER_TTL.name, {}):
        _drop(events, _FORMER_TTL, "dropping the TTL index on the clients' timestamp: it is on received_at now")
    current = there.get(TTL.name)
    if current is None:
        return
    if "expireAfterSeconds" not in current:
        if seconds is not None:
            raise IndexConflictError(
                TTL.name, events.full_name, "lets nothing expire", "drop it, or leave MONGO_TTL_DAYS empty"
            )
    elif seconds is None:
        # Events must stop expiring when the setting is removed.
        _drop(events, TTL, "dropping the TTL index: MONGO_TTL_DAYS is not set any more")
    elif current["expireAfterSeconds"] != seconds:
        _change_ttl(events, seconds)


def _change_ttl(events: Events, seconds: int) -> None:
    logger.warning("changing the TTL index: MONGO_TTL_DAYS has changed", extra={"index": TTL.name})
    change = {"name": TTL.name, "expireAfterSeconds": seconds}
    try:
        events.database.command("collMod", events.name, index=change)
    except OperationFailure:
        # collMod needs a right that readWrite lacks; creating an index needs only readWrite.
        _drop(events, TTL, "creating the TTL index again: MongoDB refuses to change it")


def _drop(events: Events, index: Index, why: str) -> None:
    logger.warning(why, extra={"index": index.name})
    try:
        events.drop_index(index.name)
    except OperationFailure as error:
        if error.code not in _NOT_FOUND:
            raise
