"""A request's body: read whole, within its limit, or refused."""

import zlib

from flask import g, request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import (
    BadRequest,
    LengthRequired,
    RequestEntityTooLarge,
    UnsupportedMediaType,
)

# text/plain is what a browser's sendBeacon sends.
_MEDIA_TYPES = frozenset({"application/json", "text/plain"})
GZIP = b"\x1f\x8b"
"""How all of gzip begins, and no JSON."""
_NO_GZIP = "The body is not proper gzip, or it ended early."
_ONE_GZIP_MEMBER = 16 + zlib.MAX_WBITS
_PIECE_BYTES = 64 * 1024


class _UnsupportedEncoding(UnsupportedMediaType):
    """415 that says which encoding is taken, as RFC 9110 wants it."""

    description = "Content-Encoding must be gzip, or left out."

    def get_headers(self, *args: object) -> list[tuple[str, str]]:
        return [*super().get_headers(*args), ("Accept-Encoding", "gzip")]  # type: ignore[arg-type]


def read_body(limit: int) -> bytes:
    """The body of the current request, unzipped; raises one of HTTP's errors when it is not there as it should be.

    `limit` bytes are allowed, both as sent and unzipped. Does not block: the server has collected the body.
    """
    _check_length()
    if request.mimetype not in _MEDIA_TYPES:
        raise UnsupportedMediaType("Content-Type must be application/json.")
    zipped = _encoding() != "identity"
    return _unzipped(_read(limit), limit, zipped=zipped)


def read_body_of_any_type(limit: int) -> bytes:
    """As `read_body`, whatever the Content-Type says; it is unzipped if it is zipped, whether or not it says so."""
    _check_length()
    _encoding()
    body = _read(limit)
    return _unzipped(body, limit, zipped=body.startswith(GZIP))


def _unzipped(body: bytes, limit: int, *, zipped: bool) -> bytes:
    # Whatever becomes of it: who looks into what was refused wants to see it.
    g.body = body
    if zipped:
        g.body = body = _unzip(body, limit)
    return body


def _check_length() -> None:
    if request.content_length is None and "Transfer-Encoding" not in request.headers:
        raise LengthRequired("The request needs a body, and a Content-Length that says how long it is.")


def _encoding() -> str:
    encoding = request.headers.get("Content-Encoding", "identity").lower()
    if encoding not in {"identity", "gzip", "x-gzip"}:
        raise _UnsupportedEncoding
    return encoding


def _read(limit: int) -> bytes:
    announced = request.content_length or 0
    if announced > limit:
        raise _too_large(limit)
    try:
        # One byte more tells that a chunked body is too long.
        body: bytes = request.environ["wsgi.input"].read(limit + 1)
    except (ParseException, OSError):
        raise BadRequest("The body ended early or is not properly chunked.") from None
    if len(body) > limit:
        raise _too_large(limit)
    if len(body) < announced:
        raise BadRequest("The body ended early: it is shorter than its Content-Length.")
    return body


def _unzip(body: bytes, limit: int) -> bytes:
    """Inflates no more than is allowed, and reads no more than can be worth it: a MiB of empty blocks costs 0.2 s."""
    inflate = zlib.decompressobj(_ONE_GZIP_MEMBER)
    unzipped = bytearray()
    read = 0
    while not inflate.eof:
        piece = body[read : read + _PIECE_BYTES]
        if not piece:
            raise BadRequest(_NO_GZIP)
        if read > _PIECE_BYTES + 2 * len(unzipped):
            raise BadRequest("The body is much larger zipped than it is unzipped: send it as it is.")
        try:
            unzipped += inflate.decompress(piece, limit + 1 - len(unzipped))
        except zlib.error:
            raise BadRequest(_NO_GZIP) from None
        if len(unzipped) > limit:
            raise _too_large(limit, " when unzipped")
        read += len(piece)
    if inflate.unused_data or read < len(body):
        raise BadRequest("The body has to be one member of gzip, and nothing after it.")
    return bytes(unzipped)


def _too_large(limit: int, when: str = "") -> RequestEntityTooLarge:
    return RequestEntityTooLarge(f"The body may have at most {limit} bytes{when}.")
