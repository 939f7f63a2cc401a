"""Reads dead letters: folds their topic to the newest letter of each origin, and whether it was sent back.

The topic is a log of letters and notes; a note records that a letter was sent back. The waiting letters are the newest
ones without a note.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from operator import attrgetter
from typing import NamedTuple

from common import dead_letter_headers as headers
from common.events import parse_timestamp
from common.kafka import ReceivedRecord, RecordReader

UNKNOWN = "unknown"
"""The reason of a letter without one: other tools may write to the topic too."""

_PLACE = re.compile(r"[0-9]{1,9}-[0-9]{1,18}")
_NUMBER = re.compile(rb"\d{1,18}")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class Letter:
    """A letter without its value, since there may be a million.

    `partition` and `offset` are its place in the dead letter topic, `topic` is its original topic. Fields that its
    headers lack are None.
    """

    partition: int
    offset: int
    origin: str
    failed_at: datetime
    reason: str
    topic: str
    source_partition: int | None
    source_offset: int | None
    key: bytes | None
    event_type: str | None
    attempts: int | None
    replays: int
    replayed_at: datetime | None = None

    @property
    def place(self) -> str:
        """Its name on the command line."""
        return _place(self.partition, self.offset)

    @classmethod
    def of(cls, record: ReceivedRecord, dlq_topic: str, default_topic: str) -> "Letter":
        """The letter in a record of `dlq_topic`. Never fails: invalid headers are replaced by defaults.

        `default_topic`: the topic of a letter without an origin.
        """
        found = dict(record.headers)
        named = _text(found.get(headers.SOURCE_TOPIC))
        topic = named if _TOPIC.fullmatch(named) else default_topic
        partition, offset = _number(found.get(headers.SOURCE_PARTITION)), _number(found.get(headers.SOURCE_OFFSET))
        produced = _text(found.get(headers.SOURCE_TIMESTAMP))
        if partition is None or offset is None:
            origin = f"{dlq_topic}-{_place(record.partition, record.offset)}"
        else:
            # With its time: in a topic that was deleted and created again, other records have the same offsets.
            origin = f"{topic}-{_place(partition, offset)}" + (f"@{produced}" if produced else "")
        return cls(
            partition=record.partition,
            offset=record.offset,
            origin=_text(found.get(headers.ORIGIN)) or origin,
            failed_at=_moment(found.get(headers.FAILED_LAST)) or _appended_at(record),
            reason=sys.intern(_text(found.get(headers.ERROR_CLASS)) or UNKNOWN),
            topic=sys.intern(topic),
            source_partition=partition,
            source_offset=offset,
            key=record.key,
            event_type=_event_type(record.value),
            attempts=_number(found.get(headers.ATTEMPTS)),
            replays=_number(found.get(headers.REPLAYS)) or 0,
        )


class Mail(NamedTuple):
    """A letter with its record."""

    letter: Letter
    record: ReceivedRecord


@dataclass(frozen=True, slots=True)
class Filter:
    """Selects letters; empty or None fields do not filter. `since` is inclusive, `until` is exclusive."""

    reasons: tuple[str, ...] = ()
    keys: tuple[bytes, ...] = ()
    event_types: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None

    def matches(self, letter: Letter) -> bool:
        return (
            (not self.reasons or letter.reason in self.reasons)
            and (not self.keys or letter.key in self.keys)
            and (not self.event_types or letter.event_type in self.event_types)
            and (self.since is None or letter.failed_at >= self.since)
            and (self.until is None or letter.failed_at < self.until)
        )


class LetterBox:
    """The letters of the dead letter topic, from one reader."""

    def __init__(
        self,
        reader: RecordReader,
        topic: str,
        default_topic: str,
        *,
        watched: Callable[[Iterator[ReceivedRecord]], Iterable[ReceivedRecord]] = iter,
    ) -> None:
        """`watched` wraps the records while they are read, for example to show progress."""
        self._reader = reader
        self.topic = topic
        self._default_topic = default_topic
        self._watched = watched

    def find(self, wanted: Filter, *, with_replayed: bool = False) -> list[Letter]:
        """The matching letters, by time; without those sent back unless `with_replayed`. Blocks as the reader does."""
        records = self._watched(self._reader.read())
        letters = fold(records, self.topic, self._default_topic, with_replayed=with_replayed)
        return sorted(filter(wanted.matches, letters.values()), key=attrgetter("failed_at"))

    def fetch(self, letters: Iterable[Letter]) -> Iterator[Mail]:
        """The letters with their records, in topic order; without those that were deleted in the meantime."""
        missing = {(letter.partition, letter.offset): letter for letter in letters}
        first: dict[int, int] = {}
        for partition, offset in missing:
            first[partition] = min(offset, first.get(partition, offset))
        for record in self._reader.read(first):
            letter = missing.pop((record.partition, record.offset), None)
            if letter is not None:
                yield Mail(letter, record)
            if not missing:
                return

    def get(self, name: str) -> Mail | None:
        """The letter at a place (0-17), or the newest one of an origin, sent back or not."""
        if _PLACE.fullmatch(name) is None:
            letters = self.find(Filter(), with_replayed=True)
            return next(self.fetch(letter for letter in letters if letter.origin == name), None)
        partition, offset = map(int, name.split("-"))
        record = next(self._reader.read({partition: offset}), None)
        if record is None or record.offset != offset:
            return None
        return Mail(Letter.of(record, self.topic, self._default_topic), record)


def fold(
    records: Iterable[ReceivedRecord], dlq_topic: str, default_topic: str, *, with_replayed: bool = False
) -> dict[str, Letter]:
    """The newest letter of each origin, oldest first; without those sent back unless `with_replayed`."""
    letters: dict[str, Letter] = {}
    for record in records:
        found = dict(record.headers)
        if headers.REPLAYED_AT not in found:
            letter = Letter.of(record, dlq_topic, default_topic)
            letters.pop(letter.origin, None)
            letters[letter.origin] = letter
        elif (noted := _noted(letters, found)) is None:
            continue
        elif with_replayed:
            letters[noted.origin] = replace(
                noted, replayed_at=_moment(found[headers.REPLAYED_AT]) or _appended_at(record)
            )
        else:
            del letters[noted.origin]
    return letters


def _place(partition: int, offset: int) -> str:
    return f"{partition}-{offset}"


def _noted(letters: Mapping[str, Letter], note: Mapping[str, bytes]) -> Letter | None:
    """The letter that a note names, unless the origin has a newer one, which waits."""
    letter = letters.get(_text(note.get(headers.ORIGIN)))
    named = _text(note.get(headers.REPLAYED_LETTER))
    return letter if letter is not None and letter.place == named else None


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="backslashreplace")


def _number(value: bytes | None) -> int | None:
    return int(value) if value is not None and _NUMBER.fullmatch(value) else None


def _moment(value: bytes | None) -> datetime | None:
    try:
        return parse_timestamp(_text(value))
    except ValueError:
        return None


def _appended_at(record: ReceivedRecord) -> datetime:
    try:
        return datetime.fromtimestamp(record.timestamp_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        # A producer can set any timestamp.
        return _EPOCH


def _event_type(value: bytes | None) -> str | None:
    try:
        event = json.loads(value or b"")
    except (ValueError, RecursionError):
        return None
    event_type = event.get("event_type") if isinstance(event, dict) else None
    return sys.intern(event_type) if isinstance(event_type, str) else None
