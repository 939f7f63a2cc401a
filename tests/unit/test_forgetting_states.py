"""In any order of calls and faults, no event of a forgotten customer is left, and no other event is missing.

The consumer's loop and the tool run concurrently on one database. Each stops before and after each of its calls;
hypothesis chooses which one continues or dies, which call fails, and how much time passes. The test assumes that the
driver keeps its timeout, and that an abandoned call reaches MongoDB within the tool's grace period after the consumer
has read the list, or never.
"""

import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple, Self

import pytest
from greenlet import GreenletExit, getcurrent, greenlet
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from prometheus_client import CollectorRegistry
from pymongo.errors import AutoReconnect

from common.kafka import Record
from common.metrics import ConsumerMetrics
from common.retry import Backoff
from common.settings import MongoSettings
from consumer.buffer import Buffer
from consumer.dead_letters import DeadLetters
from consumer.forgetting import Forgetting
from consumer.forgotten import GRACE_SECONDS, LATE_SECONDS, LIST, MongoForgotten, hash_of
from consumer.health import Health
from consumer.loop import Loop
from consumer.policy import DeathLimit
from consumer.writer import _TIMEOUT_MS, MongoWriter
from tests.fakes import FakeBroker, FakeClock, FakeDocuments, FakeSender, FakeSource

TOPIC, DLQ, GROUP = "events", "events.dlq", "group"
CUSTOMERS = ["alice", "ben", "carol"]
BEGINNING = datetime(2026, 1, 31, tzinfo=UTC)


def stop() -> None:
    """Switch to the test, until it switches back."""
    main = getcurrent().parent
    assert main is not None
    main.switch()


class InFlight(NamedTuple):
    """An abandoned call, and the latest time of its arrival at the server."""

    until: float
    call: Callable[[], Any]


class Actor:
    """A program that stops at each of its calls to the database."""

    def __init__(self, program: Callable[[], None]) -> None:
        self.pending: Callable[[], Any] | None = None
        self.running = greenlet(program)

    def go_on(self) -> None:
        self.running.switch()

    def fail(self) -> None:
        """Its call ends with an error, whether it took effect or not."""
        self.running.throw(AutoReconnect("cut"))

    def kill(self) -> None:
        self.running.throw(GreenletExit)


class Consumer(Actor):
    def __init__(self, world: "Forget") -> None:
        self.source = FakeSource(world.broker, TOPIC, GROUP, max_records=3)
        writer = MongoWriter(MongoSettings("mongodb://localhost", "pulse", "events", None))
        writer._events = world.events
        self.forgotten = MongoForgotten(world.events, world.clock)
        metrics = ConsumerMetrics(CollectorRegistry())
        self.loop = Loop(
            self.source,
            Buffer(2, 0.0, world.clock),
            writer,
            self.forgotten,
            DeadLetters(FakeSender(world.broker, DLQ), TOPIC, writer, DLQ, metrics),
            max_retries=0,
            death_limit=DeathLimit(1.0),
            metrics=metrics,
            health=Health(world.clock),
            backoff=Backoff(first=0.1, most=0.1),
            clock=world.clock,
        )
        writer.__dict__["available"] = lambda: True
        super().__init__(self.work)

    def work(self) -> None:
        self.source.subscribe(self.loop)
        while True:
            self.loop.step()
            stop()


class Stepped:
    """A collection whose caller stops before and after each call. A call returns all of its documents at once."""

    def __init__(self, world: "Forget", name: str) -> None:
        self.world = world
        self.name = name
        self.collection = world.stored[name]

    @property
    def database(self) -> "Stepped":
        return self

    def get_collection(self, name: str, **_: Any) -> "Stepped":
        return Stepped(self.world, name)

    def with_options(self, **_: Any) -> "Stepped":
        return self

    def command(self, _: str) -> dict[str, Any]:
        return {"localTime": self.world.now()}

    def find(self, wanted: Any = None, _: Any = None) -> "Answers":
        return Answers(self, wanted)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: self.call(partial(getattr(self.collection, name), *args, **kwargs))

    def call(self, call: Callable[[], Any]) -> Any:
        actor = self.world.actor_of(getcurrent())
        called_at = self.world.clock()
        actor.pending = call
        try:
            stop()
        finally:
            actor.pending = None
        if isinstance(actor, Consumer) and self.world.clock() - called_at >= _TIMEOUT_MS / 1000:
            raise AutoReconnect("no answer in time")
        answer = call()
        stop()
        return answer


