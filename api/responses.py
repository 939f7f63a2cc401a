"""The API's answers, with one JSON form for all errors."""

import json
import logging
import random
from collections.abc import Mapping
from typing import Any

import msgspec
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from api.faults import Faults, told
from api.protocols.paths import is_for_sdks
from api.refusals import Refusals
from common.errors import InvalidEventError, QueueFullError, RateError
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
    429: "crowded",
    503: "crowded",
}
_LONGEST_WAIT_SECONDS = 10

REFUSED = "pulse.refused"
"""The key in a request's environ for the reason of its refusal, for the log line."""

logger = logging.getLogger(__name__)


def accepted_answer(**document: Any) -> Response:
    """202 with this document as JSON. It may contain a client's strings only if they are storable."""
    return Response(_ENCODER.encode(document) + b"\n", 202, mimetype="application/json")


def error_body(message: str, errors: Mapping[Any, Any], request_id: str | None, *, path: str, reason: str) -> bytes:
    """An error's JSON. `message` is one line; `errors` are marshmallow's messages by field.

    On the paths of SDKs it also has the fields that they expect: without a `code` some take a 400 for an outage.
    """
    form: dict[str, Any] = {"status": "error", "message": message, "errors": errors, "request_id": request_id}
    if is_for_sdks(path):
        form |= {"success": False, "code": reason}
    return json.dumps(form, separators=(",", ":")).encode() + b"\n"


def reason_of(status: int) -> str:
    """The metric's reason for a refusal with this HTTP status."""
    return _REASONS.get(status, "other")


def spread_wait() -> int:
    """The seconds that an SDK must wait: random, or all clients would return at the same time."""
    return random.randint(1, _LONGEST_WAIT_SECONDS)  # noqa: S311, it guards nothing


def error_answer(status: int, reason: str, message: str, errors: Mapping[Any, Any] | None = None) -> Response:
    """An error as the answer to the current request."""
    body = error_body(message, errors or {}, request_id.get(), path=request.path, reason=reason)
    return Response(body, status, mimetype="application/json")


def answer_errors(app: Flask, metrics: ApiMetrics, faults: Faults, refusals: Refusals) -> None:
    """Register an answer for every error of the app: our own, HTTP's, and unexpected ones."""

    def ask_to_wait(status: int, reason: str, error: QueueFullError | RateError) -> Response:
        metrics.rejected.labels(reason).inc()
        request.environ[REFUSED] = reason
        waiting = error_answer(status, reason, str(error))
        waiting.headers["Retry-After"] = str(error.retry_after)
        return waiting

    @app.errorhandler(InvalidEventError)
    def invalid(error: InvalidEventError) -> Response:
        faults.note(error)
        refusals.keep_invalid(error)
        metrics.rejected.labels("invalid").inc()
        return error_answer(400, "invalid", str(error), told(error.errors))

    @app.errorhandler(QueueFullError)
    def full(error: QueueFullError) -> Response:
        if is_for_sdks(request.path):
            return ask_to_wait(429, error.reason, QueueFullError(error.reason, spread_wait()))
        return ask_to_wait(503, error.reason, error)

    @app.errorhandler(RateError)
    def throttled(error: RateError) -> Response:
        metrics.throttled.labels(error.key).inc()
        if is_for_sdks(request.path):
            error = RateError(error.key, error.rate, error.retry_after - 1 + spread_wait())
        return ask_to_wait(429, "throttled", error)

    @app.errorhandler(HTTPException)
    def http(error: HTTPException) -> Response:
        code = error.code or 500
        reason, message = reason_of(code), _message(error)
        metrics.rejected.labels(reason).inc()
        if request.method == "POST" and code < 500:
            refusals.keep(code, reason, message=message)
        answer = error_answer(code, reason, message)
        # For example Allow for a 405.
        answer.headers.extend(
            (name, value) for name, value in error.get_headers() if name not in {"Content-Type", "Content-Length"}
        )
        return answer

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        logger.error("unexpected error", exc_info=error)
        return error_answer(500, "our_fault", "Something went wrong on our side; the log has it under this request_id.")


def _message(error: HTTPException) -> str:
    match error:
        case NotFound():
            return _NOTHING_HERE
        case MethodNotAllowed():
            methods = sorted({*(error.valid_methods or ())} - {"OPTIONS"})
            return f"This path takes {' or '.join(methods)}."
    return error.description or error.name
