"""Fakes of the exporter's parts, in memory, and exporters that run step by step and can die at each step."""

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import GeneratorType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from bson import ObjectId

from consumer.writer import Written
from ops.export.load import Outcome
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
from tests.fakes import FakeWriter


def nth_id(number: int) -> ObjectId:
    """The id for a number; ids sort as the numbers do."""
    return ObjectId(f"{number:024x}")


class WriterWithIds(FakeWriter):
    """Gives each stored document an id, as MongoDB does, and `processed_at`, as the real writer does."""

    def __init__(self) -> None:
        super().__init__()
        self.ids = 0

    def write(self, documents: Sequence[Mapping[str, Any]]) -> Written:
        written = super().write(documents)
        for document in self.stored.values():
            if "_id" not in document:
                self.ids += 1
                document["_id"] = nth_id(self.ids)
                document["processed_at"] = document["received_at"]
        return written


class FakeStore:
    """`Exports` and `Events`. `stored` returns the stored documents."""

    def __init__(self, stored: Callable[[], Sequence[Document]]) -> None:
        self.stored = stored
        self.generations: dict[str, list[Generation]] = defaultdict(lambda: [Generation()])
        self.ranges: dict[str, Range] = {}
        self.begun: dict[str, int] = defaultdict(int)
        self.begins: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.begun_at: dict[str, datetime] = {}
        self.to_forget: dict[str, datetime] = {}
        self.now: Callable[[], datetime] = lambda: datetime.now(UTC)
        self.taken: dict[tuple[str, str], str] = {}
        self.loaded_days: dict[str, set[str]] = defaultdict(set)
        self.loads: dict[str, Load] = {}
        self.open: set[str] = set()

    def generation(self, topic: str) -> Generation:
        return self.generations[topic][-1]

    def catch_up(self, topic: str) -> None:
        pass

    def begin_generation(self, topic: str, next_one: Generation) -> None:
        if all(one.number != next_one.number for one in self.generations[topic]):
            self.generations[topic].append(next_one)

    def frontiers(self, topic: str, generation: int) -> dict[Place, Frontier]:
        ends: dict[Place, Frontier] = {}
        for one in sorted(self.ranges.values(), key=lambda one: str(one.first).zfill(24)):
            if (one.topic, one.generation) == (topic, generation):
                ends[one.partition] = Frontier(one.last + 1 if isinstance(one.last, int) else one.last, one.upto)
        return ends

    def plan(self, planned: Range) -> bool:
        def place(one: Range) -> tuple[Any, ...]:
            return (one.topic, one.generation, one.partition, one.first)

        if any(place(one) == place(planned) for one in self.ranges.values()):
            return False
        self.ranges[planned.id] = planned
        return True

    def in_state(self, topic: str, state: State) -> list[Range]:
        found = [one for one in self.ranges.values() if (one.topic, one.state) == (topic, state)]
        return sorted(found, key=lambda one: self.begun[one.id])

    def begin(self, planned: Range) -> bool:
        if self.ranges[planned.id].state != "planned":
            return False
        self.begin_again(planned)
        return True

    def putting(self, planned: Range, file: File) -> None:
        known = self.ranges[planned.id]
        if file not in known.tried:
            self.ranges[planned.id] = replace(known, tried=(*known.tried, file))

    def written(self, planned: Range, files: Sequence[File]) -> bool:
        self.ended[planned.id] += 1
        if self.ranges[planned.id].state != "planned":
            return False
        known = self.ranges[planned.id]
        self.ranges[planned.id] = replace(known, state="written" if files else "loaded", files=tuple(files))
        return True

    def free_days(self, written: Range) -> list[str]:
        return [file.day for file in written.files if (written.id, file.day) not in self.taken]

    def propose(self, load: Load) -> None:
        if load.id not in self.loads:
            self.loads[load.id] = load
            self.open.add(load.id)

    def open_loads(self) -> list[Load]:
        return [self.loads[one] for one in sorted(self.open)]

    def settle(self, load: Load) -> list[Range]:
        for member in load.ranges:
            self.taken.setdefault((member, load.day), load.id)
        return [self.ranges[one] for one in load.ranges if self.taken[one, load.day] == load.id]

    def failed(self, load: Load) -> None:
        if self.loads[load.id].attempt == load.attempt:
            self.loads[load.id] = replace(load, attempt=load.attempt + 1)

    def loaded(self, load: Load, members: Sequence[Range]) -> None:
        for member in members:
            self.loaded_days[member.id].add(load.day)
            if {file.day for file in member.files} <= self.loaded_days[member.id]:
                self.ranges[member.id] = replace(self.ranges[member.id], state="loaded")
        self.open.discard(load.id)

    def forgotten(self) -> dict[str, datetime]:
        return dict(self.to_forget)

    def busy_until(self, now: datetime) -> datetime | None:
        del now
        times = [
            at + timedelta(seconds=WRITE_SECONDS + PUT_SECONDS)
            for one, at in self.begun_at.items()
            if self.begins[one] > self.ended[one]
        ]
        return max((one for one in times if one > self.now()), default=None)

    def all_ranges(self) -> list[Range]:
        return list(self.ranges.values())

    def begin_again(self, written: Range) -> None:
        self.begun[written.id] = max(self.begun.values(), default=0) + 1
        self.begins[written.id] += 1
        self.begun_at[written.id] = self.now()

    def rewritten(self, written: Range, old: File, new: File) -> None:
        known = self.ranges[written.id]
        files = tuple(new if (one.path, one.sha256) == (old.path, old.sha256) else one for one in known.files)
        self.ranges[written.id] = replace(known, files=files)
        self.ended[written.id] += 1

    def has_loads(self) -> bool:
        return bool(self.loads)

    def forget_done(self, customers: Mapping[str, datetime]) -> None:
        for id_, before in customers.items():
            if self.to_forget.get(id_) == before:
                del self.to_forget[id_]

    def of(self, wanted: Range) -> Iterator[Sequence[Document]]:
        found = []
        for one in self.stored():
            match wanted.partition:
                case "late":
                    there = one["_id"] == wanted.first
                case "backfill":
                    there = "kafka" not in one and wanted.first < one["_id"] <= wanted.last
                case _:
                    there = "kafka" in one and wanted.has(one["kafka"]["partition"], one["kafka"]["offset"], one["_id"])
            found += [one] if there else []
        found.sort(key=lambda one: one["kafka"]["offset"] if isinstance(wanted.partition, int) else one["_id"])
        for begin in range(0, len(found), 3):
            yield found[begin : begin + 3]

    def newest_id(self) -> ObjectId | None:
        return max((one["_id"] for one in self.stored()), default=None)

    def has_any(self, partition: int, span: range) -> bool:
        places = [one["kafka"] for one in self.stored() if "kafka" in one]
        return any(place["partition"] == partition and place["offset"] in span for place in places)

    def lowest_offset(self, partition: int) -> int | None:
        places = [one["kafka"] for one in self.stored() if "kafka" in one]
        return min((place["offset"] for place in places if place["partition"] == partition), default=None)

    def settled(self, partition: int, first: int, end: int, stored_before: datetime) -> int:
        young = [
            one["kafka"]["offset"]
            for one in self.stored()
            if "kafka" in one and one["kafka"]["partition"] == partition and one["_id"].generation_time >= stored_before
        ]
        return min((offset for offset in young if first <= offset < end), default=end)

    def next_id(self, after: ObjectId, most: int, stored_before: datetime) -> ObjectId | None:
        ids = sorted(one["_id"] for one in self.stored() if "kafka" not in one)
        wanted = [one for one in ids if one > after and one.generation_time < stored_before]
        return wanted[:most][-1] if wanted else None


