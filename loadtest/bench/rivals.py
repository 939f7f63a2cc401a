"""The compared sides: Pulse, its first version, alternatives, and a server that does nothing."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from loadtest.bench.bento import bento
from loadtest.bench.sides import NOOP, OURS, Broker, Server, before, gunicorn, process, python
from ops.local import ports


@dataclass(frozen=True, slots=True)
class Side:
    """A side. `promises`: the meaning of its answer. `start` gets a folder for files that outlive the process."""

    name: str
    promises: str
    start: Callable[[Broker, Path], AbstractContextManager[Server]]


@contextlib.contextmanager
def _others(command: list[str], broker: Broker, port: int) -> Iterator[Server]:
    with process(command, broker.environ) as master:
        server = Server(master, port, keeps=True, workers=2)
        server.wait_until_ready("/health/ready")
        yield server


def _before(broker: Broker, folder: Path) -> AbstractContextManager[Server]:
    return gunicorn(OURS, broker, folder=before(), journal=folder)


def _fastapi(broker: Broker, _: Path) -> AbstractContextManager[Server]:
    port = ports.free_port()
    options = ["--workers", "2", "--port", str(port), "--no-access-log"]
    return _others(python("uvicorn", "loadtest.bench.fastapi_app:app", *options), broker, port)


def _flask(broker: Broker, _: Path) -> AbstractContextManager[Server]:
    port = ports.free_port()
    options = ["--worker-class", "gthread", "--workers", "2", "--threads", "10", "--bind", f"127.0.0.1:{port}"]
    return _others(python("gunicorn", *options, "loadtest.bench.flask_app:app"), broker, port)


PULSE, SYNCED, BEFORE, FASTAPI, FLASK, BENTO, FLOOR = (
    Side("Pulse", "in its journal", lambda broker, folder: gunicorn(OURS, broker, journal=folder)),
    Side(
        "Pulse, synced",
        "in its journal, synced",
        lambda broker, folder: gunicorn(OURS, broker, journal=folder, API_JOURNAL_SYNC="full"),
    ),
    Side("Pulse 0.1.0", "in its journal", _before),
    Side("FastAPI, aiokafka", "in Kafka", _fastapi),
    Side("Flask, kafka-python-ng", "in Kafka", _flask),
    Side("Bento", "in Kafka", lambda broker, _: bento(broker)),
    Side("no-op in Pulse's worker", "nothing", lambda broker, _: gunicorn(NOOP, broker)),
)
SIDES = (PULSE, SYNCED, BEFORE, FASTAPI, FLASK, BENTO, FLOOR)
