"""Answers given before the app sees anything, to what is no HTTP or does not arrive: in the form of all others."""

import contextlib
import logging
import socket
from http import HTTPStatus
from typing import NamedTuple

from gunicorn import util
from gunicorn.http import errors

from api.body import TOO_SLOW
from api.responses import error_body
from common.logs import new_request_id

logger = logging.getLogger(__name__)


class Refusal(NamedTuple):
    """A status and what to say with it."""

    status: HTTPStatus
    message: str


SLOW = Refusal(HTTPStatus.REQUEST_TIMEOUT, TOO_SLOW)
CROWDED = Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "Too much is on its way in; try again in 1 s.")
ENDLESS = Refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The headers are too many or too long.")
OUR_FAULT = Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "Something went wrong on our side.")
# The first that fits counts: the last is the base of those before it.
_OF_ERRORS: dict[type[Exception], Refusal] = {
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
    errors.ParseException: Refusal(HTTPStatus.BAD_REQUEST, "This is not proper HTTP."),
}


def of_error(error: Exception) -> Refusal:
    """The answer to a request that ended in this error."""
    return next((refusal for kind, refusal in _OF_ERRORS.items() if isinstance(error, kind)), OUR_FAULT)


def send(sock: socket.socket, refusal: Refusal) -> None:
    """Send it in the form of the app's errors. Does not wait for the client."""
    request_id = new_request_id()
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
    if refusal is CROWDED:
        head.append("Retry-After: 1")
    # A client may be gone.
    with contextlib.suppress(OSError):
        util.write_nonblock(sock, "\r\n".join(head).encode() + b"\r\n\r\n" + body)