class Answers:
    """A cursor that reads at its first iteration."""

    def __init__(self, collection: Stepped, wanted: Any) -> None:
        self.collection = collection
        self.wanted = wanted

    def sort(self, _: str) -> "Answers":
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.collection.call(partial(self.collection.collection.find, self.wanted)))


class Forget(RuleBasedStateMachine):
    """Up to two consumers and two tools, on one database."""

    @initialize()
    def start(self) -> None:
        self.clock = FakeClock()
        self.broker = FakeBroker()
        self.stored: dict[str, FakeDocuments] = defaultdict(FakeDocuments)
        self.events: Any = Stepped(self, "events")
        self.numbers = itertools.count()
        self.received: dict[str, tuple[str, datetime]] = {}
        self.in_flight: list[InFlight] = []
        self.consumers: list[Consumer] = []
        self.tools: list[Actor] = []
        self.a_consumer_starts()

    def now(self) -> datetime:
        return BEGINNING + timedelta(seconds=self.clock())

    def actor_of(self, running: greenlet) -> Actor:
        return next(actor for actor in (*self.consumers, *self.tools) if actor.running is running)

    @rule(customer=st.sampled_from(CUSTOMERS), count=st.integers(1, 3))
    def events_come(self, customer: str, count: int) -> None:
        for _ in range(count):
            event_id = f"{customer}-{next(self.numbers)}"
            self.received[event_id] = (customer, self.now())
            times = dict.fromkeys(("timestamp", "received_at"), self.now().isoformat())
            event = {"event_id": event_id, "customer_id": customer, "event_type": "click", **times}
            self.broker.append(TOPIC, Record(b"key", json.dumps(event).encode()))
            # Otherwise the event could have the time of the forgetting, which counts as after it.
            self.clock.advance(0.001)

    @precondition(lambda self: len(self.consumers) < 2)
    @rule()
    def a_consumer_starts(self) -> None:
        self.consumers.append(Consumer(self))

    @rule(customer=st.sampled_from(CUSTOMERS))
    def a_customer_is_forgotten(self, customer: str) -> None:
        def work() -> None:
            forgetting = Forgetting(self.events, now=self.now, clock=self.clock, sleep=self.sleep)
            forgetting.begin([customer] if customer else [])
            customers = forgetting.unfinished()
            forgetting.delete(customers)
            while True:
                forgetting.wait()
                if not forgetting.delete(customers):
                    break
            forgetting.finish(customers, [])

        if len(self.tools) < 2:
            self.tools.append(Actor(work))

    def sleep(self, seconds: float) -> None:
        until = self.clock() + seconds
        while self.clock() < until:
            stop()

    @rule(number=st.integers(0, 1), steps=st.integers(1, 12))
    def a_consumer_goes_on(self, number: int, steps: int) -> None:
        consumer = self.consumers[number % len(self.consumers)]
        for _ in range(steps):
            consumer.go_on()

    @precondition(lambda self: self.tools)
    @rule(number=st.integers(0, 1), steps=st.integers(1, 12))
    def a_tool_goes_on(self, number: int, steps: int) -> None:
        tool = self.tools[number % len(self.tools)]
        for _ in range(steps):
            if tool.running.dead:
                self.tools.remove(tool)
                break
            tool.go_on()

    @precondition(lambda self: self.tools)
    @rule()
    def the_tools_wait(self) -> None:
        """The tools wait for seconds, without other steps."""
        for _ in range(int(GRACE_SECONDS) + 5):
            if self.tools:
                self.a_tool_goes_on(0, 3)
                self.time_passes(1.0)

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        for call in [one for one in self.in_flight if one.until <= self.clock()]:
            self.land(call)

    @rule(seconds=st.sampled_from([5.0, 15.0, 60.0]))
    def all_stands_still(self, seconds: float) -> None:
        """All programs and servers stand still: calls in flight stay in flight."""
        self.in_flight = [InFlight(one.until + seconds, one.call) for one in self.in_flight]
        self.clock.advance(seconds)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def a_call_arrives(self, data: st.DataObject) -> None:
        self.land(data.draw(st.sampled_from(self.in_flight)))

    def land(self, one: InFlight) -> None:
        self.in_flight.remove(one)
        one.call()

    @rule(number=st.integers(0, 1), arrives=st.booleans())
    def a_consumer_dies(self, number: int, *, arrives: bool) -> None:
        consumer = self.consumers[number % len(self.consumers)]
        self.leave_behind(consumer, arrives=arrives)
        consumer.kill()
        if consumer.source in consumer.source.group.members:
            consumer.source.die()
        self.consumers.remove(consumer)
        if not self.consumers:
            self.a_consumer_starts()

    @precondition(lambda self: self.tools)
    @rule(number=st.integers(0, 1), arrives=st.booleans())
    def a_tool_dies(self, number: int, *, arrives: bool) -> None:
        tool = self.tools[number % len(self.tools)]
        self.leave_behind(tool, arrives=arrives)
        tool.kill()
        self.tools.remove(tool)

    @rule(number=st.integers(0, 1), arrives=st.booleans())
    def a_call_of_a_consumer_fails(self, number: int, *, arrives: bool) -> None:
        consumer = self.consumers[number % len(self.consumers)]
        if consumer.pending:
            self.leave_behind(consumer, arrives=arrives)
            consumer.fail()

    def leave_behind(self, actor: Actor, *, arrives: bool) -> None:
        """Leave a dead program's call in flight, if a consumer would still have sent it at this time."""
        if actor.pending is None or not arrives:
            return
        sent_by = actor.forgotten._read_at if isinstance(actor, Consumer) else self.clock()
        if self.clock() - sent_by < LATE_SECONDS:
            self.in_flight.append(InFlight(sent_by + GRACE_SECONDS - 0.5, actor.pending))

    @rule()
    def the_topic_is_read_from_its_beginning(self) -> None:
        self.broker.groups[GROUP].committed.clear()
        self.a_consumer_dies(0, arrives=False)

    def behind(self) -> bool:
        """Whether a record is not committed yet."""
        committed = self.broker.groups[GROUP].committed
        return any(committed.get(number, 0) < len(log) for number, log in enumerate(self.broker.topics[TOPIC]))

    def teardown(self) -> None:
        if not hasattr(self, "consumers"):
            return
        steps = itertools.count()
        # The consumers finish their work.
        while self.behind() or next(steps) < 60:
            for consumer in self.consumers:
                consumer.go_on()
            self.time_passes(0.01)
        self.a_customer_is_forgotten("")
        while self.tools:
            self.the_tools_wait()
        while self.in_flight:
            self.time_passes(1.0)
        *_, key = [one["key"] for one in self.stored["events.forgotten"].find({"_id": LIST})] or [b""]
        records = {one["_id"]: one for one in self.stored["events.forgotten"].find({"_id": {"$ne": LIST}})}
        assert all(record["state"] == "done" and "customer_id" not in record for record in records.values())
        forgotten = {who: one["before"] for who in CUSTOMERS if (one := records.get(hash_of(key, who)))}
        left = {event["event_id"] for event in self.stored["events"].find()}
        expected = {
            event_id
            for event_id, (customer, received_at) in self.received.items()
            if received_at >= forgotten.get(customer, BEGINNING)
        }
        assert left == expected


