"""The MongoDB side: events in, once each, whatever is written twice."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

import pymongo
from pymongo import ASCENDING, DESCENDING, IndexModel, MongoClient, UpdateOne
from pymongo.errors import BulkWriteError, OperationFailure, PyMongoError

from common.errors import StoreError
from common.settings import MongoSettings

_DUPLICATE_KEY = 11000
_SECONDS_A_DAY = 86_400
_TIMEOUT_MS = 10_000


class Written(NamedTuple):
    """What became of a batch: how many were new, and how many were stored already."""

    stored: int
    duplicates: int


class Writer(Protocol):
    """Stores events. For one thread."""

    def write(self, documents: Sequence[Mapping[str, Any]]) -> Written:
        """Store what is not stored yet. Blocks; raises StoreError when it is not certain that all of it is there."""


class MongoWriter:
    """`Writer` on a real MongoDB. Connects when first used; each call blocks for 10 s at most."""

    def __init__(self, settings: MongoSettings) -> None:
        self._settings = settings
        self._client: MongoClient[dict[str, Any]] = MongoClient(
            settings.uri,
            appname="pulse-consumer",
            timeoutMS=_TIMEOUT_MS,
            # An offset is committed on the word of this write: it has to outlive the death of the primary.
            w="majority",
            journal=True,
        )
        self._events = self._client[settings.database][settings.collection]

    def ensure_indexes(self) -> None:
        """Create the indexes that are missing; raises StoreError."""
        indexes = [
            IndexModel([("event_id", ASCENDING)], unique=True),
            IndexModel([("customer_id", ASCENDING), ("timestamp", DESCENDING)]),
            IndexModel([("event_type", ASCENDING), ("timestamp", DESCENDING)]),
        ]
        if self._settings.ttl_days is not None:
            expire = self._settings.ttl_days * _SECONDS_A_DAY
            indexes.append(IndexModel([("timestamp", ASCENDING)], expireAfterSeconds=expire))
        try:
            self._events.create_indexes(indexes)
        except PyMongoError as error:
            raise StoreError(f"MongoDB did not create the indexes: {_first_line(error)}") from error

    def write(self, documents: Sequence[Mapping[str, Any]]) -> Written:
        processed_at = datetime.now(UTC)
        upserts = [
            UpdateOne(
                {"event_id": document["event_id"]},
                {"$setOnInsert": {**document, "processed_at": processed_at}},
                upsert=True,
            )
            for document in documents
        ]
        try:
            result = self._events.bulk_write(upserts, ordered=False)
        except BulkWriteError as error:
            return self._after_errors(error)
        except PyMongoError as error:
            raise StoreError(f"MongoDB did not confirm a write: {_first_line(error)}") from error
        return Written(result.upserted_count, result.matched_count)

    def _after_errors(self, error: BulkWriteError) -> Written:
        details = error.details
        refused = [write_error for write_error in details["writeErrors"] if not _is_duplicate(write_error)]
        if refused or details["writeConcernErrors"]:
            codes = sorted({write_error["code"] for write_error in refused})
            raise StoreError(f"MongoDB refused {len(refused)} documents, with error codes {codes}") from error
        return Written(details["nUpserted"], details["nMatched"] + len(details["writeErrors"]))

    def close(self) -> None:
        """Close the connections. Blocks for a second at most."""
        # Or it would look for a server that is away, to tell it that its sessions are over.
        with pymongo.timeout(1):
            self._client.close()


def _is_duplicate(write_error: Mapping[str, Any]) -> bool:
    # Another consumer inserted the same event between the look and the insert of ours. A duplicate in any other
    # unique index is a document that is not stored.
    return write_error["code"] == _DUPLICATE_KEY and write_error.get("keyPattern") == {"event_id": 1}


def _first_line(error: PyMongoError) -> str:
    if isinstance(error, OperationFailure) and error.details:
        return f"{error.details.get('errmsg', error)} (code {error.code})"
    return str(error).split(", Timeout:")[0].splitlines()[0]
