"""The two routes that accept events."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime

from flask import Blueprint, Response, g, jsonify, request

from api.body import read_body
from api.event_queue import EventQueue
from api.faults import Faults, told
from api.intake import AcceptedEvent, Receipt, accept_batch, accept_event, accept_partial_batch
from api.refusals import Refusals
from api.responses import accepted_answer
from common.errors import Fault, InvalidEventError
from common.event_json import invalid_batch
from common.events import MAX_BATCH_BYTES, MAX_EVENT_BYTES

logger = logging.getLogger(__name__)


def track_routes(queue: EventQueue, faults: Faults, refusals: Refusals) -> Blueprint:
    """The routes that put events into the queue. They raise the errors that `responses` answers."""
    routes = Blueprint("track", __name__, url_prefix="/api/v1")

    @routes.post("/track")
    def track() -> Response:
        event = accept_event(read_body(MAX_EVENT_BYTES), receipt())
        keep(queue, [event])
        return accepted_answer(status="accepted", event_id=event.event_id)

    @routes.post("/track/batch")
    def track_batch() -> Response | tuple[Response, int]:
        if _wants_partial():
            return track_partial_batch()
        batch = accept_batch(read_body(MAX_BATCH_BYTES), receipt())
        keep(queue, batch)
        ids = [event.event_id for event in batch]
        return accepted_answer(status="accepted", count=len(ids), event_ids=ids)

    def track_partial_batch() -> tuple[Response, int]:
        accepted, errors = accept_partial_batch(read_body(MAX_BATCH_BYTES), receipt())
        keep(queue, list(accepted.values()))
        if errors:
            error = invalid_batch(errors)
            faults.note(error)
            refusals.keep_invalid(error)
        ids = [accepted[index].event_id if index in accepted else None for index in range(len(accepted) + len(errors))]
        return jsonify(status="accepted", count=len(accepted), event_ids=ids, rejected=told(errors)), 202

    return routes


def receipt() -> Receipt:
    """The API's own fields for the events of the current request."""
    return Receipt(datetime.now(UTC), g.get("source"), g.get("protocol", "pulse"))


def keep(queue: EventQueue, accepted: Sequence[AcceptedEvent]) -> None:
    """Keep the events of the current request; raises QueueFullError if there is no room for them."""
    queue.put(accepted)
    if "holder" in g:
        g.holder.spend(len(accepted))
    if logger.isEnabledFor(logging.DEBUG):
        for event in accepted:
            logger.debug("event accepted", extra={"event_id": event.event_id})


def _wants_partial() -> bool:
    """Whether to accept the valid events of a batch if others are invalid."""
    sent = request.args.get("partial", "false").lower()
    if sent not in {"true", "false"}:
        wrong = Fault("choice", "Must be true or false.")
        raise InvalidEventError(f"partial: {wrong}", {"partial": [wrong]})
    return sent == "true"
