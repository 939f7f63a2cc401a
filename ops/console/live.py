"""The newest events with their states, and the stream to viewers. Bounded at any rate."""

import json
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from common import dead_letter_headers as headers
from common.events import format_timestamp, parse_timestamp
from common.kafka import ReceivedRecord

MOST_VIEWERS = 8
MOST_EVENTS = 1000
MOST_BYTES = 16 * 1024 * 1024
"""Of the events that are kept in memory."""
FIRST_EVENTS = 200
"""How many a new viewer is shown."""

_MOST_MESSAGES = 4000
_LONGEST_SHOWN = 300
_HEARTBEAT_SECONDS = 5.0
_LOOK_SECONDS = 1.0


class _Head(msgspec.Struct):
    """The fields of an event in a row of the page. Handles any record, since other programs may write to the topic."""

    event_id: Any = None
    event_type: Any = None
    event_name: Any = None
    customer_id: Any = None
    source: Any = None
    protocol: Any = None
    received_at: Any = None


_HEAD = msgspec.json.Decoder(_Head)


class Stored(NamedTuple):
    """MongoDB's data about an event id."""

    received_at: datetime | None
    processed_at: datetime | None


@dataclass(slots=True)
class Event:
    """An event seen in Kafka, and its state."""

    partition: int
    offset: int
    value: bytes
    in_kafka_at: datetime | None
    head: Mapping[str, str | None]
    state: str = "in_kafka"
    stored_at: datetime | None = None
    duplicate: bool = False
    letter: str | None = None

    @property
    def place(self) -> str:
        return f"{self.partition}-{self.offset}"

    @property
    def row(self) -> dict[str, Any]:
        """The event for the page."""
        received_at = moment(self.head["received_at"])
        after = (self.stored_at - received_at).total_seconds() if self.stored_at and received_at else None
        return {
            "place": self.place,
            **self.head,
            "state": self.state,
            "partition": self.partition,
            "offset": self.offset,
            "in_kafka_at": iso(self.in_kafka_at),
            "stored_at": iso(self.stored_at),
            "after_ms": None if after is None or self.duplicate else round(after * 1000),
            "duplicate": self.duplicate,
            "letter": self.letter,
        }


