"""The consumer's HTTP server: /health for people, the probes, and /metrics for Prometheus."""

import json
import math
import os
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from common.addresses import Address
from common.build_info import VERSION, commit
from common.metrics import ConsumerMetrics
from common.threads import start_thread

STUCK_SECONDS = 120.0
"""After this time without progress, only a restart can help."""
_STALE_SECONDS = 60.0
_STALLED_SECONDS = 15.0
"""After this time without a poll, the report says `stalled`: Kafka, or the work between two polls, hangs."""
MISSING = "the topic does not exist: create it with `python -m common.topics`"
_OK, _UNAVAILABLE = "200 OK", "503 Service Unavailable"
_PATHS = "There are /health, /health/live, /health/ready and /metrics."


class Health:
    """The state of the parts: set by the threads of the loop and the topic watch, read by the server's threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kafka_tried = False
        self._polled_at: float | None = None
        self._progressed_at = clock()
        self._partitions: frozenset[int] | None = None
        self._store_up = False
        self._store_problem: str | None = None
        self._letters_problem: str | None = None
        self._letters_wait_since = 0.0
        self._missing: frozenset[str] | None = None

    def polled(self) -> None:
        """The loop has completed an iteration."""
        self._kafka_tried = True
        self._polled_at = self._clock()

    def progressed(self) -> None:
        """Records moved, or there were none, or their destination is unavailable."""
        self._progressed_at = self._clock()

    def kafka_tried(self) -> None:
        """The consumer has started to connect to Kafka; until then Kafka's state is unknown."""
        self._kafka_tried = True

    def assigned(self, partitions: frozenset[int] | None) -> None:
        """The group assigned these partitions; None: this consumer is not in the group."""
        self._partitions = partitions

    def store(self, *, up: bool, problem: str | None = None) -> None:
        """Whether MongoDB is up and accepted the last write. `problem`: what the operator must fix in it."""
        self._store_up = up
        self._store_problem = problem

    def letters(self, problem: str | None) -> None:
        """Why dead letters wait; None if none wait."""
        if problem is not None and self._letters_problem is None:
            self._letters_wait_since = self._clock()
        self._letters_problem = problem

    def topics_missing(self, parts: frozenset[str]) -> None:
        """The parts without a topic: `kafka` (the events topic), `dead_letters`."""
        self._missing = parts

    @property
    def idle_seconds(self) -> float:
        """The time since the last progress."""
        return round(self._clock() - self._progressed_at, 1)

    @property
    def alive(self) -> bool:
        """False if only a restart can help: if the loop hangs, not if MongoDB or Kafka is unavailable."""
        return self.idle_seconds < STUCK_SECONDS

    @property
    def ready(self) -> bool:
        """Whether records move, or would if there were any."""
        return self._in_group and self._store_up and self._letters_up is not False

    def report(self) -> dict[str, Any]:
        """The answer to GET /health."""
        age = None if self._polled_at is None else round(self._clock() - self._polled_at, 1)
        checks: dict[str, dict[str, Any]] = {
            "kafka": {
                "status": self._kafka_status(age),
                "partitions": sorted(self._partitions or ()),
                "seconds_since_poll": age,
            },
            "mongodb": {"status": _up(self._store_up)},
            "dead_letters": {"status": "not known yet" if self._letters_up is None else _up(self._letters_up)},
        }
        if self._store_problem:
            checks["mongodb"]["problem"] = self._store_problem
        if self._letters_problem:
            waiting = {"problem": self._letters_problem, "waiting_seconds": self._seconds_letters_wait}
            checks["dead_letters"] |= waiting
        for part in self._missing or ():
            checks[part]["problem"] = MISSING
        status = "ok" if self.ready else "unavailable"
        return {
            "status": status,
            "version": VERSION,
            "commit": commit(),
            "seconds_since_progress": self.idle_seconds,
            "checks": checks,
        }

    def show_in(self, metrics: ConsumerMetrics) -> None:
        """Let each scrape see the current state, even while the loop hangs."""
        metrics.progress_age.set_function(lambda: self.idle_seconds)
        metrics.dependency_up.labels("kafka").set_function(lambda: self._in_group if self._kafka_tried else math.nan)
        metrics.dependency_up.labels("mongodb").set_function(lambda: self._store_up)
        metrics.dependency_up.labels("dead_letters").set_function(
            lambda: math.nan if self._letters_up is None else self._letters_up
        )

    def _kafka_status(self, age: float | None) -> str:
        if not self._kafka_tried:
            return "not tried yet"
        if age is None or not self._in_group:
            return "down"
        return "up" if age < _STALLED_SECONDS else "stalled"

    @property
    def _in_group(self) -> bool:
        """Whether the group assigned partitions and the consumer polls them."""
        polling = self._polled_at is not None and self._clock() - self._polled_at < _STALE_SECONDS
        return polling and self._partitions is not None and "kafka" not in (self._missing or ())

    @property
    def _letters_up(self) -> bool | None:
        """Whether the dead letter topic exists and has all letters; None before the first check."""
        if self._letters_problem is not None:
            return False
        return None if self._missing is None else "dead_letters" not in self._missing

    @property
    def _seconds_letters_wait(self) -> float:
        return round(self._clock() - self._letters_wait_since, 1)


def serve(
    address: Address,
    health: Health,
    registry: CollectorRegistry,
    on_death: Callable[[], None] = lambda: os._exit(1),
) -> None:
    """Answer probes and scrapes from a separate thread until the process ends; raises OSError (port in use).

    `on_death` is called, in that thread, if it dies.
    """
    metrics_app = make_wsgi_app(registry)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        match environ.get("PATH_INFO"):
            case "/metrics":
                answer: Iterable[bytes] = metrics_app(environ, start_response)
                return answer
            case "/health":
                return _answer(start_response, _OK if health.ready else _UNAVAILABLE, health.report())
            case "/health/ready":
                return _probe(start_response, good=health.ready)
            case "/health/live":
                return _probe(start_response, good=health.alive)
        return _answer(start_response, "404 Not Found", {"status": "error", "message": _PATHS})

    bound = address.to_bind()
    server = make_server(bound.host, bound.port, app, _server_of(bound.family), handler_class=_QuietHandler)
    start_thread("health", server.serve_forever, on_death)


def _up(up: bool) -> str:
    return "up" if up else "down"


def _probe(start_response: StartResponse, *, good: bool) -> list[bytes]:
    body = {"status": "ok" if good else "unavailable"}
    return _answer(start_response, _OK if good else _UNAVAILABLE, body)


def _answer(start_response: StartResponse, status: str, body: dict[str, Any]) -> list[bytes]:
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps(body).encode() + b"\n"]


def _server_of(family: socket.AddressFamily) -> type[ThreadingWSGIServer]:
    class Server(ThreadingWSGIServer):
        address_family = family

    return Server


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Do not log each probe and scrape."""
