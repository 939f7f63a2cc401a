"""Answers given before the app sees anything, to what is not HTTP or does not arrive: in the form of all others."""

import logging
import re
from http import HTTPStatus
from typing import NamedTuple

from gunicorn.http import errors

from api.auth import cors_headers
from api.responses import error_body
from api.server.connection import EndlessBodyError, EndlessHeadError

# Of a request that gunicorn has not read, or not to its end.
_TO_API = re.compile(rb"\S+ /api/")
_ORIGIN = re.compile(rb"\r\norigin:[ \t]*([!-~]+)[ \t]*\r\n", re.IGNORECASE)

logger = logging.getLogger(__name__)


class Refusal(NamedTuple):
    """A status and what to say with it."""

    status: HTTPStatus
    message: str


SLOW = Refusal(HTTPStatus.REQUEST_TIMEOUT, "The request did not arrive in time: send it again, all of it at once.")
CROWDED = Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "Too much is on its way in; try again in 1 s.")
ENDLESS = Refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The headers are too many or too long.")
OUR_FAULT = Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "Something went wrong on our side.")
NO_HTTP = Refusal(HTTPStatus.BAD_REQUEST, "This is not proper HTTP.")
# The first that fits counts: the last is the base of those before it.
_OF_ERRORS: dict[type[Exception], Refusal] = {
    EndlessHeadError: ENDLESS,
    EndlessBodyError: Refusal(
        HTTPStatus.BAD_REQUEST, "The body comes in too many chunks, or with too much around them."
    ),
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
    """The answer to a request that ended in this error."""
    return next((refusal for kind, refusal in _OF_ERRORS.items() if isinstance(error, kind)), OUR_FAULT)


def answer(refusal: Refusal, request_head: bytes, origins: frozenset[str], request_id: str) -> bytes:
    """All of the answer, in the form of the app's errors; logs it.

    `request_head`: as far as it is here. Pages of `origins` may read the answer, as they may read the app's.
    """
    # Nothing of the request: its head can hold a key.
    logger.info("a request was refused before the app", extra={"status": refusal.status, "request_id": request_id})
    body = error_body(refusal.message, {}, request_id)
    head = [
        f"HTTP/1.1 {refusal.status} {refusal.status.phrase}",
        "Connection: close",
        f"X-Request-ID: {request_id}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    if _TO_API.match(request_head):
        origin = _ORIGIN.search(request_head)
        cors = cors_headers(origins, origin[1].decode("latin-1") if origin else "")
        head += [f"{name}: {value}" for name, value in cors]
    if refusal.status == HTTPStatus.SERVICE_UNAVAILABLE:
        head.append("Retry-After: 1")
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body
