"""Requests in: the two routes that take events."""

import logging
from datetime import UTC, datetime

from flask import Blueprint, Response, jsonify, request
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType

from api.event_queue import EventQueue
from api.intake import AcceptedEvent, accept_batch, accept_event
from common.events import MAX_BATCH_BYTES, MAX_EVENT_BYTES
from common.metrics import ApiMetrics

logger = logging.getLogger(__name__)

# text/plain is what a browser's sendBeacon sends.
_MEDIA_TYPES = frozenset({"application/json", "text/plain"})


def track_routes(queue: EventQueue, metrics: ApiMetrics) -> Blueprint:
    """The routes that put events into the queue. They raise what `responses` answers."""
    routes = Blueprint("track", __name__, url_prefix="/api/v1")

    @routes.post("/track")
    def track() -> tuple[Response, int]:
        event = accept_event(_body(MAX_EVENT_BYTES), datetime.now(UTC))
        keep([event])
        logger.debug("event accepted", extra={"event_id": event.event_id})
        return jsonify(status="accepted", event_id=event.event_id), 202

    @routes.post("/track/batch")
    def track_batch() -> tuple[Response, int]:
        batch = accept_batch(_body(MAX_BATCH_BYTES), datetime.now(UTC))
        keep(batch)
        ids = [event.event_id for event in batch]
        logger.debug("batch accepted", extra={"events": len(ids)})
        return jsonify(status="accepted", count=len(ids), event_ids=ids), 202

    def keep(accepted: list[AcceptedEvent]) -> None:
        queue.put(accepted)
        for event in accepted:
            metrics.events_accepted.labels(event.event_type).inc()

    return routes


def _body(limit: int) -> bytes:
    """The request's body; raises 413 past `limit` bytes and 415 for what is not plain JSON."""
    if request.mimetype not in _MEDIA_TYPES:
        raise UnsupportedMediaType("Content-Type must be application/json.")
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise UnsupportedMediaType("Content-Encoding is not supported: send the body as it is.")
    request.max_content_length = limit
    try:
        return request.get_data(cache=False)
    except RequestEntityTooLarge:
        raise RequestEntityTooLarge(f"The body may have at most {limit} bytes.") from None
