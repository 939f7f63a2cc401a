"""Probes: whether events can be taken, and what state everything is in."""

from flask import Blueprint, Response, jsonify

from api.event_queue import EventQueue
from api.producer import Producer
from common import kafka
from common.settings import KafkaSettings


def health_routes(settings: KafkaSettings, queue: EventQueue, producer: Producer) -> Blueprint:
    """The three health routes. They tell of the worker that answers."""
    routes = Blueprint("health", __name__, url_prefix="/health")

    def can_take() -> bool:
        return producer.alive and queue.unacknowledged < queue.capacity

    @routes.get("")
    def health() -> tuple[Response, int]:
        """Blocks up to a second when no broker answers."""
        kafka_up = not producer.failing and kafka.reachable(settings)
        status = "unavailable" if not can_take() else "ok" if kafka_up else "degraded"
        checks = {
            "kafka": {"status": "up" if kafka_up else "down"},
            "queue": {
                "status": "up" if queue.unacknowledged < queue.capacity else "full",
                "events": queue.unacknowledged,
                "capacity": queue.capacity,
            },
            "producer": {"status": "up" if producer.alive else "down"},
        }
        return jsonify(status=status, checks=checks), 200 if can_take() else 503

    @routes.get("/live")
    def live() -> tuple[Response, int]:
        """Fails when only a restart can help."""
        return _probe(good=producer.alive)

    @routes.get("/ready")
    def ready() -> tuple[Response, int]:
        """Whether events can be taken; not whether Kafka is there."""
        return _probe(good=can_take())

    return routes


def _probe(*, good: bool) -> tuple[Response, int]:
    return jsonify(status="ok" if good else "unavailable"), 200 if good else 503
