"""Stores events in MongoDB, each once, even if written twice."""

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

import pymongo
from bson.errors import BSONError
from pymongo import MongoClient, UpdateOne
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, PyMongoError

from common.errors import RefusedDocumentError, StoreError
from common.mongo_errors import first_line
from common.settings import MongoSettings
from consumer import indexes, policy

_TIMEOUT_MS = 10_000
# How often the driver checks whether a server is back, and how long it waits for the answer.
_LOOK_MS = 2_000
_ANSWER_MS = 5_000
LETTERS = ".dead_letters"
"""The suffix of the collection for letters that are too large for their topic."""
_PIECE_BYTES = 8 * 1024**2
_COMPARE_SECONDS = 2.0
_MOST_COMPARED = 1000
SAME = (
    "customer_id",
    "event_type",
    "event_name",
    "user_id",
    "anonymous_id",
    "previous_id",
    "group_id",
    "properties",
    "traits",
)
"""Two events with the same id are different events if one of these fields differs. Other fields can differ between two
attempts to send one event: SDKs fill in `context` again and correct `timestamp`, and a missing one is the time of
receipt.
"""


class Written(NamedTuple):
    """The result for a batch: the number of new events, of duplicates, and the permanently refused ones, by index.

    `conflicts`: the ids of those duplicates that differ from the stored events with the same ids.
    """

    stored: int
    duplicates: int
    refused: Mapping[int, RefusedDocumentError] = {}
    conflicts: Sequence[str] = ()


class Writer(Protocol):
    """Stores events. For one thread."""

    def write(self, documents: Sequence[Mapping[str, Any]]) -> Written:
        """Store the events that are not stored yet. Blocks; raises StoreError if the outcome is unknown."""

    def available(self) -> bool:
        """Whether a writable server seems to be up. Does not block."""

    def keep_letter(self, name: str, content: bytes) -> None:
        """See `consumer.dead_letters.LetterStore`."""