Forget.TestCase.settings = settings(stateful_step_count=50)
TestForget = Forget.TestCase


@pytest.mark.parametrize("stands_still_after", [None, 0, 5, 20])
@pytest.mark.parametrize("becomes", ["goes on later", "dies, its call arrives", "fails, its call arrives"])
def test_a_consumer_may_stop_at_each_call_while_a_customer_is_forgotten(
    becomes: str, stands_still_after: int | None
) -> None:
    """One run for each call, since random orders rarely find the few races."""
    for stop_at in range(30):
        world = Forget()
        world.start()
        world.events_come("alice", 3)
        world.events_come("ben", 1)
        world.events_come("alice", 3)
        for _ in range(stop_at):
            world.consumers[0].go_on()
        if becomes == "dies, its call arrives":
            world.a_consumer_dies(0, arrives=True)
        elif becomes == "fails, its call arrives":
            world.a_call_of_a_consumer_fails(0, arrives=True)
            # The consumer retries, before the tool begins or while it works.
            world.a_consumer_goes_on(0, stop_at % 7)
        world.a_customer_is_forgotten("alice")
        for second in itertools.count():
            if second == stands_still_after:
                world.all_stands_still(60.0)
            if not world.tools:
                break
            world.a_tool_goes_on(0, 3)
            world.time_passes(0.5)
        world.teardown()
