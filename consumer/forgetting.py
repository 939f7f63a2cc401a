"""How a customer is forgotten, step by step; what was begun is in MongoDB, so that any run goes on with it.

A customer is *deleting* from `begin` on: the consumer stores nothing of theirs that was received before. What is stored
is deleted, then again after a wait, until a wait has left nothing to delete: then they are *done*, and the id goes too.
Where files were exported, they are *in_exports* first: the exporter deletes them there (`ops/export/forget.py`).
"""

import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pymongo
from pymongo import ReadPreference
from pymongo.errors import DuplicateKeyError

from common import kafka
from common.errors import ForgetError
from common.settings import KafkaSettings
from consumer.customer_data import CustomerData, Found
from consumer.forgotten import EXPORTS, GRACE_SECONDS, LIST, Documents, forgotten_documents, hash_of

_KEY_BYTES = 32
_LOOK_SECONDS = 1.0
_ANSWER_SECONDS = 5.0
_SLOW_SECONDS = 2.0
"""A server, or a process, that stands still so long may still have an old write before it."""
_MOST_SKEW = timedelta(minutes=1)


class Kept(NamedTuple):
    """Until when Kafka keeps what is in a topic now; `until` is None if for ever. The others are in days.

    A file of the topic is deleted as a whole, `retention` days after the last record in it, and takes new records for
    `segment` days.
    """

    topic: str
    until: datetime | None
    retention: float
    segment: float


class Forgetting:
    """Forgets customers. All calls block, and raise PyMongoError: the next run goes on where this one was."""

    def __init__(
        self,
        events: Documents,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`events`: the collection that the consumer writes to."""
        self._events = events
        self._documents = forgotten_documents(events)
        self._data = CustomerData(events)
        self._now = now
        self._clock = clock
        self._sleep = sleep

    def begin(self, ids: Iterable[str]) -> None:
        """From now on these customers are forgotten. Raises ForgetError where the clocks do not agree."""
        now = self._now()
        self._check_clock(now)
        # As exact as MongoDB has it.
        before = now.replace(microsecond=now.microsecond // 1000 * 1000)
        # Two at once make one key.
        with suppress(DuplicateKeyError):
            own = {"key": secrets.token_bytes(_KEY_BYTES), "version": 0}
            self._documents.update_one({"_id": LIST}, {"$setOnInsert": own}, upsert=True)
        for id_ in ids:
            change = {
                "$set": {"state": "deleting", "customer_id": id_},
                "$max": {"before": before},
                "$unset": {"done_at": ""},
            }
            self._documents.update_one({"_id": self.name_of(id_)}, change, upsert=True)

    def unfinished(self) -> dict[str, datetime]:
        """The customers that are not done, by id, and when it was begun."""
        return {one["customer_id"]: one["before"] for one in self._documents.find({"state": "deleting"})}

    def record_of(self, id_: str) -> Mapping[str, Any] | None:
        """What is on record about this customer's forgetting."""
        return self._documents.find_one({"_id": self.name_of(id_)})

    def name_of(self, id_: str) -> str:
        """Under which `_id` a customer is on record: a keyed hash; "" while nobody was ever forgotten."""
        own = self._documents.find_one({"_id": LIST})
        return hash_of(own["key"], id_) if own else ""

    def delete(self, customers: Mapping[str, datetime], on_progress: Callable[[int], None] = lambda _: None) -> Found:
        """Delete what is stored of them, and have all consumers know first that they store no more of it."""
        self._documents.update_one({"_id": LIST}, {"$inc": {"version": 1}})
        found = self._data.delete(customers, on_progress)
        for id_ in customers:
            counts = {"events": found.events[id_], "dead_letters": found.letters[id_]}
            self._documents.update_one({"_id": self.name_of(id_)}, {"$inc": counts})
        return found

    def wait(self, on_progress: Callable[[float], None] = lambda _: None) -> None:
        """Wait until no consumer writes by an older list any more: some seconds in which MongoDB answers all the time.

        `on_progress` hears how many of these seconds have passed.
        """
        looked_at = quiet_since = self._clock()
        while (passed := looked_at - quiet_since) < GRACE_SECONDS:
            on_progress(passed)
            self._sleep(_LOOK_SECONDS)
            with pymongo.timeout(_ANSWER_SECONDS):
                self._documents.find_one({"_id": LIST})
            now = self._clock()
            if now - looked_at > _LOOK_SECONDS + _SLOW_SECONDS:
                quiet_since = now
            looked_at = now

    def finish(self, customers: Mapping[str, datetime], kept: Iterable[Kept]) -> bool:
        """Leave the record of it: without the id, unless somebody has begun with the same customer anew.

        True where there are exported files, from which the exporter has to delete them first: the id stays for that.
        """
        until = [{"topic": one.topic, "until": one.until} for one in kept]
        # An exporter says what it will read before it reads.
        exports = self._events.database.get_collection(EXPORTS, read_preference=ReadPreference.PRIMARY)
        exported = exports.find_one({})
        for id_, before in customers.items():
            said: dict[str, Any] = {"$set": {"kept_in_kafka_until": until}}
            if exported:
                said["$set"] |= {"state": "in_exports"}
            else:
                said = {"$set": said["$set"] | {"state": "done", "done_at": self._now()}, "$unset": {"customer_id": ""}}
            self._documents.update_one({"_id": self.name_of(id_), "before": before}, said)
        return exported is not None

    def _check_clock(self, now: datetime) -> None:
        theirs = self._events.database.command("hello")["localTime"].replace(tzinfo=UTC)
        if abs(theirs - now) > _MOST_SKEW:
            raise ForgetError(
                f"It is {now:%Y-%m-%d %H:%M:%S} here and {theirs:%Y-%m-%d %H:%M:%S} on MongoDB's machine (UTC): set "
                "the clocks right first. The time decides which events are forgotten."
            )


def kept_in_kafka(settings: KafkaSettings, now: datetime) -> list[Kept]:
    """Until when Kafka keeps what is in the two topics now. Blocks some seconds; raises KafkaError, OSError."""
    admin = kafka.connect_admin(settings)
    try:
        return [
            _kept(topic, kafka.topic_config(admin, topic).values, now) for topic in (settings.topic, settings.dlq_topic)
        ]
    finally:
        admin.close()


def _kept(topic: str, config: Mapping[str, str], now: datetime) -> Kept:
    retention, segment = (timedelta(milliseconds=int(config[name])) for name in ("retention.ms", "segment.ms"))
    days = [one / timedelta(days=1) for one in (retention, segment)]
    if retention < timedelta(0):
        return Kept(topic, None, *days)
    try:
        return Kept(topic, now + retention + segment, *days)
    except OverflowError:
        return Kept(topic, None, *days)
