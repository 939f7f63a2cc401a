"""Kafka and MongoDB in memory. tests/contracts.py checks that they behave as the real servers."""

import itertools
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import bson
from bson.errors import BSONError
from kafka.errors import MessageSizeTooLargeError
from pymongo import DeleteOne, UpdateOne

from common import kafka
from common.errors import RefusedDocumentError, StoreError
from common.kafka import KafkaError, RebalanceHandler, ReceivedRecord, Record
from consumer.writer import SAME, Written


class FakeClock:
    """A monotonic clock that a test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Group:
    """A consumer group: its members, those in its current generation, and its committed offsets."""

    members: list["FakeSource"] = field(default_factory=list)
    generation: int = 0
    joined: set["FakeSource"] = field(default_factory=set)
    committed: dict[int, int] = field(default_factory=dict)

    def change(self) -> None:
        self.generation += 1
        self.joined.clear()


class FakeBroker:
    """Topics with three partitions. With `up = False`, the broker is unavailable."""

    partitions = 3

    def __init__(self) -> None:
        self.up = True
        self.topics: dict[str, list[list[ReceivedRecord]]] = defaultdict(lambda: [[] for _ in range(self.partitions)])
        self.groups: dict[str, Group] = defaultdict(Group)
        self.begins: dict[str, dict[int, int]] = defaultdict(dict)
        """For each topic and partition, the first offset that is not deleted."""

    def append(self, topic: str, record: Record) -> None:
        partition = zlib.crc32(record.key or b"") % self.partitions
        log = self.topics[topic][partition]
        log.append(ReceivedRecord(partition, len(log), 0, record.key, record.value, record.headers))

    def records(self, topic: str) -> list[ReceivedRecord]:
        return [record for partition in self.topics[topic] for record in partition]


class FakeSender:
    """A `RecordSender` that records the sent batches."""

    def __init__(self, broker: FakeBroker, topic: str) -> None:
        self.broker = broker
        self.topic = topic
        self.sent: list[list[Record]] = []

    def send(self, records: Sequence[Record]) -> list[Exception | None]:
        self.sent.append(list(records))
        if not self.broker.up:
            return [KafkaError("the broker is unavailable")] * len(records)
        for record in records:
            self.broker.append(self.topic, record)
        return [None] * len(records)

    def close(self) -> None:
        pass


class RefusesLarge(FakeSender):
    """Refuses a batch with a record that is too large as a whole, as Kafka does."""

    def send(self, records: Sequence[Record]) -> list[Exception | None]:
        if self.broker.up and any(len(record.value or b"") > 1000 for record in records):
            self.sent.append(list(records))
            return [MessageSizeTooLargeError("too large")] * len(records)
        return super().send(records)


class FakeReader:
    """A `RecordReader` of the current records of a topic."""

    def __init__(self, broker: FakeBroker, topic: str) -> None:
        self.log = [list(partition) for partition in broker.topics[topic]]
        self.closed = False

    @property
    def size(self) -> int:
        return sum(map(len, self.log))

    def read(self, first: Mapping[int, int] | None = None) -> Iterator[kafka.ReceivedRecord]:
        for partition, records in enumerate(self.log):
            if first is None or partition in first:
                for record in records[(first or {}).get(partition, 0) :]:
                    yield kafka.ReceivedRecord(*record)

    def close(self) -> None:
        self.closed = True


class FakeSource:
    """A `Source`: a member of a group that balances eagerly, as kafka-python-ng's does."""

    def __init__(self, broker: FakeBroker, topic: str, group: str, max_records: int = 100) -> None:
        self.broker = broker
        self.log = broker.topics[topic]
        self.begins = broker.begins[topic]
        self.group = broker.groups[group]
        self.max_records = max_records
        self.generation = -1
        self.assigned: frozenset[int] | None = None
        self.positions: dict[int, int] = {}
        self.to_commit: dict[int, int] = {}
        self.paused = False
        self.closed = False

    def subscribe(self, handler: RebalanceHandler) -> None:
        self.handler = handler
        self.group.members.append(self)
        self.group.change()

    def poll(self, timeout: float) -> list[ReceivedRecord]:
        if not self.broker.up or not self._joined():
            return []
        self.commit({})
        if self.paused:
            return []
        records: list[ReceivedRecord] = []
        for partition in sorted(self.positions):
            gone = self.begins.get(partition, 0) - self.positions[partition]
            if gone > 0:
                self.positions[partition] += gone
                self.handler.on_jump(partition, self.positions[partition], lost=gone)
            found = self.log[partition][self.positions[partition] :][: self.max_records - len(records)]
            self.positions[partition] += len(found)
            records += found
        return records

    def commit(self, offsets: Mapping[int, int]) -> None:
        self.to_commit.update(offsets)
        if self.broker.up:
            self.group.committed.update(self.to_commit)
            self.to_commit.clear()

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def lag(self) -> dict[int, int]:
        return {partition: len(self.log[partition]) - offset for partition, offset in self.positions.items()}

    def close(self) -> None:
        self.closed = True
        self.die()

    def die(self) -> None:
        """Leave without notice, as a killed process does."""
        self.group.members.remove(self)
        self.group.change()

    def _joined(self) -> bool:
        if self.generation != self.group.generation:
            if self.assigned:
                self.handler.on_revoked()
            self.generation = self.group.generation
            self.assigned, self.positions, self.paused = None, {}, False
            self.to_commit.clear()
            self.group.joined.add(self)
        if self.group.joined != set(self.group.members):
            return False
        if self.assigned is None:
            place, members = self.group.members.index(self), len(self.group.members)
            self.assigned = frozenset(range(place, self.broker.partitions, members))
            self.positions = {
                partition: self.group.committed.get(partition, self.begins.get(partition, 0))
                for partition in self.assigned
            }
            self.handler.on_assigned(self.assigned)
        return True


