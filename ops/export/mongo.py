"""`Exports` and `Events` on MongoDB."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import Any

import bson
from bson import ObjectId
from pymongo import ASCENDING, DESCENDING, MongoClient
from pymongo.client_session import ClientSession
from pymongo.errors import DuplicateKeyError, PyMongoError

from common.errors import StoreError
from common.mongo_errors import first_line
from common.settings import MongoSettings
from consumer.forgotten import EXPORTS, LIST, ForgottenList, forgotten_documents, hash_of, read_list
from ops.export.state import (
    PUT_SECONDS,
    WRITE_SECONDS,
    Document,
    File,
    Former,
    Frontier,
    Generation,
    Load,
    Place,
    Range,
    State,
)

_TIMEOUT_MS = 30_000
_BATCH = 5_000
_PLACE = "kafka.partition", "kafka.offset"


class MongoStore:
    """`Exports`, `Forgetting` and `Events` in one session: reads include all earlier writes.

    For one thread. Every call blocks for 30 s at most, and raises StoreError.
    """

    def __init__(self, settings: MongoSettings) -> None:
        """Connects when first used."""
        self._client: MongoClient[dict[str, Any]] = MongoClient(
            settings.uri,
            appname="pulse-export",
            connect=False,
            timeoutMS=_TIMEOUT_MS,
            # Neither exported events nor this state may be rolled back.
            w="majority",
            journal=True,
            readConcernLevel="majority",
            readPreference="primary",
        )
        database = self._client[settings.database]
        self._events = database[settings.collection]
        self._exports = database[EXPORTS]
        self._loads = database[f"{EXPORTS}.loads"]
        self._topics = database[f"{EXPORTS}.topics"]
        self._forgotten = forgotten_documents(self._events)
        self._open_session: ClientSession | None = None

    @property
    def _session(self) -> ClientSession:
        if self._open_session is None:
            self._open_session = self._client.start_session(causal_consistency=True)
        return self._open_session

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ensure_index(self) -> None:
        """Create the index that keeps two exporters from planning from the same place."""
        with _store_errors():
            fields = ("topic", "generation", "partition", "first")
            self._exports.create_index([(name, ASCENDING) for name in fields], unique=True, session=self._session)

    def ttl_seconds(self) -> int | None:
        """The seconds after which MongoDB deletes events; None if never."""
        with _store_errors():
            indexes = self._events.index_information(session=self._session).values()
        return min((index["expireAfterSeconds"] for index in indexes if "expireAfterSeconds" in index), default=None)

    # ── Exports ──

    def generation(self, topic: str) -> Generation:
        with _store_errors():
            generations = (self._topics.find_one({"_id": topic}, session=self._session) or {}).get("generations")
        if not generations:
            return Generation()
        newest = generations[-1]
        return Generation(
            newest["number"],
            newest["since"],
            {int(partition): Former(*former) for partition, former in newest["former"].items()},
            [_range(rest) for rest in newest["rest"]],
        )

    def catch_up(self, topic: str) -> None:
        # A former primary cannot confirm a write, nor answer later reads of this session.
        with _store_errors():
            self._topics.update_one({"_id": topic}, {"$inc": {"looks": 1}}, upsert=True, session=self._session)

    def begin_generation(self, topic: str, next_one: Generation) -> None:
        described = {
            "number": next_one.number,
            "since": next_one.since,
            "former": {str(partition): list(former) for partition, former in next_one.former.items()},
            "rest": [asdict(rest) for rest in next_one.rest],
        }
        not_begun = {"_id": topic, "generations.number": {"$ne": next_one.number}}
        with _store_errors():
            self._topics.update_one(not_begun, {"$push": {"generations": described}}, session=self._session)

    def frontiers(self, topic: str, generation: int) -> dict[Place, Frontier]:
        frontiers: dict[Place, Frontier] = {}
        with _store_errors():
            of_topic = {"topic": topic, "generation": generation}
            for partition in self._exports.distinct("partition", of_topic, session=self._session):
                last = self._exports.find_one(
                    {**of_topic, "partition": partition}, sort=[("first", DESCENDING)], session=self._session
                )
                if last is not None:
                    end = last["last"] + 1 if isinstance(partition, int) else last["last"]
                    frontiers[partition] = Frontier(end, last["upto"])
        return frontiers

    def plan(self, planned: Range) -> bool:
        document = {"_id": planned.id, **asdict(planned), "planned_at": datetime.now(UTC)}
        with _store_errors():
            try:
                self._exports.insert_one(document, session=self._session)
            except DuplicateKeyError:
                return False
        return True

    def in_state(self, topic: str, state: State) -> list[Range]:
        with _store_errors():
            found = self._exports.find({"topic": topic, "state": state}, session=self._session)
            # Ranges that an exporter has begun come last: it may be about to finish them.
            return [_range(one) for one in sorted(found, key=_by_beginning)]

    def begin(self, planned: Range) -> bool:
        still_planned = {"_id": planned.id, "state": "planned"}
        begun = {"$set": {"begun_at": datetime.now(UTC)}, "$inc": {"begun": 1}}
        with _store_errors():
            return self._exports.update_one(still_planned, begun, session=self._session).matched_count == 1

    def putting(self, planned: Range, file: File) -> None:
        with _store_errors():
            change = {"$addToSet": {"tried": asdict(file)}}
            self._exports.update_one({"_id": planned.id}, change, session=self._session)

    def written(self, planned: Range, files: Sequence[File]) -> bool:
        still_planned = {"_id": planned.id, "state": "planned"}
        described = {
            # A range without files needs no load.
            "state": "written" if files else "loaded",
            "files": [asdict(file) for file in files],
            "rows": sum(file.rows for file in files),
            "written_at": datetime.now(UTC),
        }
        with _store_errors():
            # One write, so that no exporter sees the range written while its writer seems to be at work.
            change = {"$set": described, "$inc": {"ended": 1}}
            if self._exports.update_one(still_planned, change, session=self._session).matched_count == 1:
                return True
            self._exports.update_one({"_id": planned.id}, {"$inc": {"ended": 1}}, session=self._session)
            return False

    def free_days(self, written: Range) -> list[str]:
        with _store_errors():
            found = self._exports.find_one({"_id": written.id}, session=self._session) or {}
        return [file.day for file in written.files if file.day not in found.get("loads", {})]

    def propose(self, load: Load) -> None:
        document = {"_id": load.id, **asdict(load), "state": "planned", "planned_at": datetime.now(UTC)}
        with _store_errors(), contextlib.suppress(DuplicateKeyError):
            self._loads.insert_one(document, session=self._session)

    def open_loads(self) -> list[Load]:
        with _store_errors():
            found = self._loads.find({"state": "planned"}, session=self._session).sort("_id", ASCENDING)
            return [Load(one["id"], one["day"], tuple(one["ranges"]), one["attempt"]) for one in found]

    def settle(self, load: Load) -> list[Range]:
        ours = {"_id": {"$in": list(load.ranges)}, f"loads.{load.day}": load.id}
        with _store_errors():
            for member in load.ranges:
                free = {"_id": member, f"loads.{load.day}": {"$exists": False}}
                self._exports.update_one(free, {"$set": {f"loads.{load.day}": load.id}}, session=self._session)
            return [_range(one) for one in self._exports.find(ours, session=self._session).sort("_id", ASCENDING)]

    def failed(self, load: Load) -> None:
        this_attempt = {"_id": load.id, "attempt": load.attempt}
        with _store_errors():
            self._loads.update_one(this_attempt, {"$inc": {"attempt": 1}}, session=self._session)

    def loaded(self, load: Load, members: Sequence[Range]) -> None:
        now = datetime.now(UTC)
        with _store_errors():
            for member in members:
                ours = {"_id": member.id}
                self._exports.update_one(ours, {"$addToSet": {"loaded_days": load.day}}, session=self._session)
                found = self._exports.find_one(ours, session=self._session) or {}
                if {file.day for file in member.files} <= set(found["loaded_days"]):
                    done = {"$set": {"state": "loaded", "loaded_at": now}}
                    self._exports.update_one(ours, done, session=self._session)
            # Last: until then the next exporter repeats all of it.
            self._loads.update_one({"_id": load.id}, {"$set": {"state": "loaded"}}, session=self._session)

    # ── Forgetting ──

    def forgotten(self) -> dict[str, datetime]:
        with _store_errors():
            found = self._forgotten.find({"state": "in_exports"}, session=self._session)
            return {one["customer_id"]: one["before"] for one in found}

    def forgotten_list(self) -> ForgottenList:
        """The customers whose events the consumer does not store."""
        with _store_errors():
            return read_list(self._forgotten, ForgottenList())

    def busy_until(self, now: datetime) -> datetime | None:
        alive = timedelta(seconds=WRITE_SECONDS + PUT_SECONDS)
        with _store_errors():
            begun = self._exports.find({"begun_at": {"$gt": now - alive}}, session=self._session)
            # Killed writers never ended, and writers cannot be told apart.
            times = [one["begun_at"] for one in begun if one["begun"] > one.get("ended", 0)]
        return max(times).replace(tzinfo=UTC) + alive if times else None

    def all_ranges(self) -> list[Range]:
        with _store_errors():
            return [_range(one) for one in self._exports.find({}, session=self._session).sort("_id", ASCENDING)]

    def begin_again(self, written: Range) -> None:
        begun = {"$set": {"begun_at": datetime.now(UTC)}, "$inc": {"begun": 1}}
        with _store_errors():
            self._exports.update_one({"_id": written.id}, begun, session=self._session)

    def rewritten(self, written: Range, old: File, new: File) -> None:
        same = {"_id": written.id, "files": {"$elemMatch": {"path": old.path, "sha256": old.sha256}}}
        with _store_errors():
            change = {"$set": {"files.$": asdict(new)}, "$inc": {"rows": new.rows - old.rows}}
            self._exports.update_one(same, change, session=self._session)
            self._exports.update_one({"_id": written.id}, {"$inc": {"ended": 1}}, session=self._session)

    def has_loads(self) -> bool:
        with _store_errors():
            return self._loads.find_one({}, {"_id": 1}, session=self._session) is not None

    def forget_done(self, customers: Mapping[str, datetime]) -> None:
        with _store_errors():
            own = self._forgotten.find_one({"_id": LIST}, session=self._session) or {}
            for id_, before in customers.items():
                same = {"_id": hash_of(own["key"], id_), "state": "in_exports", "before": before}
                done = {"$set": {"state": "done", "done_at": datetime.now(UTC)}, "$unset": {"customer_id": ""}}
                self._forgotten.update_one(same, done, session=self._session)

    # ── Events ──

    def of(self, wanted: Range) -> Iterator[Sequence[Document]]:
        with _store_errors():
            batches: Any = self._events.find_raw_batches(_query(wanted), batch_size=_BATCH, session=self._session)
            order = [("_id", ASCENDING)] if isinstance(wanted.partition, str) else [(_PLACE[1], ASCENDING)]
            for batch in batches.sort(order):
                yield bson.decode_all(batch)

    def received_on(self, day: date) -> Iterator[tuple[str, ObjectId, Mapping[str, int] | None]]:
        """For each event received on a day (UTC): its event_id, its document's id, its place."""
        begin = datetime(day.year, day.month, day.day)  # noqa: DTZ001, MongoDB's are without a zone
        wanted = {"received_at": {"$gte": begin, "$lt": begin + timedelta(days=1)}}
        with _store_errors():
            for one in self._events.find(wanted, {"event_id": 1, "kafka": 1}, session=self._session):
                yield one["event_id"], one["_id"], one.get("kafka")

    def ranges(self, topic: str) -> list[Range]:
        """All ranges, in the order of their places."""
        with _store_errors():
            found = [_range(one) for one in self._exports.find({"topic": topic}, session=self._session)]
        return sorted(found, key=lambda one: (one.generation, str(one.partition), str(one.first).zfill(24)))

    def newest_id(self) -> ObjectId | None:
        with _store_errors():
            newest = self._events.find_one({}, {"_id": 1}, sort=[("_id", DESCENDING)], session=self._session)
        return None if newest is None else newest["_id"]

    def has_any(self, partition: int, span: range) -> bool:
        between = {"$gte": span.start, "$lt": span.stop}
        return self._one_place({_PLACE[0]: partition, _PLACE[1]: between}, ASCENDING) is not None

    def has_one_of(self, event_ids: Iterable[str]) -> bool:
        """Whether one of these events is stored, with any place."""
        wanted = {"event_id": {"$in": list(event_ids)}}
        with _store_errors():
            return self._events.find_one(wanted, {"_id": 1}, session=self._session) is not None

    def lowest_offset(self, partition: int) -> int | None:
        found = self._one_place({_PLACE[0]: partition}, ASCENDING)
        return None if found is None else found[0]

    def settled(self, partition: int, first: int, end: int, stored_before: datetime) -> int:
        def place(between: Mapping[str, int], order: int) -> tuple[int, bool] | None:
            """The offset of the first or last event there, and whether it was stored before."""
            found = self._one_place({_PLACE[0]: partition, _PLACE[1]: between}, order)
            return found and (found[0], found[1].generation_time < stored_before)

        last = place({"$gte": first, "$lt": end}, DESCENDING)
        if last is None or last[1]:
            return end
        low, high = first, last[0]
        while low < high:
            middle = (low + high) // 2
            found = place({"$gte": middle, "$lt": end}, ASCENDING)
            if found is not None and found[1]:
                low = found[0] + 1
            else:
                high = middle
        return low

    def next_id(self, after: ObjectId, most: int, stored_before: datetime) -> ObjectId | None:
        wanted = {"kafka": {"$exists": False}, "_id": {"$gt": after, "$lt": ObjectId.from_datetime(stored_before)}}
        last = None
        with _store_errors():
            ids = self._events.find(wanted, {"_id": 1}, session=self._session).sort("_id", ASCENDING).limit(most)
            for document in ids:
                last = document["_id"]
        return last

    def stored_at(self, partition: int, first: int) -> float | None:
        """When the first event at or after an offset was stored, in seconds since the epoch."""
        found = self._one_place({_PLACE[0]: partition, _PLACE[1]: {"$gte": first}}, ASCENDING)
        return found and found[1].generation_time.timestamp()

    def has_more_without_place(self, frontier: Frontier | None) -> bool:
        """Whether there are documents without a place that no range has."""
        behind = {"_id": {"$gt": frontier.next}} if frontier else {}
        with _store_errors():
            return self._events.find_one({"kafka": {"$exists": False}, **behind}, {"_id": 1}) is not None

    def counts(self, topic: str) -> tuple[dict[str, int], dict[str, int]]:
        """By state, the number of ranges and of their rows."""
        pipeline: list[dict[str, Any]] = [
            {"$match": {"topic": topic}},
            {"$group": {"_id": "$state", "ranges": {"$sum": 1}, "rows": {"$sum": "$rows"}}},
        ]
        with _store_errors():
            found = list(self._exports.aggregate(pipeline, session=self._session))
        return {one["_id"]: one["ranges"] for one in found}, {one["_id"]: one["rows"] for one in found}

    def _one_place(self, wanted: Mapping[str, Any], order: int) -> tuple[int, ObjectId] | None:
        """The offset and the id of the first or last of some events with a place."""
        with _store_errors():
            found = self._events.find_one(
                wanted, {"kafka.offset": 1}, sort=[(_PLACE[0], order), (_PLACE[1], order)], session=self._session
            )
        return None if found is None else (found["kafka"]["offset"], found["_id"])


def _query(wanted: Range) -> dict[str, Any]:
    """The query for the documents of a range."""
    after = {} if wanted.after is None else {"$gt": wanted.after}
    ids = {**after, "$lte": wanted.upto}
    if wanted.partition == "late":
        return {"_id": wanted.first}
    if wanted.partition == "backfill":
        return {"kafka": {"$exists": False}, "_id": {"$gt": wanted.first, "$lte": wanted.last}}
    return {_PLACE[0]: wanted.partition, _PLACE[1]: {"$gte": wanted.first, "$lte": wanted.last}, "_id": ids}


def _range(document: Mapping[str, Any]) -> Range:
    names = ("topic", "generation", "partition", "first", "last", "after", "upto", "state")
    files, tried = (tuple(File(**file) for file in document[kind]) for kind in ("files", "tried"))
    return Range(**{name: document[name] for name in names}, files=files, tried=tried)


def _by_beginning(document: Mapping[str, Any]) -> tuple[Any, ...]:
    return (document.get("begun_at") or document["planned_at"].min, document["planned_at"])


@contextlib.contextmanager
def _store_errors() -> Iterator[None]:
    try:
        yield
    except PyMongoError as error:
        raise StoreError(f"MongoDB did not answer: {first_line(error)}") from error
