"""The state of the export: the documents of `pulse.exports`, and their transitions.

All exporters share this state. Each transition below is one write; of several exporters that try it, only the first
succeeds, and no decision is ever reversed. docs/architecture.md has the argument for "each once".
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple, Protocol

from bson import ObjectId

Document = Mapping[str, Any]
State = Literal["planned", "written", "loaded"]
Bound = Any
"""An offset; for `backfill` and `late`, a document's id."""
Place = int | Literal["backfill", "late"]
"""A partition; or documents chosen by their ids: those without a place in Kafka, or those stored after their range."""

WRITE_SECONDS = 3_600.0
"""After it has begun to read the events, an exporter begins to upload their file within this time, or not at all."""
PUT_SECONDS = 900.0
"""An upload that is not complete after this time has failed."""


@dataclass(frozen=True, slots=True)
class File:
    """A file with the events of a range that were received on a day. `path` is below `url`, EXPORT_URL at that time.

    `rows` and `size` are -1 if unknown.
    """

    day: str
    path: str
    rows: int = -1
    size: int = -1
    sha256: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True)
class Range:
    """The events from `first` to `last`, inclusive, whose documents have ids above `after` and up to `upto`.

    In a partition, `first` and `last` are the offsets of the events' first records; the ids exclude documents that are
    stored later with the same offsets. In a `backfill` they are documents' ids, and `first` is excluded.
    """

    topic: str
    generation: int
    partition: Place
    first: Bound
    last: Bound
    after: ObjectId | None
    upto: ObjectId
    state: State = "planned"
    files: tuple[File, ...] = ()
    tried: tuple[File, ...] = ()
    """Files that an exporter was about to upload, without their contents: if it died, they may exist."""

    @property
    def id(self) -> str:
        generation = f".g{self.generation}" if self.generation > 1 else ""
        return f"{self.topic}{generation}-{self.partition}-{self.first}-{self.last}"

    def has(self, place: Place, offset: int, id_: ObjectId) -> bool:
        """Whether a document with this offset and id is in the range."""
        in_range: bool = self.partition == place and self.first <= offset <= self.last
        return in_range and (self.after is None or self.after < id_) and id_ <= self.upto

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)


@dataclass(frozen=True, slots=True)
class Load:
    """Files of one received day that one job loads, unless another load has taken them.

    `attempt` counts the jobs: a failed job has loaded nothing, and its id cannot be used again.
    """

    id: str
    day: str
    ranges: tuple[str, ...]
    attempt: int = 1

    @classmethod
    def of(cls, day: str, ranges: Sequence[str], into: str) -> "Load":
        """The load of these ranges' files `into` a table. The same ranges give the same load."""
        digest = hashlib.sha256("\n".join([into, *sorted(ranges)]).encode()).hexdigest()[:32]
        return cls(f"load-{day}-{digest}", day, tuple(sorted(ranges)))

    @property
    def job_id(self) -> str:
        return f"pulse-export-{self.id}-{self.attempt}"


class Former(NamedTuple):
    """The exported part of a partition in earlier generations: offsets below `frontier` with ids up to `newest`."""

    frontier: int
    newest: ObjectId


@dataclass(frozen=True, slots=True)
class Generation:
    """A generation of the topic, numbered from 1: each time the topic is created again, a new one begins.

    `since`: the newest document when it began, as documents of earlier generations can have the same offsets. `rest`:
    ranges of the previous generation that were stored, but not planned.
    """

    number: int = 1
    since: ObjectId | None = None
    former: Mapping[int, Former] = field(default_factory=dict)
    rest: Sequence[Range] = ()

    def after(self, partition: int, offset: int) -> tuple[ObjectId | None, int | None]:
        """The id above which the documents at this offset are not exported, and the offset up to which that holds."""
        former = self.former.get(partition)
        if former is not None and offset < former.frontier:
            return former.newest, former.frontier
        return self.since, None


class Frontier(NamedTuple):
    """The beginning of a partition's next range, and the id up to which its documents were exported."""

    next: Bound
    newest: ObjectId