class Live:
    """Updated by the followers and the queries to MongoDB, read by viewers. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._events: OrderedDict[tuple[int, int], Event] = OrderedDict()
        self._bytes = 0
        self._messages: deque[tuple[int, str]] = deque(maxlen=_MOST_MESSAGES)
        self._number = 0
        # After a restart the numbers start again: they must not be confused with earlier ones.
        self._life = secrets.token_hex(4)
        self._viewers = threading.Semaphore(MOST_VIEWERS)
        self.alive: Callable[[], bool] = lambda: True

    # ── Updates ──

    def take(self, records: Sequence[ReceivedRecord]) -> None:
        """Add events that have arrived in Kafka."""
        with self._changed:
            for record in records:
                event = _event(record)
                self._events[record.partition, record.offset] = event
                self._bytes += len(event.value)
                self._tell(event)
            while len(self._events) > MOST_EVENTS or self._bytes > MOST_BYTES:
                self._bytes -= len(self._events.popitem(last=False)[1].value)
            self._changed.notify_all()

    def skipped(self, count: int) -> None:
        """N events arrived that are not shown."""
        with self._changed:
            self._message(json.dumps({"count": count}), kind="skipped")
            self._changed.notify_all()

    def take_letters(self, records: Sequence[ReceivedRecord]) -> None:
        """Add letters, or notes on letters, from the dead letter topic."""
        with self._changed:
            for record in records:
                found = dict(record.headers)
                place = found.get(headers.SOURCE_PARTITION, b""), found.get(headers.SOURCE_OFFSET, b"")
                if headers.REPLAYED_AT in found or not all(part.isdigit() for part in place):
                    continue
                event = self._events.get((int(place[0]), int(place[1])))
                if event is not None:
                    event.state, event.letter = "dead_letter", f"{record.partition}-{record.offset}"
                    self._tell(event)
            self._changed.notify_all()

    def stored(self, found: Mapping[str, Stored]) -> None:
        """These event ids are in MongoDB."""
        with self._changed:
            for event in self._events.values():
                stored = found.get(event.head["event_id"] or "")
                if stored is None or event.state != "in_kafka":
                    continue
                event.state, event.stored_at = "stored", stored.processed_at
                received_at = moment(event.head["received_at"])
                # MongoDB keeps milliseconds. With another time of receipt, a different event is stored under this id.
                event.duplicate = bool(
                    received_at
                    and stored.received_at
                    and abs((received_at - stored.received_at).total_seconds()) > 0.001
                )
                self._tell(event)
            self._changed.notify_all()

    # ── Queries ──

    def waiting_ids(self, most: int) -> list[str]:
        """The ids of the newest events that are not known to be stored."""
        with self._changed:
            waiting = (event.head["event_id"] for event in reversed(self._events.values()) if event.state == "in_kafka")
            ids = list(dict.fromkeys(event_id for event_id in waiting if event_id))
        return ids[:most]

    def get(self, partition: int, offset: int) -> Event | None:
        """The event at this place, if it is still in memory."""
        with self._changed:
            return self._events.get((partition, offset))

    def find(self, wanted: str) -> list[Event]:
        """The events with this event_id or customer_id, the newest first."""
        with self._changed:
            return [
                event
                for event in reversed(self._events.values())
                if wanted in (event.head["event_id"], event.head["customer_id"])
            ]

    def view(self, last_seen: str | None) -> Iterator[str] | None:
        """A stream of server-sent events, without end: first what came after `last_seen`, or the newest there are.

        Each is the whole line of an event, which takes the place of an earlier one with the same `place`; or, named
        `skipped`, how many are not shown. None if there are too many viewers.
        """
        return self._stream(last_seen) if self._viewers.acquire(blocking=False) else None

    def _stream(self, last_seen: str | None) -> Iterator[str]:
        try:
            yield "retry: 2000\n\n"
            number, text = self._first(last_seen)
            yield text
            spoke_at = time.monotonic()
            while self.alive():
                with self._changed:
                    self._changed.wait_for(lambda: self._number > number, _LOOK_SECONDS)  # noqa: B023, at once
                    text, number = self._after(number), self._number
                if text:
                    yield text
                    spoke_at = time.monotonic()
                elif time.monotonic() - spoke_at > _HEARTBEAT_SECONDS:
                    # It fails if the viewer has disconnected.
                    yield ": still here\n\n"
                    spoke_at = time.monotonic()
        finally:
            self._viewers.release()

    def _first(self, last_seen: str | None) -> tuple[int, str]:
        """Where a viewer's stream begins, and its first messages."""
        life, _, seen = (last_seen or "").partition("-")
        with self._changed:
            oldest = self._messages[0][0] if self._messages else self._number + 1
            if life == self._life and seen.isascii() and seen.isdigit() and oldest - 1 <= int(seen) <= self._number:
                return int(seen), ""
            newest = list(self._events.values())[-FIRST_EVENTS:]
            lines = [f"id: {self._life}-{self._number}\ndata: {json.dumps(event.row)}\n\n" for event in newest]
            return self._number, "".join(lines)

    def _after(self, number: int) -> str:
        """All messages after this one, and the number of missing ones if the viewer was too slow."""
        oldest = self._messages[0][0] if self._messages else self._number + 1
        missing = max(0, oldest - 1 - number)
        told = f'event: skipped\ndata: {{"count": {missing}}}\n\n' if missing else ""
        count = min(self._number - number, len(self._messages))
        return told + "".join(text for _, text in list(self._messages)[len(self._messages) - count :])

    def _tell(self, event: Event) -> None:
        self._message(json.dumps(event.row))

    def _message(self, data: str, kind: str | None = None) -> None:
        self._number += 1
        named = f"event: {kind}\n" if kind else ""
        self._messages.append((self._number, f"id: {self._life}-{self._number}\n{named}data: {data}\n\n"))


def _event(record: ReceivedRecord) -> Event:
    value = record.value or b""
    try:
        head = msgspec.structs.asdict(_HEAD.decode(value))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        head = msgspec.structs.asdict(_Head())
    shown = {name: None if found is None else _short(found) for name, found in head.items()}
    return Event(record.partition, record.offset, value, of_kafka(record.timestamp_ms), shown)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def of_kafka(milliseconds: int) -> datetime | None:
    """A record's time; None if it is invalid."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return None


def moment(text: str | None) -> datetime | None:
    """The time in a string; None if it is not a time."""
    try:
        return parse_timestamp(text or "")
    except ValueError:
        return None


def iso(time_: object) -> str | None:
    """A time in the format of the console's answers."""
    return format_timestamp(time_.astimezone(UTC)) if isinstance(time_, datetime) else None
