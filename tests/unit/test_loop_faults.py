"""In any order of faults, no record is lost, stored twice, or committed before it is safe.

Records that Kafka deletes unread are lost, and the consumer counts them.
"""

import itertools
import json
from base64 import b64decode

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
from tests.fakes import FakeBroker, FakeClock, FakeForgotten, FakeSource, FakeWriter, RefusesLarge

TOPIC, DLQ, GROUP = "events", "events.dlq", "group"
CUSTOMERS = [f"customer-{number}" for number in range(6)]


class Member:
    """A consumer that can be killed, and whose commits can be lost."""

    def __init__(self, broker: FakeBroker, letters: FakeBroker, writer: FakeWriter, clock: FakeClock) -> None:
        self.source = FakeSource(broker, TOPIC, GROUP, max_records=4)
        self.registry = CollectorRegistry()
        metrics = ConsumerMetrics(self.registry)
        self.loop = Loop(
            self.source,
            Buffer(4, 1.0, clock),
            writer,
            FakeForgotten(),
            DeadLetters(RefusesLarge(letters, DLQ), TOPIC, writer, DLQ, metrics),
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
        self.ever: list[Member] = []
        self.never_committed: set[tuple[int, int]] = set()
        """Records deleted before the first commit of the group, which therefore does not know of them."""
        self.join()

    @rule(
        kinds=st.lists(st.sampled_from(["good", "again", "refused", "garbage", "large garbage"]), max_size=6),
        data=st.data(),
    )
    def produce(self, kinds: list[str], data: st.DataObject) -> None:
        for kind in kinds:
            key = data.draw(st.sampled_from(CUSTOMERS))
            event_id = f"{kind}-{next(self.numbers)}"
            if kind == "again" and self.good:
                event_id = data.draw(st.sampled_from(sorted(self.good)))
            if kind == "refused":
                self.writer.refuses.add(event_id)
            elif "garbage" not in kind:
                self.good.add(event_id)
            event = {"event_id": event_id, "customer_id": key, "event_type": "click"}
            times = dict.fromkeys(("timestamp", "received_at"), "2026-01-31T12:00:00Z")
            value = json.dumps({**event, **(times if "garbage" not in kind else {})}).encode()
            value += b" " * 2000 * (kind == "large garbage")
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

    @rule(data=st.data())
    def retention_takes_some(self, data: st.DataObject) -> None:
        partition = data.draw(st.sampled_from(range(self.broker.partitions)))
        end, begins = len(self.broker.topics[TOPIC][partition]), self.broker.begins[TOPIC]
        begin = begins.get(partition, 0)
        begins[partition] = data.draw(st.integers(begin, end))
        if partition not in self.broker.groups[GROUP].committed:
            self.never_committed |= {(partition, offset) for offset in range(begin, begins[partition])}

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
        self.ever.append(self.members[-1])

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
    def nothing_is_committed_before_it_is_safe_or_told_to_be_lost(self) -> None:
        unsafe = 0
        for partition, offset in self.broker.groups[GROUP].committed.items():
            for record in self.broker.topics[TOPIC][partition][:offset]:
                if self.event_id(record.value) not in self.safe:
                    assert record.offset < self.broker.begins[TOPIC].get(partition, 0)
                    unsafe += (partition, record.offset) not in self.never_committed
        assert unsafe <= self.told

    @invariant()
    def only_what_cannot_be_stored_dies(self) -> None:
        assert not self.good & {self.event_id(value) for value in self.dead}

    def teardown(self) -> None:
        self.broker.up = self.letters.up = self.writer.up = True
        for _ in range(200):
            for member in self.members:
                member.loop.step()
            self.clock.advance(30)
        begins, committed = self.broker.begins[TOPIC], self.broker.groups[GROUP].committed
        for partition, log in enumerate(self.broker.topics[TOPIC]):
            assert all(self.event_id(record.value) in self.safe for record in log[begins.get(partition, 0) :])
            assert committed.get(partition, begins.get(partition, 0)) == len(log)
        assert self.writer.stored.keys() <= self.good
        assert self.dead <= {record.value for record in self.broker.records(TOPIC)}

    @property
    def dead(self) -> set[bytes | None]:
        """The values of all letters, in Kafka and MongoDB."""
        kept = {b64decode(json.loads(content)["value"]) for content in self.writer.letters.values()}
        return kept | {letter.value for letter in self.letters.records(DLQ)}

    @property
    def safe(self) -> set[str]:
        return self.writer.stored.keys() | {self.event_id(value) for value in self.dead}

    @property
    def told(self) -> float:
        """The number of lost records that all members have reported."""
        name = "pulse_consumer_records_lost_total"
        return sum(
            member.registry.get_sample_value(name, {"partition": str(partition)}) or 0
            for member in self.ever
            for partition in range(self.broker.partitions)
        )

    @staticmethod
    def event_id(value: bytes | None) -> str:
        event_id: str = json.loads(value or b"")["event_id"]
        return event_id


Faults.TestCase.settings = settings(stateful_step_count=40)
TestFaults = Faults.TestCase
