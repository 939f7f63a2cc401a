"""A request's body: read whole, within its limit, or refused."""

from flask import request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, UnsupportedMediaType

# text/plain is what a browser's sendBeacon sends.
_MEDIA_TYPES = frozenset({"application/json", "text/plain"})


def read_body(limit: int) -> bytes:
    """The body of the current request; raises 413 past `limit` bytes, 415 for what is not plain JSON, 400 for a part.

    Blocks as long as the client takes to send it.
    """
    if request.mimetype not in _MEDIA_TYPES:
        raise UnsupportedMediaType("Content-Type must be application/json.")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("Content-Encoding is not supported: send the body as it is.")
    # A chunked body is cut off at this length without a word: only one byte more tells that it was too long.
    request.max_content_length = limit + 1
    try:
        body = request.get_data(cache=False)
    except RequestEntityTooLarge:
        raise _too_large(limit) from None
    except (ParseException, OSError):
        raise BadRequest("The body ended early or is not properly chunked.") from None
    if len(body) > limit:
        raise _too_large(limit)
    if len(body) < (request.content_length or 0):
        raise BadRequest("The body ended early: it is shorter than its Content-Length.")
    return body


def _too_large(limit: int) -> RequestEntityTooLarge:
    return RequestEntityTooLarge(f"The body may have at most {limit} bytes.")
