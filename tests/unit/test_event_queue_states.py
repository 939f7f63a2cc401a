"""In any order of calls and faults, no accepted event is lost, and a customer's events stay in order."""

import itertools
import json
import math
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from prometheus_client import CollectorRegistry

from api.event_queue import EventQueue, Taken
from api.intake import AcceptedEvent
from api.journal.journal import DATA, Journal
from common.errors import QueueFullError
from common.metrics import ApiMetrics
from tests.bad_disks import BROKEN, FULL, bad_disk

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

CAPACITY = 10
MAX_BYTES = 6_000
CUSTOMERS = ("alice", "ben")


class QueueStates(RuleBasedStateMachine):
    """A worker's queue and journal, the single steps of its producer, and a Kafka that keeps all records."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.numbers = itertools.count()
        self.accepted: list[AcceptedEvent] = []
        self.kafka: list[bytes] = []
        self.open()

    def open(self) -> None:
        self.bad: AbstractContextManager[None] | None = None
        self.acknowledged_in_this_life: set[bytes] = set()
        self.sending: Taken | None = None
        self.journal = Journal(Path(self.folder.name), max_bytes=64 * 1024, sync=False)
        self.registry = CollectorRegistry()
        self.queue = EventQueue(CAPACITY, MAX_BYTES, ApiMetrics(self.registry))
        self.queue.keep_in(self.journal)

    @rule(customers=st.lists(st.sampled_from(CUSTOMERS), min_size=1, max_size=6), size=st.sampled_from([10, 2000]))
    def accept(self, customers: list[str], size: int) -> None:
        events = [self.event(customer, size) for customer in customers]
        try:
            self.queue.put(events)
        except QueueFullError:
            return
        self.accepted += events

    @precondition(lambda self: self.sending is None and self.queue.unacknowledged)
    @rule(enough_events=st.integers(1, 15), enough_bytes=st.sampled_from([1, 3_000, 100_000]))
    def take(self, enough_events: int, enough_bytes: int) -> None:
        taken = self.queue.take(enough_events, enough_bytes, timeout=0)
        assert taken.events
        assert not self.acknowledged_in_this_life & {event.value for event in taken.events}
        self.sending = taken

    @precondition(lambda self: self.sending is not None)
    @rule()
    def acknowledge(self) -> None:
        assert self.sending is not None
        self.kafka += [event.value for event in self.sending.events]
        self.queue.acknowledge(self.sending)
        self.acknowledged_in_this_life |= {event.value for event in self.sending.events}
        self.sending = None

    @precondition(lambda self: self.sending is not None)
    @rule(part=st.integers(0, 15))
    def fail(self, part: int) -> None:
        """Kafka stores a part of the records without an acknowledgement."""
        assert self.sending is not None
        self.kafka += [event.value for event in self.sending.events[:part]]

    @precondition(lambda self: self.bad is None)
    @rule(device=st.sampled_from([FULL, BROKEN]))
    def disk_fails(self, device: str) -> None:
        """The disk fails: the journal accepts no events and deletes none."""
        self.bad = bad_disk(device, Path(self.folder.name) / DATA)
        self.bad.__enter__()

    @precondition(lambda self: self.bad is not None)
    @rule()
    def disk_is_repaired(self) -> None:
        assert self.bad is not None
        self.bad.__exit__(None, None, None)
        self.bad = None
        self.queue.look_after()

    @precondition(lambda self: self.bad is None)
    @rule()
    def crash_and_restart(self) -> None:
        self.journal.close()
        self.open()

    @invariant()
    def first_deliveries_are_in_order(self) -> None:
        delivered = list(dict.fromkeys(self.kafka))
        for customer in CUSTOMERS:
            sent = [event.value for event in self.accepted if event.key == customer.encode()]
            got = [value for value in delivered if json.loads(value)["customer_id"] == customer]
            assert got == sent[: len(got)]

    @invariant()
    def what_waits_is_counted(self) -> None:
        assert self.queue.unacknowledged >= len({event.event_id for event in self.accepted}) - len(set(self.kafka))

    @invariant()
    def a_metric_tells_whether_something_waits(self) -> None:
        oldest = self.registry.get_sample_value("pulse_api_oldest_unsent_timestamp_seconds")
        assert (oldest != math.inf) == bool(self.queue.unacknowledged)

    def teardown(self) -> None:
        if self.bad is not None:
            self.disk_is_repaired()
        while self.sending is not None or self.queue.unacknowledged:
            if self.sending is None:
                self.take(enough_events=100, enough_bytes=2**20)
            self.acknowledge()
        self.first_deliveries_are_in_order()
        assert {event.value for event in self.accepted} == set(self.kafka)
        self.journal.close()
        self.folder.cleanup()

    def event(self, customer: str, size: int) -> AcceptedEvent:
        number = next(self.numbers)
        fields = {
            "event_id": str(number),
            "event_type": "click",
            "customer_id": customer,
            "received_at": datetime.now(UTC).isoformat(),
            "text": "x" * size,
        }
        return AcceptedEvent(str(number), "click", customer.encode(), json.dumps(fields).encode())


QueueStates.TestCase.settings = settings(stateful_step_count=40)
TestQueueStates = QueueStates.TestCase
