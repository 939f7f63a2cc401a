"""Each event is exported once, if consumers and exporters die in any order.

Consumers are killed and come back late. Kafka delivers records again, an operator replays letters and creates topics
again. Two exporters run at once and die between any two steps.
"""

import itertools
import json
from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from common.errors import StoreError
from common.kafka import GroupOffsets, Record
from ops.export import exporter
from ops.export.plan import find_late, plan_late
from tests.exports import FakeDestination, FakeStore, FakeWarehouse, Silent, Stepped, WriterWithIds
from tests.fakes import FakeBroker, FakeClock, FakeWriter
from tests.unit.test_loop_faults import DLQ, GROUP, TOPIC, Member

CUSTOMERS = [f"customer-{number}" for number in range(6)]
DAYS = ["2026-01-30T23:59:59Z", "2026-01-31T00:00:00Z"]


class LateWriter:
    """A consumer's connection to MongoDB. After a cut, its writes are in flight, with an unknown result."""

    def __init__(self, writer: FakeWriter, on_the_way: list[Any]) -> None:
        self.writer = writer
        self.on_the_way = on_the_way
        self.cut_off = False

    def write(self, documents: Any) -> Any:
        if self.cut_off:
            self.on_the_way.append(documents)
            raise StoreError("no answer")
        return self.writer.write(documents)

    def available(self) -> bool:
        return self.writer.available()

    def keep_letter(self, name: str, content: bytes) -> None:
        self.writer.keep_letter(name, content)