def stored_event(number: int, place: tuple[int, int] | None, day: str, **fields: Any) -> dict[str, Any]:
    """A document as the consumer stores it, with ids made from its number. `place`: partition and offset."""
    at = datetime.fromisoformat(f"{day}T12:00:00+00:00")
    document = {
        "_id": nth_id(number),
        "event_id": f"event-{number}",
        "customer_id": f"customer-{number % 5}",
        "event_type": "click",
        **dict.fromkeys(("timestamp", "received_at", "processed_at"), at),
        **fields,
    }
    if place is not None:
        document["kafka"] = {"partition": place[0], "offset": place[1]}
    return document


def range_of(first: int, last: int, *, partition: int = 0, upto: int = 1000) -> Range:
    """A new range of `topic`."""
    return Range("topic", 1, partition, first, last, None, nth_id(upto))


def file_of(day: str) -> File:
    return File(day, f"events/day={day}/some.parquet", 3, 1000, "ab" * 32)


class ExportsContract:
    """Subclasses have the fixtures `store` and `put`, which stores events, given as (number of the id, place, day)."""

    def test_a_place_is_planned_once(self, store: Any) -> None:
        assert store.plan(range_of(0, 9))
        assert not store.plan(range_of(0, 9))
        assert not store.plan(range_of(0, 20))
        assert store.plan(range_of(0, 20, partition=1))
        assert store.frontiers("topic", 1) == {0: Frontier(10, nth_id(1000)), 1: Frontier(21, nth_id(1000))}

    def test_a_frontier_is_after_the_range_that_begins_last(self, store: Any) -> None:
        for first in (0, 9, 100, 1000):
            store.plan(range_of(first, first + 8, upto=first + 1))
        assert store.frontiers("topic", 1) == {0: Frontier(1009, nth_id(1001))}
        assert store.frontiers("another", 1) == {}

    def test_ranges_that_no_exporter_has_begun_come_first(self, store: Any) -> None:
        first, second = range_of(0, 9), range_of(10, 19)
        store.plan(first)
        store.plan(second)
        assert store.begin(first)
        assert [one.first for one in store.in_state("topic", "planned")] == [10, 0]

    def test_the_first_result_of_a_range_counts(self, store: Any) -> None:
        planned = range_of(0, 9)
        store.plan(planned)
        assert store.begin(planned)
        assert store.begin(planned)
        assert store.written(planned, [file_of("2026-01-31")])
        assert not store.written(planned, [])
        assert not store.begin(planned)
        (written,) = store.in_state("topic", "written")
        assert written.files == (file_of("2026-01-31"),)
        assert store.in_state("topic", "planned") == []

    def test_a_range_without_files_is_done_once_written(self, store: Any) -> None:
        store.plan(range_of(0, 9))
        store.written(range_of(0, 9), [])
        assert [one.first for one in store.in_state("topic", "loaded")] == [0]

    def test_a_file_belongs_to_one_load(self, store: Any) -> None:
        days = [file_of("2026-01-30"), file_of("2026-01-31")]
        ranges = [range_of(0, 9), range_of(10, 19), range_of(20, 29)]
        for one in ranges:
            store.plan(one)
            store.written(one, days)
        a, b, c = (one.id for one in ranges)
        first, second = Load.of("2026-01-30", [a, b], "table"), Load.of("2026-01-30", [b, c], "table")
        for load in (first, second, first):
            store.propose(load)
        assert {load.id for load in store.open_loads()} == {first.id, second.id}
        assert [one.id for one in store.settle(first)] == [a, b]
        assert [one.id for one in store.settle(second)] == [c]
        assert [one.id for one in store.settle(first)] == [a, b]
        assert [store.free_days(one) for one in store.in_state("topic", "written")] == [["2026-01-31"]] * 3

    def test_a_range_is_loaded_when_all_its_days_are(self, store: Any) -> None:
        store.plan(range_of(0, 9))
        store.written(range_of(0, 9), [file_of("2026-01-30"), file_of("2026-01-31")])
        for day in ("2026-01-30", "2026-01-31"):
            assert store.in_state("topic", "loaded") == []
            load = Load.of(day, [range_of(0, 9).id], "table")
            store.propose(load)
            for _ in range(2):
                store.loaded(load, store.settle(load))
        assert [one.first for one in store.in_state("topic", "loaded")] == [0]
        assert store.open_loads() == []

    def test_an_attempt_fails_once(self, store: Any) -> None:
        load = Load.of("2026-01-31", ["a range"], "table")
        store.propose(load)
        store.failed(load)
        store.failed(load)
        assert [one.attempt for one in store.open_loads()] == [2]

    def test_a_generation_begins_once(self, store: Any) -> None:
        assert store.generation("topic") == Generation()
        store.catch_up("topic")
        rest = range_of(5, 2**63 - 1)
        second = Generation(2, nth_id(7), {0: Former(5, nth_id(6))}, [rest])
        store.begin_generation("topic", second)
        store.begin_generation("topic", replace(second, since=nth_id(9)))
        assert store.generation("topic") == second

    def test_is_busy_until_all_begun_exporters_have_ended(self, store: Any) -> None:
        now = datetime.now(UTC)
        assert store.busy_until(now) is None
        store.plan(range_of(0, 9))
        for _ in range(2):
            assert store.begin(range_of(0, 9))
        assert store.written(range_of(0, 9), [file_of("2026-01-31")])
        assert store.busy_until(now) >= now + timedelta(seconds=WRITE_SECONDS)
        assert not store.written(range_of(0, 9), [])
        assert store.busy_until(now) is None
        store.begin_again(range_of(0, 9))
        assert store.busy_until(now) is not None
        store.rewritten(range_of(0, 9), file_of("2026-01-31"), file_of("2026-01-31"))
        assert store.busy_until(now) is None

    def test_a_rewritten_file_counts_with_its_rows_once(self, store: Any) -> None:
        old, new = file_of("2026-01-31"), replace(file_of("2026-01-31"), rows=1, sha256="cd" * 32)
        store.plan(range_of(0, 9))
        store.putting(range_of(0, 9), replace(old, rows=-1))
        store.putting(range_of(0, 9), replace(old, rows=-1))
        store.written(range_of(0, 9), [file_of("2026-01-30"), old])
        for _ in range(2):
            store.rewritten(range_of(0, 9), old, new)
        (one,) = store.all_ranges()
        assert (one.files, one.rows) == ((file_of("2026-01-30"), new), 4)
        assert one.tried == (replace(old, rows=-1),)

    def test_finds_the_events_of_a_range_in_its_order(self, store: Any, put: Callable[..., None]) -> None:
        put((1, (0, 7), "2026-01-31"), (2, (0, 5), "2026-01-31"), (3, (1, 6), "2026-01-31"), (4, None, "2026-01-31"))
        put((5, (0, 4), "2026-01-31"), (6, (0, 8), "2026-01-31"), (7, (0, 6), "2026-01-31"))

        def ids(wanted: Range) -> list[int]:
            return [int(str(one["_id"]), 16) for batch in store.of(wanted) for one in batch]

        assert ids(range_of(5, 7, upto=1000)) == [2, 7, 1]
        assert ids(range_of(5, 7, upto=6)) == [2, 1]
        assert ids(replace(range_of(5, 7), after=nth_id(1))) == [2, 7]
        assert ids(Range("topic", 1, "backfill", nth_id(0), nth_id(9), None, nth_id(9))) == [4]
        assert ids(Range("topic", 1, "backfill", nth_id(4), nth_id(9), None, nth_id(9))) == []
        assert ids(Range("topic", 1, "late", nth_id(3), nth_id(3), None, nth_id(3))) == [3]

    def test_knows_the_stored_ids_and_offsets(self, store: Any, put: Callable[..., None]) -> None:
        assert store.newest_id() is None
        assert store.lowest_offset(0) is None
        put((1, (0, 7), "2026-01-31"), (2, (0, 5), "2026-01-31"), (3, None, "2026-01-31"), (4, None, "2026-01-31"))
        assert store.newest_id() == nth_id(4)
        assert store.lowest_offset(0) == 5
        assert store.lowest_offset(1) is None
        assert store.has_any(0, range(6, 8))
        assert not store.has_any(0, range(6, 7))
        assert not store.has_any(1, range(8))
        now = datetime.now(UTC)
        assert store.next_id(nth_id(0), 1, now) == nth_id(3)
        assert store.next_id(nth_id(0), 9, now) == nth_id(4)
        assert store.next_id(nth_id(4), 9, now) is None

    def test_finds_the_offset_up_to_which_events_are_settled(self, store: Any, put: Callable[..., None]) -> None:
        young = int(str(ObjectId.from_datetime(datetime(2026, 1, 31, tzinfo=UTC))), 16)
        put(*((offset, (0, offset), "2026-01-30") for offset in range(1, 20, 3)))
        put(*((young + offset, (0, offset), "2026-01-31") for offset in range(20, 40, 4)))
        noon = datetime(2026, 1, 30, 12, tzinfo=UTC)
        assert store.settled(0, 1, 19, noon) == 19
        assert store.settled(0, 1, 100, noon) == 20
        assert store.settled(0, 25, 100, noon) in (25, 28)
        assert store.settled(0, 1, 100, datetime(2026, 2, 1, tzinfo=UTC)) == 100
        assert store.settled(1, 1, 100, noon) == 100


