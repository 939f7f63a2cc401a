"""The indexes of the collection: made where they are missing; what stands in their way is named.

MongoDB builds an index while others write, from 4.2 on. It takes hours where there is much to read, and only the index
that storing once rests on has to be there first.
"""

import logging
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import pymongo
from pymongo import ASCENDING, DESCENDING
from pymongo.collection import Collection
from pymongo.errors import OperationFailure

from common.errors import IndexConflictError

logger = logging.getLogger(__name__)

_SECONDS_A_DAY = 86_400
# The driver tells MongoDB how long it waits, and MongoDB gives up a build that takes longer, to begin anew each time.
_BUILD_SECONDS = 7 * _SECONDS_A_DAY
_DUPLICATE_KEY = 11000
# Another consumer dropped it first, if it is not there any more.
_NOT_FOUND = (26, 27)  # NamespaceNotFound, IndexNotFound

Events = Collection[dict[str, Any]]
Definition = Mapping[str, Any]


class Index(NamedTuple):
    """One of ours; named as MongoDB does by itself.

    `only`: it has the documents that match this. `expires`: it deletes them so many seconds after the time in them.
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
        """What MongoDB is told beside the key."""
        options: dict[str, Any] = {"name": self.name}
        if self.unique:
            options["unique"] = True
        if self.only is not None:
            options["partialFilterExpression"] = self.only
        if self.expires is not None:
            options["expireAfterSeconds"] = self.expires
        return options


EVENT_ID = Index((("event_id", ASCENDING),), unique=True)
# Partial: many events have no name, and those of the first version no coordinate. Not by $exists, for which SecantusDB
# does not use an index. Not sparse: that leaves out documents with no field of the key, and all have a timestamp.
INDEXES = (
    EVENT_ID,
    Index((("customer_id", ASCENDING), ("timestamp", DESCENDING))),
    Index((("event_type", ASCENDING), ("timestamp", DESCENDING))),
    Index((("event_name", ASCENDING), ("timestamp", DESCENDING)), only={"event_name": {"$gt": ""}}),
    Index((("kafka.partition", ASCENDING), ("kafka.offset", ASCENDING)), only={"kafka.partition": {"$gte": 0}}),
)
TTL = Index((("received_at", ASCENDING),))
"""With MONGO_TTL_DAYS. Not on the client's `timestamp`: an event that comes late would be gone within a minute."""
_FORMER_TTL = Index((("timestamp", ASCENDING),))
# What an index like EVENT_ID is listed with; `ns` before MongoDB 4.4.
_PLAIN = {"v", "key", "unique", "ns"}


def ensure(events: Events, ttl_days: int | None) -> None:
    """Make the index without which nothing may be stored, on `event_id`; let nothing expire but by the setting.

    None for `ttl_days`: nothing expires. Blocks while the index is built. Raises IndexConflictError, if something is in
    the way of any of ours, and PyMongoError.
    """
    there = events.index_information()
    missing = _missing(events, there)
    _ensure_ttl(events, there, ttl_days and ttl_days * _SECONDS_A_DAY)
    if EVENT_ID in missing:
        _make(events, EVENT_ID)
    elif there.get(EVENT_ID.name, {"other": True}).keys() <= _PLAIN:
        # MongoDB also lists what another consumer has begun. Asked for it once more, it answers when that is finished.
        _create(events, EVENT_ID)


def complete(events: Events, ttl_days: int | None) -> None:
    """Make all others that are missing, after `ensure`; those that another consumer is making are not missing.

    Blocks while they are built. Raises IndexConflictError, and PyMongoError.
    """
    there = events.index_information()
    missing = _missing(events, there)
    if ttl_days is not None and TTL.name not in there:
        missing.append(TTL._replace(expires=ttl_days * _SECONDS_A_DAY))
    for index in missing:
        _make(events, index)


def _missing(events: Events, there: Mapping[str, Definition]) -> list[Index]:
    return [index for index in INDEXES if not _is_there(events, there, index)]


def _is_there(events: Events, there: Mapping[str, Definition], index: Index) -> bool:
    """Whether an index does what ours would, by whatever name; raises IndexConflictError if one stands in its way."""
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
    """Why an index with the same key does not do."""
    if not index.unique:
        return None
    if not found.get("unique"):
        return "is not unique, so events could be stored twice"
    if "partialFilterExpression" in found or "collation" in found:
        return "is unique for some of the events only, or compares their ids by a language's rules"
    return None


def _make(events: Events, index: Index) -> None:
    logger.info("making an index", extra={"index": index.name})
    begun = time.monotonic()
    _create(events, index)
    logger.info("the index is made", extra={"index": index.name, "seconds": round(time.monotonic() - begun, 1)})


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
    """Drop or change what is not as the setting says."""
    if "expireAfterSeconds" in there.get(_FORMER_TTL.name, {}):
        _drop(events, _FORMER_TTL, "dropping the TTL index on the clients' timestamp: it is on received_at now")
    current = there.get(TTL.name)
    if current is None:
        return
    if "expireAfterSeconds" not in current:
        if seconds is not None:
            raise IndexConflictError(
                TTL.name, events.full_name, "lets nothing expire", "drop it, or do without MONGO_TTL_DAYS"
            )
    elif seconds is None:
        # Events must not go on expiring when nobody wants that any more.
        _drop(events, TTL, "dropping the TTL index: MONGO_TTL_DAYS is not set any more")
    elif current["expireAfterSeconds"] != seconds:
        _change_ttl(events, seconds)


def _change_ttl(events: Events, seconds: int) -> None:
    logger.warning("changing the TTL index: MONGO_TTL_DAYS has changed", extra={"index": TTL.name})
    change = {"name": TTL.name, "expireAfterSeconds": seconds}
    try:
        events.database.command("collMod", events.name, index=change)
    except OperationFailure:
        # That takes a right that readWrite does not have; making an index takes no more than that.
        _drop(events, TTL, "making the TTL index anew: MongoDB does not let it be changed")


def _drop(events: Events, index: Index, why: str) -> None:
    logger.warning(why, extra={"index": index.name})
    try:
        events.drop_index(index.name)
    except OperationFailure as error:
        if error.code not in _NOT_FOUND:
            raise
