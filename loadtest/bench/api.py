"""The API's measures: what it takes, what it costs, how it grows."""

import itertools
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from common.event_json import load_event
from loadtest.bench import events, librdkafka
from loadtest.bench.load import Load, drive
from loadtest.bench.report import Row, Target, ratios
from loadtest.bench.sides import NOOP, NOOP_FLASK, OURS, SLOW, Broker, Server, gunicorn

CONNECTIONS = 20
BURSTS = 5  # each takes a tenth of a second
SUSTAINED_EVENTS = 200_000
SINGLES = 10_000
CUSTOMERS = (1_000, 100_000, 1_000_000)
MEGABYTES = (1, 5, 10, 20)  # of events a second, in batches of 100
_SECONDS_EACH = 3
_SLOWER = 10  # the slow side gets a part of the events, or it would take all the time

Values = dict[str, list[float]]


def measure(broker: Broker, rounds: Iterable[int]) -> Iterator[Row]:
    """The rows; the sides alternate within each round."""
    sides: dict[str, Values] = defaultdict(lambda: defaultdict(list))
    for _ in rounds:
        for app, share in ((NOOP, 1), (OURS, 1), (SLOW, _SLOWER)):
            with gunicorn(app, broker) as server:
                _both_kinds(server, broker, sides[app], share)
                if app == OURS:
                    _pace_and_faults(server, broker, sides[app])
        with gunicorn(NOOP_FLASK, broker) as server:
            _singles(server, broker, sides[NOOP_FLASK], 1)
        with gunicorn(OURS, broker, workers=1) as server:
            _both_kinds(server, broker, sides["one worker"], 2)
        records = events.records(10_000)
        sides["librdkafka"]["to Kafka"].append(librdkafka.produce(broker.settings, records, SUSTAINED_EVENTS // 10_000))
        sides[OURS]["validation"].append(_validation())
    yield from _rows(sides)


def _both_kinds(server: Server, broker: Broker, found: Values, share: int) -> None:
    """Batches and single events, as fast as they are taken."""
    batches = list(events.batches(100, 20_000))
    _send(server, broker, list(events.batches(1, 500)), 1)
    found["idle MB"].append(server.megabytes)

    for _ in range(BURSTS):
        found["burst"].append(_send(server, broker, batches[:100], 100)["accepted"])
    requests = SUSTAINED_EVENTS // 100 // share
    _note("batch", _send(server, broker, _repeated(batches, requests), 100), found)
    _singles(server, broker, found, share)
    found["full MB"].append(server.megabytes)


def _singles(server: Server, broker: Broker, found: Values, share: int) -> None:
    singles = list(events.batches(1, 5_000))
    _note("single", _send(server, broker, _repeated(singles, SINGLES // share), 1), found)


def _pace_and_faults(server: Server, broker: Broker, found: Values) -> None:
    """Steady rates, batches with faults, smaller batches, more and more bytes, more customers."""
    for rate, seconds in ((400, 6), (2_000, 4)):
        _steady(server, events.batches(1, rate * seconds), rate, f"{rate}", found)
    clean, faulty = (list(events.batches(100, 40_000, wrong=share)) for share in (0.0, 0.01))
    found["clean"].append(_send(server, broker, clean, 100)["accepted"])
    found["faulty"].append(_send(server, broker, faulty, 100)["accepted"])
    _note("ten", _send(server, broker, list(events.batches(10, 20_000)), 10), found)
    large = list(events.batches(100, 20_000))
    batch_megabytes = sum(map(len, large)) / len(large) / 1e6
    for megabytes in MEGABYTES:
        pace = megabytes / batch_megabytes
        _steady(server, _repeated(large, round(pace * _SECONDS_EACH)), pace, f"{megabytes} MB", found)
    for customers in CUSTOMERS:
        found[f"{customers} customers"].append(
            _send(server, broker, list(events.batches(100, 50_000, customers)), 100)["to Kafka"]
        )


def _steady(server: Server, requests: Iterable[bytes], rate: float, name: str, found: Values) -> None:
    """The latency at so many requests a second."""
    load = drive(server.port, requests, CONNECTIONS, rate)
    found[f"p50 at {name}"].append(load.milliseconds(0.5))
    found[f"p99 at {name}"].append(load.milliseconds(0.99))


def _note(kind: str, measured: Mapping[str, float], found: Values) -> None:
    for name, value in measured.items():
        found[f"{kind} {name}"].append(value)


def _send(server: Server, broker: Broker, requests: Sequence[bytes], size: int) -> dict[str, float]:
    """What comes of it: events accepted a second and events a second until all are in Kafka, CPU us a request."""
    before, cpu, begun = broker.records(), server.cpu_seconds, time.perf_counter()
    load = drive(server.port, requests, CONNECTIONS)
    if server.keeps:
        broker.wait_for(before + load.answers[202] * size)
    seconds = time.perf_counter() - begun
    taken = load.answers[202] * size
    return {
        "accepted": taken / load.seconds,
        "to Kafka": taken / seconds,
        "CPU": (server.cpu_seconds - cpu) / len(requests) * 1e6,
        "refused": _refused(load),
    }


def _refused(load: Load) -> float:
    """Answers that a Retry-After did not heal, but for those to faulty batches."""
    return float(load.answers.total() - load.answers[202] - load.answers[400] - load.answers[503])


def _repeated(requests: Sequence[bytes], count: int) -> list[bytes]:
    return list(itertools.islice(itertools.cycle(requests), count))


def _validation() -> float:
    """CPU us to validate a valid event."""
    bodies = [request.partition(b"\r\n\r\n")[2] for request in events.batches(1, 20_000)]
    begun = time.process_time()
    for body in bodies:
        load_event(body)
    return (time.process_time() - begun) / len(bodies) * 1e6


def _rows(sides: Mapping[str, Values]) -> Iterator[Row]:
    ours, slow, noop, flask = sides[OURS], sides[SLOW], sides[NOOP], sides[NOOP_FLASK]
    one, ceiling = sides["one worker"], sides["librdkafka"]

    def row(
        what: str, unit: str, name: str, target: Target | None = None, than: tuple[str, Values] | None = None
    ) -> Row:
        return Row(what, unit, ours[name], target, than and (than[0], than[1][name]))

    without = ("fast ways off", slow)
    yield row("burst: 10,000 events in batches of 100", "events/s", "burst", Target(at_least=120_000), without)
    librdkafka_ = ("librdkafka", ceiling["to Kafka"])
    yield Row(
        "200,000 in batches of 100, to Kafka", "events/s", ours["batch to Kafka"], Target(at_least=60_000), librdkafka_
    )
    yield Row("the same, with the fast ways off", "events/s", slow["batch to Kafka"])
    yield Row("the same, librdkafka alone", "events/s", ceiling["to Kafka"])
    yield row("refused for good", "requests", "batch refused", Target(at_most=0))
    yield row("CPU of a batch of 100", "us", "batch CPU", None, without)
    of_noop = ratios(ours["batch CPU"], noop["batch CPU"])
    yield Row("CPU of a batch against a no-op request", "ratio", of_noop, Target(at_most=2.6))
    yield row("single events", "events/s", "single accepted", None, without)
    yield Row(
        "single events against no-op requests",
        "ratio",
        ratios(ours["single accepted"], noop["single accepted"]),
        Target(at_least=0.65),
    )
    yield row("single events refused for good", "requests", "single refused", Target(at_most=0))
    yield row("CPU of a single event", "us", "single CPU", None, without)
    yield Row("no-op requests", "requests/s", noop["single accepted"])
    yield Row(
        "no-op requests in Flask", "requests/s", flask["single accepted"], None, ("no-op", noop["single accepted"])
    )
    yield Row("CPU of a no-op request", "us", noop["single CPU"])
    yield Row("CPU of a no-op request in Flask", "us", flask["single CPU"])
    yield Row("CPU of a no-op request with a batch's body", "us", noop["batch CPU"])
    yield row("400 single events/s, p50", "ms", "p50 at 400", Target(at_most=2))
    yield row("400 single events/s, p99", "ms", "p99 at 400", Target(at_most=8))
    yield row("2,000 single events/s, p50", "ms", "p50 at 2000")
    yield row("2,000 single events/s, p99", "ms", "p99 at 2000")
    yield row("validation of an event", "us", "validation", Target(at_most=3))
    yield Row(
        "rate with 1 % faulty batches against clean",
        "ratio",
        ratios(ours["faulty"], ours["clean"]),
        Target(at_least=0.85),
    )
    yield row("batches of 10", "events/s", "ten accepted")
    yield row("CPU of a batch of 10", "us", "ten CPU")
    yield Row(
        "one worker: batches of 100, to Kafka", "events/s", one["batch to Kafka"], None, ("two", ours["batch to Kafka"])
    )
    yield Row("one worker: single events", "events/s", one["single accepted"], None, ("two", ours["single accepted"]))
    for megabytes in MEGABYTES:
        yield row(f"{megabytes} MB/s in batches of 100, p50", "ms", f"p50 at {megabytes} MB")
        yield row(f"{megabytes} MB/s in batches of 100, p99", "ms", f"p99 at {megabytes} MB")
    fewest = f"{CUSTOMERS[0]:,}", ours[f"{CUSTOMERS[0]} customers"]
    for customers in CUSTOMERS:
        yield Row(f"of {customers:,} customers, to Kafka", "events/s", ours[f"{customers} customers"], None, fewest)
    yield row("memory of an API worker, idle", "MB", "idle MB")
    yield row("memory of an API worker, full load", "MB", "full MB", Target(at_most=120))
