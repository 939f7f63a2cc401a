"""Whatever fails in whatever order: no record is lost or stored twice, none is committed before it is safe."""

import itertools
import json

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from prometheus_client import CollectorRegistry

from common.kafka import Record
from common.metrics import ConsumerMetrics
from common.retry import Backoff
from consumer.buffer import Buffer
from consumer.dead_letters import DeadLetters
from consumer.health import Health
from consumer.loop import Loop
from consumer.policy import DeathLimit
from tests.fakes import FakeBroker, FakeClock, FakeSender, FakeSource, FakeWriter

TOPIC, DLQ, GROUP = "events", "events.dlq", "group"
CUSTOMERS = [f"customer-{number}" for number in range(6)]


class Member:
    """A consumer whose commits can be lost, and which can be killed."""

    def __init__(self, broker: FakeBroker, letters: FakeBroker, writer: FakeWriter, clock: FakeClock) -> None:
        self.source = FakeSource(broker, TOPIC, GROUP, max_records=4)
        metrics = ConsumerMetrics(CollectorRegistry())
        self.loop = Loop(
            self.source,
            Buffer(4, 1.0, clock),
            writer,
            DeadLetters(FakeSender(letters, DLQ), TOPIC, writer, DLQ, metrics),
            max_retries=2,
            death_limit=DeathLimit(1.0),
            metrics=metrics,
            health=Health(clock),
            backoff=Backoff(first=1.0, jitter=lambda: 0.0),
            clock=clock,
        )
        self.source.subscribe(self.loop)


class Faults(RuleBasedStateMachine):
    """A group of up to three consumers on one MongoDB. The dead letter topic can fail while the others work."""

    @initialize()
    def start(self) -> None:
        self.clock = FakeClock()
        self.broker, self.letters, self.writer = FakeBroker(), FakeBroker(), FakeWriter()
        self.numbers = itertools.count()
        self.good: set[str] = set()
        self.members: list[Member] = []
        self.join()

    @rule(kinds=st.lists(st.sampled_from(["good", "again", "refused", "garbage"]), max_size=6), data=st.data())
    def produce(self, kinds: list[str], data: st.DataObject) -> None:
        for kind in kinds:
            key = data.draw(st.sampled_from(CUSTOMERS))
            event_id = f"{kind}-{next(self.numbers)}"
            if kind == "again" and self.good:
                event_id = data.draw(st.sampled_from(sorted(self.good)))
            if kind == "refused":
                self.writer.refuses.add(event_id)
            elif kind != "garbage":
                self.good.add(event_id)
            event = {"event_id": event_id, "customer_id": key, "event_type": "click"}
            times = dict.fromkeys(("timestamp", "received_at"), "2026-01-31T12:00:00Z")
            value = json.dumps({**event, **(times if kind != "garbage" else {})}).encode()
            self.broker.append(TOPIC, Record(key.encode(), value))

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.members)).loop.step()

    @rule(seconds=st.sampled_from([0.5, 1, 5]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def mongodb_goes_or_comes(self) -> None:
        self.writer.up = not self.writer.up

    @rule()
    def kafka_goes_or_comes(self) -> None:
        self.broker.up = not self.broker.up

    @rule()
    def the_dead_letter_topic_goes_or_comes(self) -> None:
        self.letters.up = not self.letters.up

    @precondition(lambda self: len(self.members) < 3)
    @rule()
    def join(self) -> None:
        self.members.append(Member(self.broker, self.letters, self.writer, self.clock))

    @precondition(lambda self: len(self.members) > 1)
    @rule(killed=st.booleans(), data=st.data())
    def leave(self, *, killed: bool, data: st.DataObject) -> None:
        member = data.draw(st.sampled_from(self.members))
        self.members.remove(member)
        if killed:
            member.source.die()
        else:
            member.loop.stop()

    @precondition(lambda self: len(self.members) > 1)
    @rule(data=st.data())
    def die_before_the_commit(self, data: st.DataObject) -> None:
        member = data.draw(st.sampled_from(self.members))
        self.members.remove(member)
        member.source.__dict__["commit"] = lambda offsets: None
        member.loop.step()
        member.source.die()

    @invariant()
    def nothing_is_committed_before_it_is_safe(self) -> None:
        safe = self.writer.stored.keys() | {self.event_id(letter.value) for letter in self.letters.records(DLQ)}
        for partition, offset in self.broker.groups[GROUP].committed.items():
            for record in self.broker.topics[TOPIC][partition][:offset]:
                assert self.event_id(record.value) in safe

    @invariant()
    def only_what_cannot_be_stored_dies(self) -> None:
        assert not self.good & {self.event_id(letter.value) for letter in self.letters.records(DLQ)}

    def teardown(self) -> None:
        self.broker.up = self.letters.up = self.writer.up = True
        for _ in range(200):
            for member in self.members:
                member.loop.step()
            self.clock.advance(30)
        records = self.broker.records(TOPIC)
        assert self.writer.stored.keys() == self.good
        dead = {record.value for record in records if self.event_id(record.value) not in self.good}
        assert {letter.value for letter in self.letters.records(DLQ)} == dead
        assert sum(self.broker.groups[GROUP].committed.values()) == len(records)

    @staticmethod
    def event_id(value: bytes | None) -> str:
        event_id: str = json.loads(value or b"")["event_id"]
        return event_id


Faults.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestFaults = Faults.TestCase