class FakeDestination:
    """Records the ids of the events in each file, by path."""

    url = "gs://bucket"

    def __init__(self) -> None:
        self.files: dict[str, list[str]] = {}

    def url_of(self, path: str) -> str:
        return f"{self.url}/{path}"

    def put(self, source: Path, path: str) -> None:
        self.files[path] = pq.ParquetFile(source).read(["event_id"])["event_id"].to_pylist()


class FilesInMemory(FakeDestination):
    """Keeps the contents of the files."""

    def __init__(self) -> None:
        super().__init__()
        self.contents: dict[str, bytes] = {}

    def put(self, source: Path, path: str) -> None:
        super().put(source, path)
        self.contents[path] = source.read_bytes()

    def open(self, path: str) -> pa.NativeFile:
        if path not in self.contents:
            raise FileNotFoundError(path)
        return pa.BufferReader(self.contents[path])

    def check(self) -> None:
        pass


class FakeWarehouse:
    """BigQuery: a job runs once, even if started twice. `fails`: new jobs load no rows."""

    table = "project.dataset.events"

    def __init__(self, destination: FakeDestination) -> None:
        self.destination = destination
        self.jobs: dict[str, Outcome] = {}
        self.rows: list[str] = []
        self.fails = False

    def run(self, job_id: str, urls: Sequence[str]) -> Outcome:
        if job_id not in self.jobs:
            rows = [row for url in urls for row in self.destination.files[url.removeprefix("gs://bucket/")]]
            self.jobs[job_id] = Outcome(0, "quota exceeded") if self.fails else Outcome(len(rows))
            self.rows += [] if self.fails else rows
        return self.jobs[job_id]