class Exports(Protocol):
    """The state, shared by all exporters. Each call blocks for some seconds at most and may raise StoreError."""

    def generation(self, topic: str) -> Generation:
        """The newest generation."""

    def catch_up(self, topic: str) -> None:
        """Make later reads include all documents stored before this call, whichever server answers."""

    def begin_generation(self, topic: str, next_one: Generation) -> None:
        """Begin this generation, if it has not begun."""

    def frontiers(self, topic: str, generation: int) -> dict[Place, Frontier]:
        """The frontier of each place that has ranges."""

    def plan(self, planned: Range) -> bool:
        """Insert a range. Returns False if another exporter has planned from this place: look again."""

    def in_state(self, topic: str, state: State) -> list[Range]:
        """The ranges in a state; planned ranges that an exporter has begun to write come last."""

    def begin(self, planned: Range) -> bool:
        """Record that this exporter writes the range. Returns False if the range is already written.

        Later reads include all documents stored before this call, whichever server answers.
        """

    def putting(self, planned: Range, file: File) -> None:
        """Record that the upload of a file of the range begins; `file` has no contents yet."""

    def written(self, planned: Range, files: Sequence[File]) -> bool:
        """Record that the range is written; ends `begin`. False if another exporter was first: its files count."""

    def free_days(self, written: Range) -> list[str]:
        """The days of the range's files that belong to no load."""

    def propose(self, load: Load) -> None:
        """Record that these files may be loaded together. Idempotent."""

    def open_loads(self) -> list[Load]:
        """The loads that are proposed, but not loaded."""

    def settle(self, load: Load) -> list[Range]:
        """Give each range's files of that day to this load, unless they belong to another; returns the load's ranges.

        Every call returns the same ranges.
        """

    def failed(self, load: Load) -> None:
        """Record that the job of this attempt has failed. Idempotent."""

    def loaded(self, load: Load, members: Sequence[Range]) -> None:
        """Record that these files are in BigQuery. Idempotent."""


class Forgetting(Protocol):
    """Customers who are no longer in MongoDB, but still in files. Each call blocks for some seconds at most and may
    raise StoreError.
    """

    def forgotten(self) -> dict[str, datetime]:
        """The customers to delete from files: by id, the time before which their events were received."""

    def busy_until(self, now: datetime) -> datetime | None:
        """The time until which an exporter may still upload files that it began earlier; None if there is none.

        Its files may hold events that MongoDB no longer has.
        """

    def all_ranges(self) -> list[Range]:
        """The ranges of all topics."""

    def begin_again(self, written: Range) -> None:
        """Record that files of a written range are being rewritten."""

    def rewritten(self, written: Range, old: File, new: File) -> None:
        """Record that a file of the range has other rows now; ends `begin_again`. Idempotent."""

    def has_loads(self) -> bool:
        """Whether files were ever loaded."""

    def forget_done(self, customers: Mapping[str, datetime]) -> None:
        """Remove the ids of these customers, whom no file has any more, unless they were forgotten again since."""


class Events(Protocol):
    """The stored events. Each call blocks for some seconds at most and may raise StoreError."""

    def of(self, wanted: Range) -> Iterator[Sequence[Document]]:
        """The documents of a range, in its order, in batches of some megabytes at most."""

    def newest_id(self) -> ObjectId | None:
        """The highest id; None if there are no documents."""

    def has_any(self, partition: int, span: range) -> bool:
        """Whether a document has its place in these offsets of a partition."""

    def lowest_offset(self, partition: int) -> int | None:
        """The lowest offset of a partition's documents; None if there are none."""

    def settled(self, partition: int, first: int, end: int, stored_before: datetime) -> int:
        """The offset, `end` at most, up to which all events from `first` on were stored before that time."""

    def next_id(self, after: ObjectId, most: int, stored_before: datetime) -> ObjectId | None:
        """The id of the last of the next `most` documents without a place, if any was stored before that time."""
