"""Measures of the API: its rates, the effect of faults, bytes and customers, and its memory."""

import itertools
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from common.event_json import encode, load_event
from loadtest.bench import events, librdkafka
from loadtest.bench.load import drive
from loadtest.bench.progress import steps
from loadtest.bench.report import Row, Target, ratios
from loadtest.bench.sides import OURS, Broker, Server, gunicorn
from loadtest.client import Event

CONNECTIONS = 20
BURSTS = 5  # each takes a tenth of a second
SUSTAINED_EVENTS = 200_000
SINGLES = 10_000
CUSTOMERS = (1_000, 1_000_000)
MEGABYTES = (5, 20)  # of events a second, in batches of 100
_SECONDS_EACH = 3

Values = dict[str, list[float]]


def measure(broker: Broker, rounds: int) -> list[Row]:
    """The rows. The compared sides alternate within each round."""
    found: Values = defaultdict(list)
    one: Values = defaultdict(list)
    for step in steps("API", rounds, ("two workers", "one worker", "librdkafka")):
        if step == "two workers":
            with gunicorn(OURS, broker) as server:
                found["idle MB"].append(server.megabytes)
                _as_fast_as_it_takes(server, broker, found)
                _faults_bytes_and_customers(server, broker, found)
                found["full MB"].append(server.megabytes)
            found["validation"].append(_validation(events.shoppers()))
            found["nested validation"].append(_validation(events.purchases(items=3)))
        elif step == "one worker":
            with gunicorn(OURS, broker, workers=1) as server:
                _as_fast_as_it_takes(server, broker, one)
        else:
            produced = librdkafka.produce(broker.settings, events.records(10_000), SUSTAINED_EVENTS // 10_000)
            found["librdkafka"].append(produced)
    return list(_rows(found, one))


def _as_fast_as_it_takes(server: Server, broker: Broker, found: Values) -> None:
    """Measure batches and single events at full speed."""
    batches, singles = list(events.batches(100, 20_000)), list(events.batches(1, 5_000))
    _send(server, broker, singles[:500], 1)
    for _ in range(BURSTS):
        found["burst"].append(_send(server, broker, batches[:100], 100)["accepted"])
    for kind, requests, count, size in (
        ("batch", batches, SUSTAINED_EVENTS // 100, 100),
        ("single", singles, SINGLES, 1),
    ):
        for name, value in _send(server, broker, _repeated(requests, count), size).items():
            found[f"{kind} {name}"].append(value)


def _faults_bytes_and_customers(server: Server, broker: Broker, found: Values) -> None:
    """Measure batches with faults, increasing bytes, and increasing customers."""
    clean, faulty = (list(events.batches(100, 40_000, wrong=share)) for share in (0.0, 0.01))
    found["clean"].append(_send(server, broker, clean, 100)["accepted"])
    found["faulty"].append(_send(server, broker, faulty, 100)["accepted"])
    large = list(events.batches(100, 20_000))
    batch_megabytes = sum(map(len, large)) / len(large) / 1e6
    for megabytes in MEGABYTES:
        pace = megabytes / batch_megabytes
        load = drive(server.port, _repeated(large, round(pace * _SECONDS_EACH)), CONNECTIONS, pace)
        found[f"p50 at {megabytes} MB"].append(load.milliseconds(0.5))
        found[f"p99 at {megabytes} MB"].append(load.milliseconds(0.99))
    for customers in CUSTOMERS:
        found[f"{customers} customers"].append(
            _send(server, broker, list(events.batches(100, 50_000, customers)), 100)["to Kafka"]
        )


def _send(server: Server, broker: Broker, requests: Sequence[bytes], size: int) -> dict[str, float]:
    """Send requests; returns the events per second until accepted and until in Kafka, and the refused requests."""
    before, begun = broker.records(), time.perf_counter()
    load = drive(server.port, requests, CONNECTIONS)
    taken = load.answers[202] * size
    broker.wait_for(before + taken)
    # The client retries after a 503, and a 400 is the right answer to a faulty batch.
    refused = load.answers.total() - load.answers[202] - load.answers[400] - load.answers[503]
    return {
        "accepted": taken / load.seconds,
        "to Kafka": taken / (time.perf_counter() - begun),
        "refused": float(refused),
    }


def _repeated(requests: Sequence[bytes], count: int) -> list[bytes]:
    return list(itertools.islice(itertools.cycle(requests), count))


def _validation(valid: Sequence[Event]) -> float:
    """The CPU time to validate one of these events, in us."""
    bodies = [encode(event) for event in valid] * (20_000 // len(valid))
    begun = time.process_time()
    for body in bodies:
        load_event(body)
    return (time.process_time() - begun) / len(bodies) * 1e6


def _rows(found: Values, one: Mapping[str, Sequence[float]]) -> Iterator[Row]:
    def row(
        what: str, unit: str, name: str, target: Target | None = None, than: tuple[str, Sequence[float]] | None = None
    ) -> Row:
        return Row(what, unit, found[name], target, than)

    librdkafka_ = ("librdkafka", found["librdkafka"])
    yield row("burst: 10,000 events in batches of 100", "events/s", "burst", Target(120_000))
    yield row("200,000 in batches of 100, to Kafka", "events/s", "batch to Kafka", Target(60_000), librdkafka_)
    yield row("the same, librdkafka alone", "events/s", "librdkafka")
    yield Row("the same with one worker", "events/s", one["batch to Kafka"], None, ("two", found["batch to Kafka"]))
    yield Row("batches refused for good", "requests", [sum(found["batch refused"])], Target(at_most=0))
    yield row("single events", "events/s", "single accepted")
    yield Row("the same with one worker", "events/s", one["single accepted"], None, ("two", found["single accepted"]))
    yield Row("single events refused for good", "requests", [sum(found["single refused"])], Target(at_most=0))
    yield row("validation of an event", "us", "validation", Target(at_most=3))
    yield row("the same, with three line items", "us", "nested validation", Target(at_most=4))
    faulty = ratios(found["faulty"], found["clean"])
    yield Row("rate with 1 % faulty batches against clean", "ratio", faulty, Target(0.85))
    for megabytes in MEGABYTES:
        for share in (50, 99):
            yield row(f"{megabytes} MB/s in batches of 100, p{share}", "ms", f"p{share} at {megabytes} MB")
    fewest = f"{CUSTOMERS[0]:,}", found[f"{CUSTOMERS[0]} customers"]
    for customers in CUSTOMERS:
        yield row(f"of {customers:,} customers, to Kafka", "events/s", f"{customers} customers", None, fewest)
    yield row("memory of an API worker, idle", "MB", "idle MB")
    yield row("memory of an API worker, full load", "MB", "full MB", Target(at_most=120))
