"""The data of customers in MongoDB: their events, and dead letters that are too large for their topic."""

import json
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from bson.codec_options import CodecOptions
from pymongo import ReadPreference

from consumer.forgotten import ID_FIELDS, Documents, ids_in, whose_record
from consumer.writer import LETTERS

_CHUNK = 1_000
_MOST_IDS = 1_000
"""In one query, which searches four fields for each."""


@dataclass(slots=True)
class Found:
    """Counts by customer; `beside`: other ids in their events, with the number of these events."""

    events: Counter[str] = field(default_factory=Counter)
    letters: Counter[str] = field(default_factory=Counter)
    beside: Counter[str] = field(default_factory=Counter)

    def __bool__(self) -> bool:
        return bool(self.events or self.letters)

    def add(self, other: "Found") -> None:
        self.events += other.events
        self.letters += other.letters
        self.beside += other.beside


class StoredLetter(NamedTuple):
    """A letter in MongoDB. `content` is incomplete if the consumer died while it wrote it."""

    name: str
    content: bytes

    @property
    def fields(self) -> dict[str, Any]:
        """Its key, value and headers, as bytes; of an incomplete letter, the key at most."""
        try:
            parts = json.loads(self.content)
        except ValueError:
            # {"key": "…", is at its beginning.
            key = self.content.partition(b'"key": "')[2].partition(b'"')[0]
            return {"key": b64decode(key), "value": None, "headers": ()}
        headers = tuple((name, b64decode(value or "")) for name, value in parts["headers"])
        return {"key": b64decode(parts["key"] or ""), "value": b64decode(parts["value"] or ""), "headers": headers}


class CustomerData:
    """Searches the two collections. Each call reads all of both: only `customer_id` has an index."""

    def __init__(self, events: Documents) -> None:
        """`events`: the collection that the consumer writes to. Queries go to the primary."""
        aware: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True, tzinfo=UTC)
        primary: Any = {"codec_options": aware, "read_preference": ReadPreference.PRIMARY}
        self._events = events.with_options(**primary)
        self._letters = events.database.get_collection(events.name + LETTERS, **primary)

    def events(self, customers: Mapping[str, datetime]) -> Iterator[dict[str, Any]]:
        """The events of these customers that were received before their time. Blocks; raises PyMongoError."""
        for event in self._find(customers, None):
            if _customer(ids_in(event), event.get("received_at"), customers):
                yield event

    def letters(self, customers: Mapping[str, datetime]) -> Iterator[StoredLetter]:
        """The same for letters."""
        for letter, _ in self._letters_of(customers):
            yield letter

    def count(self, customers: Mapping[str, datetime]) -> Found:
        """Count them. Blocks; raises PyMongoError."""
        return self._each(customers, lambda *_: None)

    def delete(self, customers: Mapping[str, datetime], on_progress: Callable[[int], None]) -> Found:
        """Delete their data received before their time; returns the counts of what was deleted.

        `on_progress` gets the number of each further deletion. Blocks; raises PyMongoError after a part was deleted.
        """

        def delete(events: list[Any], letters: list[str]) -> None:
            if events:
                self._events.delete_many({"_id": {"$in": events}})
            if letters:
                self._letters.delete_many({"letter": {"$in": letters}})
            on_progress(len(events) + len(letters))

        return self._each(customers, delete)

    def _each(self, customers: Mapping[str, datetime], act: Callable[[list[Any], list[str]], None]) -> Found:
        found = Found()
        chunk: list[Any] = []
        for event in self._find(customers, dict.fromkeys((*ID_FIELDS, "received_at"), 1)):
            ids = ids_in(event)
            if customer := _customer(ids, event.get("received_at"), customers):
                found.events[customer] += 1
                found.beside.update(set(ids) - customers.keys())
                chunk.append(event["_id"])
            if len(chunk) == _CHUNK:
                act(chunk, [])
                chunk = []
        act(chunk, [])
        for letter, customer in self._letters_of(customers):
            found.letters[customer] += 1
            act([], [letter.name])
        return found

    def _find(self, customers: Mapping[str, datetime], fields: Mapping[str, int] | None) -> Iterator[dict[str, Any]]:
        ids = list(customers)
        for first in range(0, len(ids), _MOST_IDS):
            some = {"$in": ids[first : first + _MOST_IDS]}
            with self._events.find({"$or": [{name: some} for name in ID_FIELDS]}, fields) as cursor:
                yield from cursor

    def _letters_of(self, customers: Mapping[str, datetime]) -> Iterator[tuple[StoredLetter, str]]:
        # The _id begins with the letter's name, so the pieces of a letter are adjacent.
        with self._letters.find().sort("_id") as pieces:
            for name, of_letter in groupby(pieces, key=itemgetter("letter")):
                content = b"".join(piece["content"] for piece in sorted(of_letter, key=itemgetter("piece")))
                letter = StoredLetter(name, content)
                whose = whose_record(**letter.fields, timestamp_ms=int(name.rpartition("@")[2]))
                if customer := _customer(whose.ids, whose.received_at, customers):
                    yield letter, customer


def _customer(ids: tuple[str, ...], received_at: Any, customers: Mapping[str, datetime]) -> str | None:
    """The first customer that one of the ids names, if the event was received before their time."""
    # Documents that other programs stored may lack a time.
    always = not isinstance(received_at, datetime)
    return next((id_ for id_ in ids if id_ in customers and (always or received_at < customers[id_])), None)
