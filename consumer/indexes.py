"""The indexes of the collection: made at the start where they are missing; what stands in their way is named."""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from pymongo import ASCENDING, DESCENDING
from pymongo.collection import Collection
from pymongo.errors import OperationFailure

from common.errors import IndexConflictError

logger = logging.getLogger(__name__)

_SECONDS_A_DAY = 86_400
_DUPLICATE_KEY = 11000
# Another consumer dropped it first, if it is not there any more.
_NOT_FOUND = (26, 27)  # NamespaceNotFound, IndexNotFound

Events = Collection[dict[str, Any]]
Definition = Mapping[str, Any]


class Index(NamedTuple):
    """One of ours; named as MongoDB does by itself."""

    key: tuple[tuple[str, int], ...]
    unique: bool = False

    @property
    def name(self) -> str:
        return "_".join(f"{field}_{direction}" for field, direction in self.key)


INDEXES = (
    Index((("event_id", ASCENDING),), unique=True),
    Index((("customer_id", ASCENDING), ("timestamp", DESCENDING))),
    Index((("event_type", ASCENDING), ("timestamp", DESCENDING))),
)
TTL = Index((("received_at", ASCENDING),))
"""With MONGO_TTL_DAYS. Not on the client's `timestamp`: an event that comes late would be gone within a minute."""
_FORMER_TTL = Index((("timestamp", ASCENDING),))


def ensure(events: Events, ttl_days: int | None) -> None:
    """Create what is missing, and make the TTL what the setting says; None: nothing expires.

    Blocks while indexes are built. Raises IndexConflictError, and PyMongoError.
    """
    there = events.index_information()
    for index in INDEXES:
        if not _is_there(events, there, index):
            _create(events, index)
    _ensure_ttl(events, there, ttl_days and ttl_days * _SECONDS_A_DAY)


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


def _create(events: Events, index: Index, **options: Any) -> None:
    try:
        events.create_index(index.key, name=index.name, unique=index.unique, **options)
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
    if "expireAfterSeconds" in there.get(_FORMER_TTL.name, {}):
        _drop(events, _FORMER_TTL, "dropping the TTL index on the clients' timestamp: it is on received_at now")
    current = there.get(TTL.name)
    if current is None:
        if seconds is not None:
            _create(events, TTL, expireAfterSeconds=seconds)
    elif "expireAfterSeconds" not in current:
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
        _create(events, TTL, expireAfterSeconds=seconds)


def _drop(events: Events, index: Index, why: str) -> None:
    logger.warning(why, extra={"index": index.name})
    try:
        events.drop_index(index.name)
    except OperationFailure as error:
        if error.code not in _NOT_FOUND:
            raise
