"""What its users could pick in place of Pulse, and Pulse as it was: the same requests, in the same run.

A side that cannot be had here is left out, with the reason.
"""

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import requests

from loadtest.bench import events
from loadtest.bench.load import drive
from loadtest.bench.report import Row, Target, ratios
from loadtest.bench.sides import OURS, Broker, Server, gunicorn, process, python, wait
from ops.local import ports

CONNECTIONS = 20
_SINGLES = 8_000
_BATCHES = 500
_SECONDS = 4
_RATES = (400, 2_000)
_BEFORE = "9ea956a"

Values = dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Side:
    """One of them. `promises`: what its answer means."""

    name: str
    promises: str
    start: Callable[[Broker], AbstractContextManager[Server]]


def measure(broker: Broker, rounds: Iterable[int]) -> Iterator[Row]:
    """The rows; the sides alternate within each round."""
    found: dict[str, Values] = defaultdict(lambda: defaultdict(list))
    left_out: dict[str, str] = {}
    for _ in rounds:
        for side in SIDES:
            if side.name in left_out:
                continue
            try:
                with side.start(broker) as server:
                    _measure(server, broker, found[side.name])
            except (OSError, subprocess.SubprocessError) as error:
                left_out[side.name] = str(error)
    for name, why in left_out.items():
        print(f"{name} was left out: {why}")
    yield from _rows({side.name: found[side.name] for side in SIDES if side.name not in left_out})


def _measure(server: Server, broker: Broker, found: Values) -> None:
    singles = list(events.batches(1, 4_000))
    drive(server.port, singles[:500], CONNECTIONS)
    for name, sent, size in (
        ("singles", singles * (_SINGLES // len(singles)), 1),
        ("batches", list(events.batches(100, 20_000)) * (_BATCHES // 200), 100),
    ):
        before, cpu, begun = broker.records(), server.cpu_seconds, time.perf_counter()
        load = drive(server.port, sent, CONNECTIONS)
        taken = load.answers[202] * size
        broker.wait_for(before + taken)
        found[f"{name} a second"].append(taken / (time.perf_counter() - begun))
        found[f"{name} CPU"].append((server.cpu_seconds - cpu) / taken * 1e6)
    for rate in _RATES:
        load = drive(server.port, (singles * 3)[: rate * _SECONDS], CONNECTIONS, rate)
        found[f"p50 at {rate}"].append(load.milliseconds(0.5))
        found[f"p99 at {rate}"].append(load.milliseconds(0.99))
    found["MB"].append(server.megabytes)


def _rows(sides: dict[str, Values]) -> Iterator[Row]:
    ours = sides["Pulse"]
    units = {
        "singles a second": "events/s",
        "singles CPU": "us",
        "batches a second": "events/s",
        "batches CPU": "us",
        **{f"p{share} at {rate}": "ms" for rate in _RATES for share in (50, 99)},
        "MB": "MB",
    }
    for what, unit in units.items():
        for name, found in sides.items():
            yield Row(f"{what}: {name}", unit, found[what], None, None if name == "Pulse" else ("Pulse", ours[what]))
    for name, what, target in (
        ("Pulse before", "singles CPU", Target(at_most=0.33)),
        ("FastAPI", "singles CPU", Target(at_most=0.6)),
        ("Pulse before", "singles a second", Target(at_least=2.8)),
        ("FastAPI", "singles a second", Target(at_least=1)),
        ("Pulse before", "p50 at 400", Target(at_most=0.6)),
        ("Pulse before", "p99 at 400", Target(at_most=1)),
        ("Pulse before", "batches a second", Target(at_least=1)),
    ):
        if name in sides:
            yield Row(f"{what}, of {name}", "ratio", ratios(ours[what], sides[name][what]), target)
    synced = sides["Pulse, synced"]
    yield Row(
        "singles a second, synced of unsynced",
        "ratio",
        ratios(synced["singles a second"], ours["singles a second"]),
        Target(at_least=0.6),
    )


@contextlib.contextmanager
def _before(broker: Broker) -> Iterator[Server]:
    """Pulse as it was at a commit. Raises OSError or SubprocessError without git's history."""
    with tempfile.TemporaryDirectory(prefix="pulse-bench-") as folder:
        archive = Path(folder, "before.tar")
        command = ["git", "archive", "--output", str(archive), _BEFORE]
        subprocess.run(command, check=True, capture_output=True, timeout=60)  # noqa: S603, nothing here comes from outside
        shutil.unpack_archive(archive, Path(folder, "before"), filter="data")
        with gunicorn(OURS, broker, folder=Path(folder, "before")) as server:
            yield server


@contextlib.contextmanager
def _synced(broker: Broker) -> Iterator[Server]:
    with gunicorn(OURS, broker, API_JOURNAL_SYNC="full") as server:
        yield server


@contextlib.contextmanager
def _fastapi(broker: Broker) -> Iterator[Server]:
    port = ports.free_port()
    app = ["loadtest.bench.fastapi_app:app", "--workers", "2", "--port", str(port), "--log-level", "warning"]
    with _ready(python("uvicorn", *app), broker, port) as server:
        yield server


@contextlib.contextmanager
def _flask(broker: Broker) -> Iterator[Server]:
    port = ports.free_port()
    options = ["--worker-class", "gthread", "--workers", "2", "--threads", "10", "--bind", f"127.0.0.1:{port}"]
    with _ready(python("gunicorn", *options, "loadtest.bench.flask_app:app"), broker, port) as server:
        yield server


@contextlib.contextmanager
def _ready(command: list[str], broker: Broker, port: int) -> Iterator[Server]:
    with process(command, broker.environ) as master:
        server = Server(master, port, keeps=True)
        wait(lambda: ports.answers(port) and len(master.children()) >= 2, f"{command[2]} on port {port}")
        wait(lambda: requests.get(f"http://127.0.0.1:{port}/health/ready", timeout=5).ok, f"{command[2]} to be ready")
        yield server


SIDES = (
    Side("Pulse", "in its journal", lambda broker: gunicorn(OURS, broker)),
    Side("Pulse before", "in its journal", _before),
    Side("Pulse, synced", "in its journal, synced", _synced),
    Side("FastAPI", "in Kafka", _fastapi),
    Side("Flask and threads", "in Kafka", _flask),
)

PROMISES = "\n".join(f"- {side.name}: an answer means that the event is {side.promises}" for side in SIDES)