class FakeWriter:
    """A `Writer`. With `up = False`, MongoDB is unavailable. Refuses the ids in `refuses`, and non-BSON values."""

    def __init__(self) -> None:
        self.up = True
        self.refuses: set[str] = set()
        self.stored: dict[str, dict[str, Any]] = {}
        self.writes: list[list[str]] = []
        self.letters: dict[str, bytes] = {}

    def write(self, documents: Sequence[Mapping[str, Any]]) -> Written:
        self.writes.append([document["event_id"] for document in documents])
        if not self.up:
            raise StoreError("MongoDB is unavailable")
        before = len(self.stored)
        refused = {}
        conflicts = []
        for index, document in enumerate(documents):
            if document["event_id"] in self.refuses or not _is_bson(document):
                refused[index] = RefusedDocumentError("MongoDB refuses it")
            else:
                there = self.stored.setdefault(document["event_id"], dict(document))
                if any(there.get(name) != document.get(name) for name in SAME):
                    conflicts.append(document["event_id"])
        new = len(self.stored) - before
        return Written(new, len(documents) - len(refused) - new, refused, tuple(conflicts))

    def available(self) -> bool:
        return self.up

    def keep_letter(self, name: str, content: bytes) -> None:
        if not self.up:
            raise StoreError("MongoDB is unavailable")
        self.letters.setdefault(name, content)


class FakeDocuments:
    """A collection with the operations that forgetting needs. Each call is atomic."""

    def __init__(self) -> None:
        self.documents: dict[Any, dict[str, Any]] = {}
        self._ids = itertools.count()

    def find(self, wanted: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        return [dict(one) for one in self.documents.values() if _matches(one, wanted or {})]

    def find_one(self, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
        return next(iter(self.find(wanted)), None)

    def delete_many(self, wanted: Mapping[str, Any]) -> None:
        for one in self.find(wanted):
            del self.documents[one["_id"]]

    def update_one(self, wanted: Mapping[str, Any], change: Mapping[str, Any], *, upsert: bool = False) -> bool:
        """Returns whether it inserted a document."""
        there = self.find_one(wanted)
        if there is None and not upsert:
            return False
        one = there or {**wanted, **change.get("$setOnInsert", {})}
        one.setdefault("_id", next(self._ids))
        one |= change.get("$set", {})
        one |= {name: one.get(name, 0) + more for name, more in change.get("$inc", {}).items()}
        one |= {name: max(one.get(name, value), value) for name, value in change.get("$max", {}).items()}
        self.documents[one["_id"]] = {
            name: value for name, value in one.items() if name not in change.get("$unset", {})
        }
        return there is None

    def bulk_write(self, requests: Sequence[UpdateOne | DeleteOne], *, ordered: bool) -> SimpleNamespace:
        assert not ordered
        before = len(self.documents)
        new = {}
        for index, request in enumerate(requests):
            if isinstance(request, DeleteOne):
                self.delete_many(request._filter)
            elif self.update_one(request._filter, request._doc, upsert=True):  # type: ignore[arg-type]
                new[index] = index
        counts = {"upserted_count": len(new), "matched_count": len(requests) - len(new)}
        return SimpleNamespace(upserted_ids=new, deleted_count=before - len(self.documents), **counts)


def _matches(one: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    operators: dict[str, Callable[[Any, Any], bool]] = {
        "$in": lambda is_, these: is_ in these,
        "$ne": lambda is_, other: is_ != other,
        "$lt": lambda is_, than: is_ < than,
    }
    for name, is_wanted in wanted.items():
        if name == "$or":
            if not any(_matches(one, way) for way in is_wanted):
                return False
        elif isinstance(is_wanted, dict):
            if not all(operators[operator](one.get(name), value) for operator, value in is_wanted.items()):
                return False
        elif one.get(name) != is_wanted:
            return False
    return True


class FakeForgotten:
    """A `Forgotten`. `before` has the time for each customer; events received earlier are forgotten."""

    def __init__(self) -> None:
        self.before: dict[str, datetime] = {}
        self.late = False
        self.asked: list[list[str]] = []

    def leave_out(self, events: Sequence[Mapping[str, Any]]) -> frozenset[int]:
        self.asked.append([event["event_id"] for event in events])
        return self._covered([(event["customer_id"], event["received_at"]) for event in events])

    def leave_out_records(self, records: Sequence[ReceivedRecord]) -> frozenset[int]:
        now = datetime.now(UTC)
        return self._covered([((record.key or b"").decode(), now) for record in records])

    def _covered(self, received: Sequence[tuple[str, datetime]]) -> frozenset[int]:
        never = datetime.min.replace(tzinfo=UTC)
        return frozenset(i for i, (who, when) in enumerate(received) if when < self.before.get(who, never))


def _is_bson(document: Mapping[str, Any]) -> bool:
    try:
        bson.encode(document)
    except (BSONError, OverflowError):
        return False
    return True
