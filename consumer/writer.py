"""The MongoDB side: events in, once each, whatever is written twice."""

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

import pymongo
from pymongo import ASCENDING, DESCENDING, IndexModel, MongoClient, UpdateOne
from pymongo.errors import BulkWriteError, OperationFailure, PyMongoError

from common.errors import RefusedDocumentError, StoreError
from common.settings import MongoSettings
from consumer import policy

logger = logging.getLogger(__name__)

_SECONDS_A_DAY = 86_400
_TIMEOUT_MS = 10_000
# How often the driver looks whether a server is back, and how long it waits for the answer.
_LOOK_MS = 2_000
_ANSWER_MS = 5_000
_TTL_INDEX = "timestamp_1"


class Written(NamedTuple):
    """What became of a batch: how many were new, how many stored already, and which (by index) are refused for good."""

    stored: int
    duplicates: int
    refused: Mapping[int, RefusedDocumentError] = {}


class Writer(Protocol):
    """Stores events. For one thread."""

    def write(self, documents: Sequence[Mapping[str, Any]]) -> Written:
        """Store what is not stored yet. Blocks; raises StoreError when it is not known what became of the batch."""

    def available(self) -> bool:
        """Whether there seems to be a server to write to. Does not block."""


class MongoWriter:
    """`Writer` on a real MongoDB. Connects when first used; each call blocks for 10 s at most."""

    def __init__(self, settings: MongoSettings) -> None:
        self._settings = settings
        self._client: MongoClient[dict[str, Any]] = MongoClient(
            settings.uri,
            appname="pulse-consumer",
            # Else mongodb+srv would ask the DNS here, where nothing tries again.
            connect=False,
            timeoutMS=_TIMEOUT_MS,
            heartbeatFrequencyMS=_LOOK_MS,
            connectTimeoutMS=_ANSWER_MS,
            # An offset is committed on the word of this write: it has to outlive the death of the primary.
            w="majority",
            journal=True,
        )
        self._events = self._client[settings.database][settings.collection]

    def ensure_indexes(self) -> None:
        """Create the indexes that are missing, and make the TTL what the settings say; raises StoreError. Blocks."""
        indexes = [
            IndexModel([("event_id", ASCENDING)], unique=True),
            IndexModel([("customer_id", ASCENDING), ("timestamp", DESCENDING)]),
            IndexModel([("event_type", ASCENDING), ("timestamp", DESCENDING)]),
        ]
        try:
            self._events.create_indexes(indexes)
            self._ensure_ttl()
        except PyMongoError as error:
            raise StoreError(f"MongoDB did not create the indexes: {_first_line(error)}") from error

    def _ensure_ttl(self) -> None:
        ttl = self._settings.ttl_days and self._settings.ttl_days * _SECONDS_A_DAY
        there = self._events.index_information().get(_TTL_INDEX)
        if there is not None and there.get("expireAfterSeconds") != ttl:
            # Events must not go on expiring when nobody wants that any more.
            logger.warning("dropping the TTL index: MONGO_TTL_DAYS has changed", extra={"index": _TTL_INDEX})
            self._events.drop_index(_TTL_INDEX)
            there = None
        if there is None and ttl is not None:
            self._events.create_index([("timestamp", ASCENDING)], name=_TTL_INDEX, expireAfterSeconds=ttl)

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
            return _sorted_out(error)
        except Exception as error:
            rule = policy.of_error(error)
            if rule is None:
                raise
            if rule.action is policy.Action.RETRY:
                raise StoreError(f"MongoDB did not confirm a write: {_first_line(error)}") from error
            return self._write_halves(documents, error)
        return Written(result.upserted_count, result.matched_count)

    def available(self) -> bool:
        return self._client.topology_description.has_writable_server()

    def _write_halves(self, documents: Sequence[Mapping[str, Any]], error: Exception) -> Written:
        """Find the document that cannot be written as BSON, which the driver does not name, and write the others."""
        if len(documents) == 1:
            return Written(0, 0, {0: RefusedDocumentError(f"Cannot be written as BSON: {error}")})
        middle = len(documents) // 2
        first, second = self.write(documents[:middle]), self.write(documents[middle:])
        refused = {**first.refused, **{middle + index: why for index, why in second.refused.items()}}
        return Written(first.stored + second.stored, first.duplicates + second.duplicates, refused)

    def close(self) -> None:
        """Close the connections. Blocks for a second at most."""
        # Or it would look for a server that is away, to tell it that its sessions are over.
        with pymongo.timeout(1):
            self._client.close()


def _sorted_out(error: BulkWriteError) -> Written:
    """What became of each document, if that is known. Raises StoreError if a retry may help any of them."""
    details = error.details
    if details["writeConcernErrors"]:
        raise StoreError(f"MongoDB took a write, but not safely: {details['writeConcernErrors'][-1]}") from error
    duplicates = details["nMatched"]
    refused = {}
    for write_error in details["writeErrors"]:
        code = write_error["code"]
        match policy.of_write_error(write_error).action:
            case policy.Action.RETRY:
                raise StoreError(
                    f"MongoDB did not take a document: {write_error.get('errmsg')} (code {code})"
                ) from error
            case policy.Action.SKIP:
                duplicates += 1
            case _:
                why = f"{write_error.get('errmsg', 'MongoDB refused the document')} (code {code})"
                refused[write_error["index"]] = RefusedDocumentError(why)
    return Written(details["nUpserted"], duplicates, refused)


def _first_line(error: Exception) -> str:
    if isinstance(error, OperationFailure) and error.details:
        return f"{error.details.get('errmsg', error)} (code {error.code})"
    # What the driver calls cancelled is what it gave up waiting for.
    return str(error).split(", Timeout:")[0].splitlines()[0].replace("operation cancelled", "no answer in time")