class Exports(RuleBasedStateMachine):
    """Up to three consumers and up to two exporters."""

    @initialize()
    def start(self) -> None:
        self.clock = FakeClock()
        self.broker, self.letters, self.writer = FakeBroker(), FakeBroker(), WriterWithIds()
        self.store = FakeStore(lambda: list(self.writer.stored.values()))
        self.destination = FakeDestination()
        self.warehouse = FakeWarehouse(self.destination)
        self.numbers = itertools.count()
        self.members: list[Any] = []
        self.exporters: list[Stepped] = []
        self.on_the_way: list[Any] = []
        self.join()

    # ── Into MongoDB ──

    @rule(kinds=st.lists(st.sampled_from(["new", "again", "refused", "garbage"]), max_size=6), data=st.data())
    def produce(self, kinds: list[str], data: st.DataObject) -> None:
        for kind in kinds:
            event_id = f"{kind}-{next(self.numbers)}"
            if kind == "again" and self.writer.stored:
                event_id = data.draw(st.sampled_from(sorted(self.writer.stored)))
            if kind == "refused":
                self.writer.refuses.add(event_id)
            time = data.draw(st.sampled_from(DAYS)) if kind != "garbage" else "no time"
            self.put(event_id, data.draw(st.sampled_from(CUSTOMERS)), time)

    def put(self, event_id: str, key: str, time: str) -> None:
        event = {
            "event_id": event_id,
            "customer_id": key,
            "event_type": "click",
            "timestamp": time,
            "received_at": time,
        }
        self.broker.append(TOPIC, Record(key.encode(), json.dumps(event).encode()))

    def consume_all(self) -> None:
        for _ in range(4):
            for member in self.members:
                member.loop.step()
            self.clock.advance(1)

    @rule(data=st.data(), times=st.integers(1, 4))
    def consume(self, data: st.DataObject, times: int) -> None:
        for _ in range(times):
            data.draw(st.sampled_from(self.members)).loop.step()
            self.clock.advance(1)

    @precondition(lambda self: len(self.members) < 3)
    @rule()
    def join(self) -> None:
        self.members.append(Member(self.broker, self.letters, self.writer, self.clock))
        self.members[-1].loop._writer = LateWriter(self.writer, self.on_the_way)

    @precondition(lambda self: len(self.members) > 1)
    @rule(data=st.data(), before_the_commit=st.booleans())
    def kill_a_consumer(self, data: st.DataObject, before_the_commit: bool) -> None:
        member = data.draw(st.sampled_from(self.members))
        self.members.remove(member)
        if before_the_commit:
            member.source.__dict__["commit"] = lambda offsets: None
            member.loop.step()
        member.source.die()

    @precondition(lambda self: len(self.members) > 1)
    @rule(data=st.data())
    def cut_a_consumer_off(self, data: st.DataObject) -> None:
        member = data.draw(st.sampled_from(self.members))
        member.loop._writer.cut_off = True
        member.loop.step()
        self.members.remove(member)
        member.source.die()

    @precondition(lambda self: self.on_the_way)
    @rule(data=st.data())
    def a_late_write_arrives(self, data: st.DataObject) -> None:
        write = data.draw(st.sampled_from(self.on_the_way))
        self.on_the_way.remove(write)
        self.writer.write(write)

    @precondition(lambda self: self.writer.refuses)
    @rule(data=st.data())
    def mongodb_takes_what_it_refused(self, data: st.DataObject) -> None:
        self.writer.refuses.discard(data.draw(st.sampled_from(sorted(self.writer.refuses))))

    @precondition(lambda self: any(self.letters.topics[DLQ]))
    @rule(data=st.data())
    def replay_a_letter(self, data: st.DataObject) -> None:
        letter = data.draw(st.sampled_from([letter for log in self.letters.topics[DLQ] for letter in log]))
        self.broker.append(TOPIC, Record(letter.key, letter.value))

    @precondition(lambda self: self.writer.stored)
    @rule(data=st.data())
    def the_group_reads_a_part_once_more(self, data: st.DataObject) -> None:
        committed = self.broker.groups[GROUP].committed
        for partition, offset in list(committed.items()):
            committed[partition] = data.draw(st.integers(0, offset))
        for member in self.members:
            member.source.die()
        self.members.clear()
        self.join()

    # ── Out of it ──

    @rule(
        turns=st.lists(
            st.tuples(st.sampled_from(["first", "second", "pipeline"]), st.sampled_from([1, 2, 3, 5, 60])),
            min_size=5,
            max_size=30,
        ),
        max_rows=st.sampled_from([1, 3, 100]),
        backfill=st.booleans(),
    )
    def export_with_two(self, turns: list[tuple[str, int]], max_rows: int, backfill: bool) -> None:
        while len(self.exporters) < 2:
            self.exporters.append(self.exporter(max_rows, backfill=backfill and not self.exporters))
        for who, steps in turns:
            if who == "pipeline":
                for customer in CUSTOMERS[: steps % 7]:
                    self.put(f"new-{next(self.numbers)}", customer, DAYS[0])
                self.consume_all()
                continue
            one = self.exporters[0 if who == "first" else 1]
            for _ in range(steps):
                one.step()
        for one in [one for one in self.exporters if one.over]:
            one.finish()
            self.exporters.remove(one)

    @precondition(lambda self: self.exporters)
    @rule(data=st.data())
    def kill_an_exporter(self, data: st.DataObject) -> None:
        exporter = data.draw(st.sampled_from(self.exporters))
        self.exporters.remove(exporter)
        exporter.kill()

    @rule()
    def bigquery_fails_or_works(self) -> None:
        self.warehouse.fails = not self.warehouse.fails

    @rule()
    def repair_late_writes(self) -> None:
        in_files = set(self.in_files())
        missing = [
            (one["_id"], one["kafka"]["partition"], one["kafka"]["offset"])
            for one in self.writer.stored.values()
            if one["event_id"] not in in_files
        ]
        plan_late(TOPIC, find_late(TOPIC, missing, list(self.store.ranges.values()), self.store), self.store)

    # ── The law ──

    @invariant()
    def no_event_is_exported_twice(self) -> None:
        assert not [one for one, times in Counter(self.in_files()).items() if times > 1]
        assert not [one for one, times in Counter(self.warehouse.rows).items() if times > 1]

    @invariant()
    def files_have_what_the_state_says(self) -> None:
        for one in self.store.ranges.values():
            for file in one.files:
                assert len(self.destination.files[file.path]) == file.rows

    def teardown(self) -> None:
        for one in self.exporters:
            one.kill()
        for write in self.on_the_way:
            self.writer.write(write)
        self.warehouse.fails = False
        for _ in range(8):
            self.consume_all()
        self.exporter(100).finish()
        self.repair_late_writes()
        self.exporter(100).finish()
        assert sorted(self.in_files()) == sorted(self.writer.stored)
        assert sorted(self.warehouse.rows) == sorted(self.writer.stored)
        self.no_event_is_exported_twice()
        assert not self.store.in_state(TOPIC, "planned")
        assert not self.store.in_state(TOPIC, "written")

    def in_files(self) -> list[str]:
        """The ids of the events in the files that count."""
        return [
            event
            for one in self.store.ranges.values()
            for file in one.files
            for event in self.destination.files[file.path]
        ]

    def exporter(self, max_rows: int, *, backfill: bool = False) -> Stepped:
        def work(stepped: Stepped) -> None:
            parts = exporter.Parts(
                topic=TOPIC,
                store=stepped.gated(self.store),
                destination=stepped.gated(self.destination),
                warehouse=stepped.gated(self.warehouse),
                offsets=stepped.gated(self).offsets,
                missing_event=lambda *_: None,
                max_rows=max_rows,
                min_age=0.0,
            )
            run = exporter.backfill if backfill else exporter.run
            outcome = run(parts, Silent())
            assert all("quota exceeded" in problem for problem in outcome.problems), outcome.problems

        return Stepped(work)

    def offsets(self) -> dict[int, GroupOffsets]:
        committed = self.broker.groups[GROUP].committed
        return {
            number: GroupOffsets(0, len(log), committed.get(number))
            for number, log in enumerate(self.broker.topics[TOPIC])
        }


Exports.TestCase.settings = settings(stateful_step_count=15)
TestExports = Exports.TestCase