class MongoWriter:
    """`Writer` on a real MongoDB. Connects when first used; each call but those for indexes blocks for 10 s at most."""

    def __init__(self, settings: MongoSettings) -> None:
        self._settings = settings
        self._client: MongoClient[dict[str, Any]] = MongoClient(
            settings.uri,
            appname="pulse-consumer",
            # Otherwise mongodb+srv would query the DNS here, without retries.
            connect=False,
            timeoutMS=_TIMEOUT_MS,
            heartbeatFrequencyMS=_LOOK_MS,
            connectTimeoutMS=_ANSWER_MS,
            # The offset is committed after this write, so the write must survive the loss of the primary.
            w="majority",
            journal=True,
        )
        self._events = self._client[settings.database][settings.collection]

    @property
    def events(self) -> Collection[dict[str, Any]]:
        """The collection that it writes to."""
        return self._events

    def ensure_indexes(self) -> None:
        """Create the index that storage needs, and adjust the TTL index to the setting.

        Blocks, for hours if that index is missing and there are many documents. Raises StoreError, and
        IndexConflictError if the operator must fix an index first.
        """
        with _indexing():
            indexes.ensure(self._events, self._settings.ttl_days)

    def complete_indexes(self) -> None:
        """Create the other indexes, after `ensure_indexes`; another thread may `write`. Blocks and raises as above."""
        with _indexing():
            indexes.complete(self._events, self._settings.ttl_days)

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
            return self._sorted_out(documents, error)
        except Exception as error:
            rule = policy.of_error(error)
            if rule is None:
                raise
            if rule.action is policy.Action.RETRY:
                raise StoreError(f"MongoDB did not confirm a write: {first_line(error)}") from error
            return self._write_halves(documents, error)
        new = result.upserted_ids or {}
        duplicates = [document for index, document in enumerate(documents) if index not in new]
        return Written(result.upserted_count, result.matched_count, {}, self._conflicts(duplicates))

    def available(self) -> bool:
        return self._client.topology_description.has_writable_server()

    def keep_letter(self, name: str, content: bytes) -> None:
        """Keep a letter that is too large for its topic, in pieces, since a document holds at most 16 MiB.

        A second call with the same name changes nothing. Blocks for 10 s per piece at most; raises StoreError.
        """
        letters = self._client[self._settings.database][self._settings.collection + LETTERS]
        pieces = [content[begin : begin + _PIECE_BYTES] for begin in range(0, len(content), _PIECE_BYTES)]
        try:
            for number, piece in enumerate(pieces, 1):
                fields = {"letter": name, "piece": number, "pieces": len(pieces), "content": piece}
                letters.update_one({"_id": f"{name}/{number}"}, {"$setOnInsert": fields}, upsert=True)
        except PyMongoError as error:
            raise StoreError(f"MongoDB did not keep a dead letter: {first_line(error)}") from error

    def _write_halves(self, documents: Sequence[Mapping[str, Any]], error: Exception) -> Written:
        """Find the document that cannot be encoded as BSON, which the driver does not name, and write the others."""
        if len(documents) == 1:
            return Written(0, 0, {0: RefusedDocumentError(f"Cannot be written as BSON: {error}")})
        middle = len(documents) // 2
        first, second = self.write(documents[:middle]), self.write(documents[middle:])
        refused = {**first.refused, **{middle + index: why for index, why in second.refused.items()}}
        duplicates, conflicts = first.duplicates + second.duplicates, [*first.conflicts, *second.conflicts]
        return Written(first.stored + second.stored, duplicates, refused, tuple(conflicts))

    def _sorted_out(self, documents: Sequence[Mapping[str, Any]], error: BulkWriteError) -> Written:
        """The outcome of each document, if known. Raises StoreError if a retry may help any of them."""
        details = error.details
        if details["writeConcernErrors"]:
            raise StoreError(f"MongoDB did not replicate a write: {details['writeConcernErrors'][-1]}") from error
        refused = {}
        for write_error in details["writeErrors"]:
            code = write_error["code"]
            match policy.of_write_error(write_error).action:
                case policy.Action.RETRY:
                    raise StoreError(
                        f"MongoDB did not accept a document: {write_error.get('errmsg')} (code {code})"
                    ) from error
                case policy.Action.SKIP:
                    pass
                case _:
                    why = f"{write_error.get('errmsg', 'MongoDB refused the document')} (code {code})"
                    refused[write_error["index"]] = RefusedDocumentError(why)
        other = refused.keys() | {upserted["index"] for upserted in details["upserted"]}
        duplicates = [document for index, document in enumerate(documents) if index not in other]
        return Written(details["nUpserted"], len(duplicates), refused, self._conflicts(duplicates))

    def _conflicts(self, duplicates: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
        """The ids of duplicates that differ from the stored events, among the first 1,000. Blocks for 2 s at most.

        Best effort: returns no ids if MongoDB does not answer.
        """
        if not duplicates:
            return ()
        sent: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for document in duplicates[:_MOST_COMPARED]:
            sent[document["event_id"]].append(document)
        try:
            with pymongo.timeout(_COMPARE_SECONDS):
                stored = self._events.find({"event_id": {"$in": list(sent)}}, dict.fromkeys((*SAME, "event_id"), 1))
                return tuple(
                    there["event_id"]
                    for there in stored
                    for document in sent[there["event_id"]]
                    if any(document.get(name) != there.get(name) for name in SAME)
                )
        except (PyMongoError, BSONError):
            return ()

    def close(self) -> None:
        """Close the connections. Blocks for a second at most."""
        # Otherwise it would wait for an unavailable server to end its sessions.
        with pymongo.timeout(1):
            self._client.close()


@contextlib.contextmanager
def _indexing() -> Iterator[None]:
    try:
        yield
    except PyMongoError as error:
        raise StoreError(f"MongoDB did not create the indexes: {first_line(error)}") from error
