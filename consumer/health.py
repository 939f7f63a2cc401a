"""What the consumer says of itself over HTTP: /health for people and probes, /metrics for Prometheus."""

import json
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from common.settings import Address

_STALE_SECONDS = 60.0


class Health:
    """The state of the parts: told by the loop's thread, read by the server's."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._polled_at: float | None = None
        self._partitions: frozenset[int] | None = None
        self._store_up = False

    def polled(self) -> None:
        """The loop went round."""
        self._polled_at = self._clock()

    def assigned(self, partitions: frozenset[int]) -> None:
        """The group gave this member its partitions."""
        self._partitions = partitions

    def store(self, *, up: bool) -> None:
        """MongoDB took the last write, or did not."""
        self._store_up = up

    def report(self) -> tuple[bool, dict[str, Any]]:
        """Whether all is well, and the answer to GET /health."""
        age = None if self._polled_at is None else round(self._clock() - self._polled_at, 1)
        polling = age is not None and age < _STALE_SECONDS
        good = polling and self._store_up and self._partitions is not None
        checks = {
            "kafka": {
                "status": "up" if polling and self._partitions is not None else "down",
                "partitions": sorted(self._partitions or ()),
                "seconds_since_poll": age,
            },
            "mongodb": {"status": "up" if self._store_up else "down"},
        }
        return good, {"status": "ok" if good else "unavailable", "checks": checks}


def serve(address: Address, health: Health, registry: CollectorRegistry) -> None:
    """Answer /health and /metrics from a thread of its own until the process ends; raises OSError (port in use)."""
    metrics_app = make_wsgi_app(registry)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO")
        if path == "/metrics":
            answer: Iterable[bytes] = metrics_app(environ, start_response)
            return answer
        if path == "/health":
            good, report = health.report()
            return _answer(start_response, "200 OK" if good else "503 Service Unavailable", report)
        return _answer(
            start_response, "404 Not Found", {"status": "error", "message": "There are /health and /metrics."}
        )

    server = make_server(address.host, address.port, app, ThreadingWSGIServer, handler_class=_QuietHandler)
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()


def _answer(start_response: StartResponse, status: str, body: dict[str, Any]) -> list[bytes]:
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps(body).encode() + b"\n"]


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Probes and scrapes are not worth a line each."""
