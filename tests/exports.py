"""What the exporter works with, in memory; and exporters that go on a step at a time, or die there."""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from bson import ObjectId

from consumer.writer import Written
from ops.export.load import Outcome
from ops.export.state import Document, File, Frontier, Generation, Load, Place, Range, State
from tests.fakes import FakeWriter


def nth_id(number: int) -> ObjectId:
    """Ids in the order of the numbers."""
    return ObjectId(f"{number:024x}")


class WriterWithIds(FakeWriter):
    """Gives each document an id when it is stored, as MongoDB does, and its time, as the real one does."""

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
    """`Exports` and `Events`. What is stored is whatever `stored` returns."""

    def __init__(self, stored: Callable[[], Sequence[Document]]) -> None:
        self.stored = stored
        self.generations: dict[str, list[Generation]] = defaultdict(lambda: [Generation()])
        self.ranges: dict[str, Range] = {}
        self.begun: dict[str, int] = defaultdict(int)
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
        self.begun[planned.id] = max(self.begun.values(), default=0) + 1
        return self.ranges[planned.id].state == "planned"

    def written(self, planned: Range, files: Sequence[File]) -> bool:
        if self.ranges[planned.id].state != "planned":
            return False
        self.ranges[planned.id] = replace(planned, state="written" if files else "loaded", files=tuple(files))
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


class FakeDestination:
    """Remembers, by path, the ids of the events in each file."""

    url = "gs://bucket"

    def __init__(self) -> None:
        self.files: dict[str, list[str]] = {}

    def url_of(self, path: str) -> str:
        return f"{self.url}/{path}"

    def put(self, source: Path, path: str) -> None:
        self.files[path] = pq.ParquetFile(source).read(["event_id"])["event_id"].to_pylist()


class FakeWarehouse:
    """BigQuery: a job runs once, whoever starts it again. `fails`: new jobs load nothing."""

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
    """What kill -9 is to a thread."""


class Stepped:
    """Runs in a thread that stops before and after each call of what went through `gated`, until it is told to go on."""

    def __init__(self, run: Callable[["Stepped"], object]) -> None:
        self._run = run
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._killed = False
        self.over = False
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        self._stopped.acquire()

    def gated(self, part: Any) -> Any:
        """`part`, whose calls stop."""
        return _Gated(part, self._stop_here)

    def step(self) -> None:
        """Go on to the next stop."""
        if not self.over:
            self._go.release()
            self._stopped.acquire()

    def kill(self) -> None:
        """Never go on."""
        self._killed = True
        self.step()
        self._thread.join()

    def finish(self) -> None:
        """Go on to the end."""
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

    def _stop_here(self) -> None:
        self._stopped.release()
        self._go.acquire()
        if self._killed:
            raise Killed


class _Gated:
    def __init__(self, part: Any, gate: Callable[[], None]) -> None:
        self._part = part
        self._gate = gate

    def __getattr__(self, name: str) -> Any:
        there = getattr(self._part, name)
        if not callable(there) or name == "url_of":
            return there

        def call(*arguments: Any) -> Any:
            self._gate()
            result = there(*arguments)
            if isinstance(result, Iterator):
                # As it is now: what comes later is not in a snapshot.
                result = iter(list(result))
            self._gate()
            return result

        return call


class Silent:
    """No progress is shown."""

    def begin(self, ranges: int) -> None:
        pass

    def rows(self, more: int) -> None:
        pass

    def done(self) -> None:
        pass
