"""Pulse and its alternatives, with the same requests in the same run."""

import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from common.errors import PulseError
from loadtest.bench import events, slow_clients
from loadtest.bench.kill import kill
from loadtest.bench.load import drive
from loadtest.bench.progress import steps
from loadtest.bench.report import Row, Target, markdown, ratios, shown
from loadtest.bench.rivals import BEFORE, BENTO, FASTAPI, FLOOR, PULSE, SIDES, SYNCED, Side
from loadtest.bench.sides import Broker, Server

CONNECTIONS = 20
_SINGLES = 8_000
_BATCHES = 500
_SECONDS = 4
_RATES = (400, 2_000)
_BOUND = 50  # ms that slow clients may make others wait

Values = dict[str, list[float]]
# The measure of each column of the comparison.
_COLUMNS = {
    "Singles/s": "singles/s",
    "CPU us": "singles CPU",
    "In batches of 100, events/s": "batches/s",
    "CPU us an event": "batches CPU",
    **{f"{rate:,}/s: p{share} ms": f"p{share} at {rate}" for rate in _RATES for share in (50, 99)},
    "MB a worker": "MB",
}


def measure(broker: Broker, rounds: int) -> tuple[list[Row], str]:
    """The rows, and a table of the sides, which alternate within each round. It leaves out unavailable sides."""
    found: dict[Side, Values] = {side: defaultdict(list) for side in SIDES}
    left_out: dict[Side, str] = {}
    by_name = {side.name: side for side in SIDES}
    for name in steps("rivals", rounds, list(by_name)):
        side = by_name[name]
        if side in left_out:
            continue
        try:
            _measure(side, broker, found[side])
        except (OSError, subprocess.SubprocessError, PulseError) as error:
            if side is PULSE:
                raise
            left_out[side] = " ".join(str(error).split())
            print(f"\n{name} is left out: {left_out[side]}", file=sys.stderr)
    there = {side: values for side, values in found.items() if side not in left_out}
    notes = [f"\nLeft out: {side.name}, since {why}" for side, why in left_out.items()]
    return list(_rows(there)), "\n".join([_table(there), *notes])


def _measure(side: Side, broker: Broker, found: Values) -> None:
    with tempfile.TemporaryDirectory(prefix="pulse-bench-") as folder:
        with side.start(broker, Path(folder)) as server:
            _speed(server, broker, found)
        if side in (PULSE, BEFORE):
            with side.start(broker, Path(folder)) as server:
                waits = slow_clients.waits(server)
            found["health wait"].append(waits.health)
            found["single wait"].append(waits.single)
        if server.keeps:
            killed = kill(side, broker, Path(folder))
            found["answered"].append(killed.answered)
            found["lost"].append(killed.lost)
            found["doubled"].append(killed.doubled)
            found["doubled seconds"].append(killed.doubled_seconds)


def _speed(server: Server, broker: Broker, found: Values) -> None:
    singles = list(events.batches(1, 4_000))
    drive(server.port, singles[:500], CONNECTIONS)
    for name, sent, size in (
        ("singles", singles * (_SINGLES // len(singles)), 1),
        ("batches", list(events.batches(100, 20_000)) * (_BATCHES // 200), 100),
    ):
        before, cpu, begun = broker.records(), server.cpu_seconds, time.perf_counter()
        load = drive(server.port, sent, CONNECTIONS)
        taken = load.answers[202] * size
        if server.keeps:
            broker.wait_for(before + taken)
        found[f"{name}/s"].append(taken / (time.perf_counter() - begun))
        found[f"{name} CPU"].append((server.cpu_seconds - cpu) / taken * 1e6)
    for rate in _RATES:
        load = drive(server.port, (singles * 3)[: rate * _SECONDS], CONNECTIONS, rate)
        found[f"p50 at {rate}"].append(load.milliseconds(0.5))
        found[f"p99 at {rate}"].append(load.milliseconds(0.99))
    found["MB"].append(server.megabytes)


def _table(sides: Mapping[Side, Values]) -> str:
    """A row for each side: medians, and the total losses of all kills."""
    head = ["Side", "Its answer means that an event is", *_COLUMNS, "Lost by kill -9", "Twice in Kafka after it"]
    rows = []
    for side, found in sides.items():
        speed = [shown(statistics.median(found[name])) for name in _COLUMNS.values()]
        lost, doubled = (f"{sum(found[name]):,.0f} of {sum(found['answered']):,.0f}" for name in ("lost", "doubled"))
        killed = [lost, doubled] if found["answered"] else ["", ""]
        rows.append([side.name, side.promises, *speed, *killed])
    return markdown(head, rows)


def _rows(sides: Mapping[Side, Values]) -> Iterator[Row]:
    ours = sides[PULSE]

    def against(what: str, name: str, targets: Mapping[Side, Target]) -> Iterator[Row]:
        for side, target in targets.items():
            if side in sides:
                yield Row(f"{what} against {side.name}", "ratio", ratios(ours[name], sides[side][name]), target)

    yield Row("single events, until in Kafka", "events/s", ours["singles/s"])
    yield from against(
        "single events/s",
        "singles/s",
        {BEFORE: Target(2.8), FASTAPI: Target(1), BENTO: Target(1), FLOOR: Target(0.65)},
    )
    yield Row("CPU of a single event", "us", ours["singles CPU"])
    yield from against(
        "CPU of a single event",
        "singles CPU",
        {BEFORE: Target(at_most=0.33), FASTAPI: Target(at_most=0.6), BENTO: Target(at_most=1)},
    )
    if SYNCED in sides:
        synced = ratios(sides[SYNCED]["singles/s"], ours["singles/s"])
        yield Row("single events/s with each synced to disk, against unsynced", "ratio", synced, Target(0.6))
    yield from against("events/s in batches of 100", "batches/s", {BEFORE: Target(1)})
    yield from against("CPU of a batch of 100", "batches CPU", {FLOOR: Target(at_most=2.6)})
    yield Row("400 single events/s, p50", "ms", ours["p50 at 400"])
    yield from against("400 single events/s, p50", "p50 at 400", {BEFORE: Target(at_most=0.6)})
    yield Row("400 single events/s, p99", "ms", ours["p99 at 400"], Target(at_most=1.5))
    if FLOOR in sides:
        yield Row("the same of a no-op, the floor", "ms", sides[FLOOR]["p99 at 400"])
    yield from against("400 single events/s, p99", "p99 at 400", {BEFORE: Target(at_most=1)})
    # The sum of all rounds, not the median, since a single loss is a fault.
    for side in (PULSE, SYNCED):
        if side in sides:
            name, found = f"of {side.name}, by a kill -9", sides[side]
            yield Row(f"answered events lost {name}", "events", [sum(found["lost"])], Target(at_most=0))
            doubled = max(found["doubled seconds"])
            yield Row(f"events twice in Kafka {name}, in seconds of the load", "s", [doubled], Target(at_most=1))
    slow = f"slowest {{}} beside {slow_clients.SLOW} half-sent events and {slow_clients.SLOW} slow readers"
    for what, name in (("/health/live", "health wait"), ("single event", "single wait")):
        yield Row(slow.format(what), "ms", ours[name], Target(at_most=_BOUND))
        if BEFORE in sides:
            yield Row(f"the same in {BEFORE.name}", "ms", sides[BEFORE][name])
