"""The steps that forget a customer. Their state is in MongoDB, so that any later run can continue.

`begin` sets the state *deleting*: from then on the consumer stores none of the customer's events received before. The
tool deletes the stored ones, waits, and repeats that until nothing is left to delete. Then it sets the state *done* and
removes the id. If files were exported, the state *in_exports* comes first: the exporter deletes the customer there
(`ops/export/forget.py`).
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
"""A server or process that was paused for longer may still perform an old write."""
_MOST_SKEW = timedelta(minutes=1)


class Kept(NamedTuple):
    """How long Kafka keeps the present records of a topic; `until` is None if forever, the others are in days.

    Kafka deletes a file of the topic as a whole, `retention` days after its last record, and appends records to a file
    for `segment` days.
    """

    topic: str
    until: datetime | None
    retention: float
    segment: float


class Forgetting:
    """Forgets customers. All calls block and raise PyMongoError; the next run continues."""

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
        """Mark these customers as forgotten from now on. Raises ForgetError if the clocks differ."""
        now = self._now()
        self._check_clock(now)
        # MongoDB's precision.
        before = now.replace(microsecond=now.microsecond // 1000 * 1000)
        # Two concurrent runs create one key.
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
        """The customers whose state is *deleting*: by id, the time at which that began."""
        return {one["customer_id"]: one["before"] for one in self._documents.find({"state": "deleting"})}

    def record_of(self, id_: str) -> Mapping[str, Any] | None:
        """The audit record of this customer, if there is one."""
        return self._documents.find_one({"_id": self.name_of(id_)})

    def name_of(self, id_: str) -> str:
        """The `_id` of a customer's audit record: a keyed hash; "" before the first run."""
        own = self._documents.find_one({"_id": LIST})
        return hash_of(own["key"], id_) if own else ""

    def delete(self, customers: Mapping[str, datetime], on_progress: Callable[[int], None] = lambda _: None) -> Found:
        """Publish a new version of the list for all consumers, then delete the stored data of these customers."""
        self._documents.update_one({"_id": LIST}, {"$inc": {"version": 1}})
        found = self._data.delete(customers, on_progress)
        for id_ in customers:
            counts = {"events": found.events[id_], "dead_letters": found.letters[id_]}
            self._documents.update_one({"_id": self.name_of(id_)}, {"$inc": counts})
        return found

    def wait(self, on_progress: Callable[[float], None] = lambda _: None) -> None:
        """Wait until no consumer uses an older list: for some seconds in which MongoDB always answers.

        `on_progress` gets the number of seconds that have passed.
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
        """Complete the audit records: without the ids, unless another run has begun with the same customer since.

        Returns True if there are exported files: the ids stay until the exporter has deleted the customers there.
        """
        until = [{"topic": one.topic, "until": one.until} for one in kept]
        # An exporter records its plan before it reads.
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
                "the clocks first. The time decides which events are forgotten."
            )


def kept_in_kafka(settings: KafkaSettings, now: datetime) -> list[Kept]:
    """How long Kafka keeps the present records of the two topics. Blocks some seconds; raises KafkaError, OSError."""
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
