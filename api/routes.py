"""Requests in: the two routes that take events."""

import logging
from datetime import UTC, datetime

from flask import Blueprint, Response, jsonify, request

from api.body import read_body
from api.event_queue import EventQueue
from api.intake import AcceptedEvent, accept_batch, accept_event, accept_partial_batch
from common.errors import InvalidEventError
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
        return jsonify(status="accepted", event_id=event.event_id), 202

    @routes.post("/track/batch")
    def track_batch() -> tuple[Response, int]:
        if _wants_partial():
            return track_partial_batch()
        batch = accept_batch(read_body(MAX_BATCH_BYTES), datetime.now(UTC))
        keep(batch)
        ids = [event.event_id for event in batch]
        return jsonify(status="accepted", count=len(ids), event_ids=ids), 202

    def track_partial_batch() -> tuple[Response, int]:
        accepted, errors = accept_partial_batch(read_body(MAX_BATCH_BYTES), datetime.now(UTC))
        keep(list(accepted.values()))
        if errors:
            metrics.validation_errors.inc()
        ids = [accepted[index].event_id if index in accepted else None for index in range(len(accepted) + len(errors))]
        return jsonify(status="accepted", count=len(accepted), event_ids=ids, rejected=errors), 202

    def keep(accepted: list[AcceptedEvent]) -> None:
        queue.put(accepted)
        for event in accepted:
            metrics.events_accepted.labels(event.event_type).inc()
        if logger.isEnabledFor(logging.DEBUG):
            for event in accepted:
                logger.debug("event accepted", extra={"event_id": event.event_id})

    return routes


def _wants_partial() -> bool:
    """Whether the right events of a batch shall be accepted when others are wrong."""
    sent = request.args.get("partial", "false").lower()
    if sent not in {"true", "false"}:
        raise InvalidEventError("partial: Must be true or false.", {"partial": ["Must be true or false."]})
    return sent == "true"
