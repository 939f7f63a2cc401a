"""Probes: whether the API can accept events, and the state of each part."""

import math
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Response, jsonify

from api.delivery import Delivery
from common import kafka
from common.build_info import VERSION, commit
from common.settings import KafkaSettings

_LATELY_SECONDS = 1.0


def health_routes(settings: KafkaSettings, delivery: Delivery) -> Blueprint:
    """The three health routes. They report the state of the worker that answers."""
    routes = Blueprint("health", __name__, url_prefix="/health")
    reachable = Lately(lambda: kafka.reachable(settings))

    @routes.get("")
    def health() -> tuple[Response, int]:
        """Blocks up to a second when no broker answers."""
        kafka_up = not delivery.producer.failing and reachable()
        ready = delivery.can_take
        set_aside = delivery.set_aside()
        good = kafka_up and not set_aside and not delivery.unopened
        status = "unavailable" if not ready else "ok" if good else "degraded"
        queue = delivery.queue
        checks: dict[str, Any] = {
            "kafka": {"status": _up(kafka_up)},
            "producer": {"status": _up(delivery.producer.alive)},
            "queue": {"events": queue.in_memory, "capacity": queue.capacity},
            "journal": {"status": "off"},
        }
        if queue.journal is not None:
            checks["journal"] = {
                "status": queue.journal.state,
                "events": queue.journal.events,
                "bytes": queue.journal.used_bytes,
                "max_bytes": queue.journal.max_bytes,
                "set_aside": [{"file": str(aside.file), "events": aside.events} for aside in set_aside],
                "unopened": delivery.unopened,
            }
        oldest = queue.oldest()
        age = round((datetime.now(UTC) - oldest).total_seconds(), 1) if oldest else 0.0
        body = {
            "status": status,
            "version": VERSION,
            "commit": commit(),
            "oldest_unsent_seconds": age,
            "checks": checks,
        }
        return jsonify(body), 200 if ready else 503

    @routes.get("/live")
    def live() -> tuple[Response, int]:
        """Fails when only a restart can help."""
        return _probe(good=delivery.can_go_on)

    @routes.get("/ready")
    def ready() -> tuple[Response, int]:
        """Whether the API can accept events, independent of the state of Kafka."""
        return _probe(good=delivery.can_take)

    return routes


class Lately:
    """Caches an answer for a second, for any number of callers. Thread-safe."""

    def __init__(self, ask: Callable[[], bool], clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._lock = threading.Lock()
        self._answer = False
        self._asked_at = -math.inf

    def __call__(self) -> bool:
        """Blocks as the query does."""
        with self._lock:
            if self._clock() - self._asked_at >= _LATELY_SECONDS:
                self._answer = self._ask()
                self._asked_at = self._clock()
            return self._answer


def _up(good: bool) -> str:
    return "up" if good else "down"


def _probe(*, good: bool) -> tuple[Response, int]:
    return jsonify(status="ok" if good else "unavailable"), 200 if good else 503
