"""Measures of the consumer: its cost on a stub, its rate on the local database, and the end-to-end latency."""

import itertools
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import psutil
from pymongo import MongoClient

from common.addresses import Address
from common.errors import PulseError
from common.kafka import KafkaSender
from loadtest.bench import events
from loadtest.bench.load import drive
from loadtest.bench.progress import steps
from loadtest.bench.report import Row, Target, ratios
from loadtest.bench.sides import OURS, Broker, before, cpu_seconds, gunicorn, process, python, wait
from ops.local import mongodb, ports
from ops.local.ready import is_well

_EVENTS = 100_000
_EVENTS_FOR_THE_DATABASE = 2_000
_STEADY_RATE = 1_000
_STEADY_SECONDS = 8
_FLUSH_SECONDS = 1.0
_CHUNK = 2_000

Values = dict[str, list[float]]
Stored = Callable[[], int]


def measure(broker: Broker, rounds: int) -> list[Row]:
    """The rows. Each measure reads the topic from its first record, in a new group.

    Raises OSError or SubprocessError without git's history, which has the old consumer.
    """
    ours: Values = defaultdict(list)
    old: Values = defaultdict(list)
    folder = before()
    with _on_stub(broker, "idle") as idle:
        wait(lambda: is_well(idle.health, "/health/ready"), "the consumer to be ready")
        ours["idle MB"].append(idle.megabytes)
    _fill(broker)
    groups = (f"bench-{number}" for number in itertools.count())
    for step in steps("consumer", rounds, ("stub", "stub, 0.1.0", "SecantusDB", "SecantusDB, 0.1.0", "end to end")):
        if step.startswith("stub"):
            found, where = (old, folder) if step.endswith("0.1.0") else (ours, None)
            with _on_stub(broker, next(groups), where) as side:
                _catch_up(side, broker.records(), found)
                found["MB"].append(side.megabytes)
        elif step.startswith("SecantusDB"):
            found, where = (old, folder) if step.endswith("0.1.0") else (ours, None)
            found["database"].append(_into_database(broker, next(groups), where))
        else:
            with _on_stub(broker, next(groups)) as side:
                wait(lambda: side.stored() >= broker.records(), "the consumer to be at the end")
                ours["end to end"].append(_end_to_end(broker, side.stored) / _FLUSH_SECONDS)
    return list(_rows(ours, old))


def _rows(ours: Values, old: Values) -> Iterator[Row]:
    def against(name: str) -> tuple[str, list[float]]:
        return "0.1.0", old[name]

    yield Row("consumer on the stub", "events/s", ours["rate"], Target(40_000), against("rate"))
    yield Row("the same against 0.1.0", "ratio", ratios(ours["rate"], old["rate"]), Target(1.8))
    yield Row("CPU of an event in the consumer", "us", ours["CPU"], Target(at_most=20), against("CPU"))
    yield Row("consumer on SecantusDB", "events/s", ours["database"], None, against("database"))
    yield Row("the same against 0.1.0", "ratio", ratios(ours["database"], old["database"]), Target(1.3))
    yield Row("memory of the consumer, idle", "MB", ours["idle MB"])
    yield Row("memory of the consumer, full load", "MB", ours["MB"], Target(at_most=160), against("MB"))
    yield Row("end to end at 1,000 events/s, p99", "flush intervals", ours["end to end"], Target(at_most=1.2))


def _fill(broker: Broker) -> None:
    sender = KafkaSender(broker.settings, broker.settings.topic)
    for _ in range(_EVENTS // _CHUNK):
        # Each chunk has new ids, so all events are new to the local database.
        if any(sender.send(events.records(_CHUNK))):
            raise PulseError("Kafka did not accept the events.")
    sender.close()


@dataclass(frozen=True, slots=True)
class _Side:
    """The consumer as a process. `stored` returns the number of events in its database."""

    process: psutil.Process
    stored: Stored
    health: Address

    @property
    def megabytes(self) -> float:
        """Its memory, in MB."""
        return float(self.process.memory_info().rss / 1e6)


def _on_stub(broker: Broker, group: str, folder: Path | None = None) -> AbstractContextManager[_Side]:
    port = ports.free_port()
    return _consumer(broker, group, python("loadtest.bench.mongo_stub", str(port)), port, folder)


def _into_database(broker: Broker, group: str, folder: Path | None) -> float:
    """The consumer's rate on SecantusDB, in events per second."""
    port = ports.free_port()
    with (
        tempfile.TemporaryDirectory(prefix="pulse-bench-") as data,
        _consumer(broker, group, mongodb.command(Path(data), port), port, folder) as side,
    ):
        return _rate(side.stored, _EVENTS_FOR_THE_DATABASE)


@contextmanager
def _consumer(broker: Broker, group: str, database: list[str], port: int, folder: Path | None) -> Iterator[_Side]:
    """A consumer with default settings and a database on this port. `folder`: the folder of other code."""
    health = Address("127.0.0.1", ports.free_port())
    environ = broker.environ | {
        "KAFKA_GROUP_ID": group,
        "MONGO_URI": f"mongodb://127.0.0.1:{port}",
        "METRICS_ADDR": str(health),
        "CONSUMER_FLUSH_INTERVAL": f"{_FLUSH_SECONDS:g}s",
    }
    with process(database, {}):
        ports.wait_until_answers(port, 60)
        with (
            process(python("consumer"), environ, folder) as consumer,
            MongoClient[dict[str, object]](f"mongodb://127.0.0.1:{port}", timeoutMS=60_000) as client,
        ):
            yield _Side(consumer, client["pulse"]["events"].estimated_document_count, health)


def _catch_up(side: _Side, count: int, found: Values) -> None:
    """Measure from the first batch on, without the start of the consumer."""
    wait(lambda: side.stored() > 0, "the consumer's first batch")
    cpu, before, begun = cpu_seconds(side.process), side.stored(), time.perf_counter()
    wait(lambda: side.stored() >= count, f"the consumer's {count:,} events")
    found["rate"].append((count - before) / (time.perf_counter() - begun))
    found["CPU"].append((cpu_seconds(side.process) - cpu) / (count - before) * 1e6)


def _rate(stored: Stored, count: int) -> float:
    wait(lambda: stored() > 0, "the database's first batch")
    before, begun = stored(), time.perf_counter()
    wait(lambda: stored() >= count, f"the database's {count:,} events")
    return (stored() - before) / (time.perf_counter() - begun)


def _end_to_end(broker: Broker, stored: Stored) -> float:
    """The 99th percentile of the time from sending an event to the API until it is stored, in seconds.

    It pairs the n-th sent event with the n-th stored one, since the stub does not report ids.
    """
    count = _STEADY_RATE * _STEADY_SECONDS
    before = stored()
    with gunicorn(OURS, broker) as server:
        arrivals: list[float] = []
        begun = time.perf_counter()
        watch = Thread(target=_watch, args=(stored, before, count, arrivals))
        watch.start()
        drive(server.port, events.batches(1, count), 20, _STEADY_RATE)
        watch.join()
    waited = sorted(arrival - (begun + n / _STEADY_RATE) for n, arrival in zip(itertools.count(), arrivals))
    return waited[int(len(waited) * 0.99)]


def _watch(stored: Stored, before: int, count: int, arrivals: list[float]) -> None:
    """Append the time of arrival of each event."""
    while len(arrivals) < count:
        now, there = time.perf_counter(), min(stored() - before, count)
        arrivals += [now] * (there - len(arrivals))
        time.sleep(0.01)
