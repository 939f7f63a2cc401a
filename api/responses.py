"""Answers out: the one JSON form of an error, whatever went wrong."""

import json
import logging
from collections.abc import Mapping
from typing import Any

import msgspec
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from api.faults import Faults, told
from api.refusals import Refusals
from common.errors import InvalidEventError, QueueFullError
from common.logs import request_id
from common.metrics import ApiMetrics

_NOTHING_HERE = (
    "There is nothing here. Events go to POST /api/v1/track and POST /api/v1/track/batch; /docs describes them."
)

_ENCODER = msgspec.json.Encoder()
_REASONS = {
    400: "unreadable",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    411: "no_length",
    413: "too_large",
    415: "unsupported_type",
    503: "crowded",
}

REFUSED = "pulse.refused"
"""Where a request's environ says why it was refused, for its line in the log."""

logger = logging.getLogger(__name__)


def accepted_answer(**document: Any) -> Response:
    """202 with this as JSON. What a client made up may be in it only if it can be stored."""
    return Response(_ENCODER.encode(document) + b"\n", 202, mimetype="application/json")


def error_body(message: str, errors: Mapping[Any, Any], request_id: str | None) -> bytes:
    """An error's JSON as clients get it. `message` is one line; `errors` are marshmallow's messages by field."""
    form = {"status": "error", "message": message, "errors": errors, "request_id": request_id}
    return json.dumps(form, separators=(",", ":")).encode() + b"\n"


def error_answer(status: int, message: str, errors: Mapping[Any, Any] | None = None) -> Response:
    """An error as the answer to the current request."""
    return Response(error_body(message, errors or {}, request_id.get()), status, mimetype="application/json")


def count_rejected(metrics: ApiMetrics, status: int) -> str:
    """Count a request that was refused with one of HTTP's own errors; returns the reason, as the metric calls it."""
    reason = _REASONS.get(status, "other")
    metrics.rejected.labels(reason).inc()
    return reason


def answer_errors(app: Flask, metrics: ApiMetrics, faults: Faults, refusals: Refusals) -> None:
    """Give every error of the app an answer: ours, HTTP's own, and those nobody expected."""

    @app.errorhandler(InvalidEventError)
    def invalid(error: InvalidEventError) -> Response:
        faults.note(error)
        refusals.keep_invalid(error)
        metrics.rejected.labels("invalid").inc()
        return error_answer(400, str(error), told(error.errors))

    @app.errorhandler(QueueFullError)
    def full(error: QueueFullError) -> Response:
        metrics.rejected.labels(error.reason).inc()
        request.environ[REFUSED] = error.reason
        answer = error_answer(503, str(error))
        answer.headers["Retry-After"] = str(error.retry_after)
        return answer

    @app.errorhandler(HTTPException)
    def http(error: HTTPException) -> Response:
        code = error.code or 500
        reason = count_rejected(metrics, code)
        message = _message(error)
        if request.method == "POST" and code < 500:
            refusals.keep(code, reason, message=message)
        answer = error_answer(code, message)
        # Such as Allow of a 405.
        answer.headers.extend(
            (name, value) for name, value in error.get_headers() if name not in {"Content-Type", "Content-Length"}
        )
        return answer

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        logger.error("unexpected error", exc_info=error)
        return error_answer(500, "Something went wrong on our side; the log has it under this request_id.")


def _message(error: HTTPException) -> str:
    match error:
        case NotFound():
            return _NOTHING_HERE
        case MethodNotAllowed():
            methods = sorted({*(error.valid_methods or ())} - {"OPTIONS"})
            return f"This path takes {' or '.join(methods)}."
    return error.description or error.name