class Killed(BaseException):
    """The effect of kill -9 on a thread."""


class Stepped:
    """Runs in a thread that stops before and after each call of an object from `gated`, until the next `step`."""

    def __init__(self, run: Callable[["Stepped"], object]) -> None:
        self._run = run
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._killed = False
        self.over = False
        self.at = ""
        """The call before which it has stopped."""
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        self._stopped.acquire()

    def gated(self, part: Any) -> Any:
        """`part`, with a stop before and after each call."""
        return _Gated(part, self._stop_here)

    def step(self) -> None:
        """Continue to the next stop."""
        if not self.over:
            self._go.release()
            self._stopped.acquire()

    def kill(self) -> None:
        """End at the current stop."""
        self._killed = True
        self.step()
        self._thread.join()

    def finish(self) -> None:
        """Continue to the end."""
        while not self.over:
            self.step()
        if self.failure is not None:
            raise self.failure

    def _work(self) -> None:
        try:
            self._stop_here()
            self._run(self)
        except Killed:
            pass
        except BaseException as failure:  # noqa: BLE001, raised by `finish`
            self.failure = failure
        finally:
            self.over = True
            self._stopped.release()

    def _stop_here(self, at: str = "") -> None:
        self.at = at
        self._stopped.release()
        self._go.acquire()
        if self._killed:
            raise Killed


class _Gated:
    def __init__(self, part: Any, gate: Callable[[str], None]) -> None:
        self._part = part
        self._gate = gate

    def __getattr__(self, name: str) -> Any:
        there = getattr(self._part, name)
        if not callable(there) or name == "url_of":
            return there

        def call(*arguments: Any) -> Any:
            self._gate(name)
            result = there(*arguments)
            if isinstance(result, GeneratorType):
                # A snapshot has only the current results, not later ones.
                result = iter(list(result))
            self._gate("")
            return result

        return call


class Silent:
    """A progress that is not shown."""

    def begin(self, ranges: int) -> None:
        pass

    def rows(self, more: int) -> None:
        pass

    def done(self) -> None:
        pass
