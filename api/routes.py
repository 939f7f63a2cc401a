"""Requests in: the two routes that take events."""

import logging
from datetime import UTC, datetime

from flask import Blueprint, Response, jsonify

from api.body import read_body
from api.event_queue import EventQueue
from api.intake import AcceptedEvent, accept_batch, accept_event
from common.events import MAX_BATCH_BYTES, MAX_EVENT_BYTES
from common.metrics import ApiMetrics

logger = logging.getLogger(__name__)


def track_routes(queue: EventQueue, metrics: ApiMetrics) -> Blueprint:
    """The routes that put events into the queue. They raise what `responses` answers."""
    routes = Blueprint("track", __name__, url_prefix="/api/v1")

    @routes.post("/track")
    def track() -> tuple[Response, int]:
        event = accept_event(read_body(MAX_EVENT_BYTES), datetime.now(UTC))
        keep([event])
        logger.debug("event accepted", extra={"event_id": event.event_id})
        return jsonify(status="accepted", event_id=event.event_id), 202

    @routes.post("/track/batch")
    def track_batch() -> tuple[Response, int]:
        batch = accept_batch(read_body(MAX_BATCH_BYTES), datetime.now(UTC))
        keep(batch)
        ids = [event.event_id for event in batch]
        logger.debug("batch accepted", extra={"events": len(ids)})
        return jsonify(status="accepted", count=len(ids), event_ids=ids), 202

    def keep(accepted: list[AcceptedEvent]) -> None:
        queue.put(accepted)
        for event in accepted:
            metrics.events_accepted.labels(event.event_type).inc()

    return routes
