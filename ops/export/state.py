"""What was exported, and what is on its way: the documents of `pulse.exports`, and what may happen to them.

They are the one truth of all exporters. Each change below is one write that only the first of several makes; nothing
that is decided once is decided otherwise later. docs/architecture.md has the argument for "each once".
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
"""An offset; outside of partitions, a document's id."""
Place = int | Literal["backfill", "late"]
"""A partition; or what is chosen by documents' ids: those without a place in Kafka, those stored after their range."""

WRITE_SECONDS = 3_600.0
"""An exporter puts a file where it belongs within this time after it has begun to read the events, or not at all."""
PUT_SECONDS = 900.0
"""And within this time after that it is there, or never will be."""


@dataclass(frozen=True, slots=True)
class File:
    """A file with the events of a range that were received on a day. `path` is below `url`, EXPORT_URL at that time.

    `rows` and `size` are -1 where they are not known.
    """

    day: str
    path: str
    rows: int = -1
    size: int = -1
    sha256: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True)
class Range:
    """The events from `first` to `last`, both included, whose documents have ids behind `after` and up to `upto`.

    In a partition the two are offsets, and the events those whose first record lay there; the ids tell them from what
    is stored later under such offsets. Of a `backfill`, with documents' ids, `first` is not included.
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
    """Files that an exporter was about to put, without what is in them: those of one that died may be there."""

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
    """Files of one received day that one job is to load, if no other load has taken them before.

    `attempt` counts the jobs: one that failed has loaded nothing, and its id is used up.
    """

    id: str
    day: str
    ranges: tuple[str, ...]
    attempt: int = 1

    @classmethod
    def of(cls, day: str, ranges: Sequence[str], into: str) -> "Load":
        """The load of these ranges' files `into` a table: the same ones, the same load."""
        digest = hashlib.sha256("\n".join([into, *sorted(ranges)]).encode()).hexdigest()[:32]
        return cls(f"load-{day}-{digest}", day, tuple(sorted(ranges)))

    @property
    def job_id(self) -> str:
        return f"pulse-export-{self.id}-{self.attempt}"


class Former(NamedTuple):
    """What was exported of a partition in former lives of its topic: all before `frontier` with ids up to `newest`."""

    frontier: int
    newest: ObjectId


@dataclass(frozen=True, slots=True)
class Generation:
    """The topic's life: `number` counts from 1. `since`: the newest document when the exporters were told of it.

    Documents of former lives can have the same offsets as those of this one. `rest`: what was stored in the life before
    it, and not planned then.
    """

    number: int = 1
    since: ObjectId | None = None
    former: Mapping[int, Former] = field(default_factory=dict)
    rest: Sequence[Range] = ()

    def after(self, partition: int, offset: int) -> tuple[ObjectId | None, int | None]:
        """Behind which id the documents at this offset are not exported yet, and up to which offset that holds."""
        former = self.former.get(partition)
        if former is not None and offset < former.frontier:
            return former.newest, former.frontier
        return self.since, None


class Frontier(NamedTuple):
    """Where the next range of a partition has to begin, and up to which id its documents were exported."""

    next: Bound
    newest: ObjectId


class Exports(Protocol):
    """The state, shared by all exporters. Every call blocks for some seconds at most and may raise StoreError."""

    def generation(self, topic: str) -> Generation:
        """The newest one."""

    def catch_up(self, topic: str) -> None:
        """What was stored before this call is in what is read after it, whichever server answers."""

    def begin_generation(self, topic: str, next_one: Generation) -> None:
        """Begin this generation, unless it has begun."""

    def frontiers(self, topic: str, generation: int) -> dict[Place, Frontier]:
        """Of each place of which something was planned."""

    def plan(self, planned: Range) -> bool:
        """Insert a range. False if another exporter has planned from the same place meanwhile: look again."""

    def in_state(self, topic: str, state: State) -> list[Range]:
        """The ranges in a state; of those planned, first those that nobody has begun to write."""

    def begin(self, planned: Range) -> bool:
        """Say that the range is being written; False if it is written by now.

        What was stored before this call is in what is read after it, whichever server answers.
        """

    def putting(self, planned: Range, file: File) -> None:
        """Say that a file of the range is about to be put; `file` without what is in it."""

    def written(self, planned: Range, files: Sequence[File]) -> bool:
        """The range is written; False if another exporter was first, whose word counts. Ends what `begin` began."""

    def free_days(self, written: Range) -> list[str]:
        """The days of the range's files that no load has taken."""

    def propose(self, load: Load) -> None:
        """Remember that these files may be loaded together. A second time changes nothing."""

    def open_loads(self) -> list[Load]:
        """Those proposed and not loaded."""

    def settle(self, load: Load) -> list[Range]:
        """Give each range's files of that day to this load, unless they are another's; returns those that are its own.

        Whoever calls it, whenever, gets the same ones.
        """

    def failed(self, load: Load) -> None:
        """This attempt's job has failed. A second time changes nothing."""

    def loaded(self, load: Load, members: Sequence[Range]) -> None:
        """These files are in BigQuery. A second time changes nothing."""


class Forgetting(Protocol):
    """Customers who are no longer in MongoDB, and still in files. Every call blocks for some seconds at most and may
    raise StoreError.
    """

    def forgotten(self) -> dict[str, datetime]:
        """Customers to be deleted from files: by id, before when their events were received."""

    def busy_until(self, now: datetime) -> datetime | None:
        """Until when an exporter may be alive that has begun to write files and has not said that it is done.

        None: there is none. What it puts there may hold what MongoDB had when it began.
        """

    def all_ranges(self) -> list[Range]:
        """Those of all topics."""

    def begin_again(self, written: Range) -> None:
        """Say that files of a written range are being written once more."""

    def rewritten(self, written: Range, old: File, new: File) -> None:
        """A file of it has other rows now, unless that is known. Ends what `begin_again` began."""

    def has_loads(self) -> bool:
        """Whether files were ever loaded."""

    def forget_done(self, customers: Mapping[str, datetime]) -> None:
        """No file has these customers any more: their ids go, unless they were forgotten once more meanwhile."""


class Events(Protocol):
    """The stored events. Every call blocks for some seconds at most and may raise StoreError."""

    def of(self, wanted: Range) -> Iterator[Sequence[Document]]:
        """The documents of a range, in its order, in batches of some megabytes at most."""

    def newest_id(self) -> ObjectId | None:
        """Of all documents; None if there are none."""

    def has_any(self, partition: int, span: range) -> bool:
        """Whether there is one with a place in these offsets of a partition."""

    def lowest_offset(self, partition: int) -> int | None:
        """Of the documents of a partition; None if there are none."""

    def settled(self, partition: int, first: int, end: int, stored_before: datetime) -> int:
        """Up to which offset, `end` at most, the events from `first` on were stored before that time, by their ids."""

    def next_id(self, after: ObjectId, most: int, stored_before: datetime) -> ObjectId | None:
        """The id of the last of the next `most` documents without a place; None if there are none stored before."""
