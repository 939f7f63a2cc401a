"""What the consumer says of itself over HTTP: /health for people, its probes, and /metrics for Prometheus."""

import json
import os
import time
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from common.metrics import ConsumerMetrics
from common.settings import Address
from common.threads import start_thread

STUCK_SECONDS = 120.0
"""After so long without progress, only a restart can help."""
_STALE_SECONDS = 60.0
_STALLED_SECONDS = 15.0
"""A poll that takes so long is worth a word: Kafka, or what is done between two polls, hangs."""
_OK, _UNAVAILABLE = "200 OK", "503 Service Unavailable"
_PATHS = "There are /health, /health/live, /health/ready and /metrics."


class Health:
    """The state of the parts: told by the loop's thread, read by the server's."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._polled_at: float | None = None
        self._progressed_at = clock()
        self._partitions: frozenset[int] | None = None
        self._store_up = False

    def polled(self) -> None:
        """The loop went round."""
        self._polled_at = self._clock()

    def progressed(self) -> None:
        """Records moved, or there was nothing to move, or the server they go to is away."""
        self._progressed_at = self._clock()

    def assigned(self, partitions: frozenset[int]) -> None:
        """The group gave this member its partitions."""
        self._partitions = partitions

    def store(self, *, up: bool) -> None:
        """MongoDB took the last write and is there, or not."""
        self._store_up = up

    @property
    def idle_seconds(self) -> float:
        """How long ago the last progress was."""
        return round(self._clock() - self._progressed_at, 1)

    @property
    def alive(self) -> bool:
        """False when only a restart can help: MongoDB's or Kafka's absence is not that, a loop that hangs is."""
        return self.idle_seconds < STUCK_SECONDS

    @property
    def ready(self) -> bool:
        """Whether records move, or would if there were any."""
        return self._in_group and self._store_up

    def report(self) -> dict[str, Any]:
        """The answer to GET /health."""
        age = None if self._polled_at is None else round(self._clock() - self._polled_at, 1)
        checks = {
            "kafka": {
                "status": self._kafka_status(age),
                "partitions": sorted(self._partitions or ()),
                "seconds_since_poll": age,
            },
            "mongodb": {"status": "up" if self._store_up else "down"},
        }
        status = "ok" if self.ready else "unavailable"
        return {"status": status, "seconds_since_progress": self.idle_seconds, "checks": checks}

    def show_in(self, metrics: ConsumerMetrics) -> None:
        """Have each scrape see the state of that moment, when the loop hangs too."""
        metrics.progress_age.set_function(lambda: self.idle_seconds)
        metrics.dependency_up.labels("kafka").set_function(lambda: self._in_group)
        metrics.dependency_up.labels("mongodb").set_function(lambda: self._store_up)

    def _kafka_status(self, age: float | None) -> str:
        if age is None or not self._in_group:
            return "down"
        return "up" if age < _STALLED_SECONDS else "stalled"

    @property
    def _in_group(self) -> bool:
        """Whether the group gave this member its partitions and it polls them."""
        polling = self._polled_at is not None and self._clock() - self._polled_at < _STALE_SECONDS
        return polling and self._partitions is not None


def serve(
    address: Address,
    health: Health,
    registry: CollectorRegistry,
    on_death: Callable[[], None] = lambda: os._exit(1),
) -> None:
    """Answer probes and scrapes from a thread of its own until the process ends; raises OSError (port in use).

    `on_death` is called, in that thread, if it ends before.
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

    server = make_server(address.host, address.port, app, ThreadingWSGIServer, handler_class=_QuietHandler)
    start_thread("health", server.serve_forever, on_death)


def _probe(start_response: StartResponse, *, good: bool) -> list[bytes]:
    body = {"status": "ok" if good else "unavailable"}
    return _answer(start_response, _OK if good else _UNAVAILABLE, body)


def _answer(start_response: StartResponse, status: str, body: dict[str, Any]) -> list[bytes]:
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps(body).encode() + b"\n"]


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Probes and scrapes are not worth a line each."""
