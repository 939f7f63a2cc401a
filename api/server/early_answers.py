"""Answers to requests that never reach the app (malformed or incomplete), in the same form as all others."""

import logging
import re
from http import HTTPStatus
from typing import NamedTuple

from gunicorn.http import errors

from api.auth import Cors
from api.protocols.paths import is_for_sdks
from api.responses import error_body, spread_wait
from api.server.connection import EndlessBodyError, EndlessHeadError

# For requests that gunicorn has not parsed completely.
_PATH = re.compile(rb"\S+ ([!->@-~]+)")
_ORIGIN = re.compile(rb"\r\norigin:[ \t]*([!-~]+)[ \t]*\r\n", re.IGNORECASE)

logger = logging.getLogger(__name__)


class Refusal(NamedTuple):
    """A status with its message, and the seconds until the client may try again, if known."""

    status: HTTPStatus
    message: str
    retry_after: int | None = None


SLOW = Refusal(HTTPStatus.REQUEST_TIMEOUT, "The request did not arrive in time: send it again, all of it at once.")
CROWDED = Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "Server busy receiving other requests", 1)
ENDLESS = Refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The headers are too many or too long.")
OUR_FAULT = Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "Something went wrong on our side.")
NO_HTTP = Refusal(HTTPStatus.BAD_REQUEST, "Malformed HTTP request.")
# The first match counts, so base classes come last.
_OF_ERRORS: dict[type[Exception], Refusal] = {
    EndlessHeadError: ENDLESS,
    EndlessBodyError: Refusal(HTTPStatus.BAD_REQUEST, "The body has too many chunks, or too much framing around them."),
    errors.InvalidResponseHeader: OUR_FAULT,
    errors.InvalidResponseHeaderName: OUR_FAULT,
    errors.LimitRequestLine: Refusal(HTTPStatus.REQUEST_URI_TOO_LONG, "The URL is too long."),
    errors.LimitRequestHeaders: ENDLESS,
    errors.ExpectationFailed: Refusal(
        HTTPStatus.EXPECTATION_FAILED, "The only Expect that can be met is 100-continue."
    ),
    errors.UnsupportedTransferCoding: Refusal(
        HTTPStatus.NOT_IMPLEMENTED, "The only Transfer-Encoding that is understood is chunked."
    ),
    errors.ParseException: NO_HTTP,
    errors.NoMoreData: NO_HTTP,
}


def of_error(error: Exception) -> Refusal:
    """The refusal for this error."""
    return next((refusal for kind, refusal in _OF_ERRORS.items() if isinstance(error, kind)), OUR_FAULT)


def for_path(refusal: Refusal, path: str) -> Refusal:
    """The refusal for clients of this path: SDKs wait only after a 429, and get random waits."""
    if refusal.status == HTTPStatus.SERVICE_UNAVAILABLE and is_for_sdks(path):
        return refusal._replace(status=HTTPStatus.TOO_MANY_REQUESTS, retry_after=spread_wait())
    return refusal


def path_of(request_head: bytes) -> str:
    """The path in the received part of a request's head, without the query, which can contain a key."""
    found = _PATH.match(request_head)
    return found[1].decode("latin-1") if found else ""


def answer(refusal: Refusal, request_head: bytes, reason: str, cors: Cors, request_id: str) -> bytes:
    """The complete answer, in the form of the app's errors; logs it.

    `request_head`: the received part. The answer has the same CORS headers as the app's.
    """
    # Log no part of the request: its head can contain a key.
    logger.info("a request was refused before the app", extra={"status": refusal.status, "request_id": request_id})
    path = path_of(request_head)
    message = refusal.message
    if refusal.retry_after is not None:
        message += f"; try again in {refusal.retry_after} s."
    body = error_body(message, {}, request_id, path=path, reason=reason)
    origin = _ORIGIN.search(request_head)
    head = [
        f"HTTP/1.1 {refusal.status} {refusal.status.phrase}",
        "Connection: close",
        f"X-Request-ID: {request_id}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *map(": ".join, cors.headers(path, origin[1].decode("latin-1") if origin else "")),
    ]
    if refusal.retry_after is not None:
        head.append(f"Retry-After: {refusal.retry_after}")
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body
