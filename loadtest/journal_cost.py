"""The cost of the journal: the CPU time per event with and without it, alternating in one run; its bytes per event.

`python -m loadtest.journal_cost`. Measures the steps of an event in a worker: put, take, acknowledge. Sends nothing.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry

from api.event_queue import EventQueue
from api.intake import AcceptedEvent, Receipt, accept_batch
from api.journal.journal import Journal
from common.event_json import encode
from common.metrics import ApiMetrics
from loadtest.client import run

ROUNDS = 7
EVENTS_A_ROUND = 20_000


def main() -> int:
    """Print a line for batches and one for single events; returns 0."""
    event = {
        "customer_id": "customer-00042",
        "event_type": "add_to_cart",
        "properties": {"sku": "JK-210", "product": "Storm 3 rain jacket", "category": "jackets", "price": 189.9},
        "context": {"device": "mobile", "session_id": "seed-818650a811c6-alice", "ip": "203.0.113.7"},
    }
    batch = accept_batch(encode({"events": [event] * 100}), Receipt(datetime.now(UTC)))
    print(f"an event has {len(batch[0].value)} bytes; CPU time of the worker, median of {ROUNDS} rounds")
    for name, events in (("batches of 100", batch), ("single events", batch[:1])):
        with tempfile.TemporaryDirectory() as folder:
            journal = Journal(Path(folder), max_bytes=1024**3, sync=False)
            off, on = _rounds(partial(_cost, None, events), partial(_cost, journal, events))
            size = _bytes(journal, events)
            journal.close()
        print(
            f"{name:<15} without {off:6.2f} us, with {on:6.2f} us, the journal {on - off:6.2f} us and "
            f"{size:,.0f} bytes an event"
        )
    return 0


def _rounds(*measures: Callable[[], float]) -> list[float]:
    taken = [[measure() for measure in measures] for _ in range(ROUNDS)]
    return [statistics.median(column) for column in zip(*taken, strict=True)]


def _cost(journal: Journal | None, events: list[AcceptedEvent]) -> float:
    """The CPU time per event, in microseconds. It takes up to 2,000 events at once, as the producer does."""
    queue = EventQueue(10_000, 2**26, ApiMetrics(CollectorRegistry()))
    if journal is not None:
        queue.keep_in(journal)
    requests_a_take = 2000 // len(events)
    begun = time.process_time()
    for number in range(EVENTS_A_ROUND // len(events)):
        queue.put(events)
        if number % requests_a_take == requests_a_take - 1:
            queue.acknowledge(queue.take(2000, 2**21, timeout=0))
    return (time.process_time() - begun) / EVENTS_A_ROUND * 1e6


def _bytes(journal: Journal, events: list[AcceptedEvent]) -> float:
    """The room that an event takes in an empty journal, in bytes."""
    empty = journal.used_bytes
    for _ in range(EVENTS_A_ROUND // len(events)):
        journal.append([event.value for event in events])
    return (journal.used_bytes - empty) / EVENTS_A_ROUND


if __name__ == "__main__":
    sys.exit(run(main))
