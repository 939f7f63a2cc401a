"""Reads a request's body, within its limit, or refuses it."""

import zlib

from flask import g, request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import (
    BadRequest,
    LengthRequired,
    RequestEntityTooLarge,
    UnsupportedMediaType,
)

# A browser's sendBeacon sends text/plain.
_MEDIA_TYPES = frozenset({"application/json", "text/plain"})
GZIP = b"\x1f\x8b"
"""The first bytes of every gzip body; JSON never begins with them."""
_NO_GZIP = "The body is not valid gzip, or it ended early."
_ONE_GZIP_MEMBER = 16 + zlib.MAX_WBITS
_PIECE_BYTES = 64 * 1024


class _UnsupportedEncoding(UnsupportedMediaType):
    """415 that names the accepted encoding, as RFC 9110 requires."""

    description = "Content-Encoding must be gzip, or left out."

    def get_headers(self, *args: object) -> list[tuple[str, str]]:
        return [*super().get_headers(*args), ("Accept-Encoding", "gzip")]  # type: ignore[arg-type]


def read_body(limit: int) -> bytes:
    """The body of the current request, decompressed; raises an HTTPException if it is missing or invalid.

    `limit`: the maximum of bytes, both as sent and decompressed. Does not block: the server has collected the body.
    """
    _check_length()
    if request.mimetype not in _MEDIA_TYPES:
        raise UnsupportedMediaType("Content-Type must be application/json.")
    zipped = _encoding() != "identity"
    return _unzipped(_read(limit), limit, zipped=zipped)


def read_body_of_any_type(limit: int) -> bytes:
    """As `read_body`, for any Content-Type; decompresses gzip even if no header declares it."""
    _check_length()
    _encoding()
    body = _read(limit)
    return _unzipped(body, limit, zipped=body.startswith(GZIP))


def _unzipped(body: bytes, limit: int, *, zipped: bool) -> bytes:
    # Kept even if decompression fails: the record of a refused request shows it.
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
        # One byte more reveals that a chunked body is too long.
        body: bytes = request.environ["wsgi.input"].read(limit + 1)
    except (ParseException, OSError):
        raise BadRequest("The body ended early or its chunks are invalid.") from None
    if len(body) > limit:
        raise _too_large(limit)
    if len(body) < announced:
        raise BadRequest("The body ended early: it is shorter than its Content-Length.")
    return body


def _unzip(body: bytes, limit: int) -> bytes:
    """Decompresses no more than the limit, and stops at a poor ratio: a MiB of empty blocks costs 0.2 s."""
    inflate = zlib.decompressobj(_ONE_GZIP_MEMBER)
    unzipped = bytearray()
    read = 0
    while not inflate.eof:
        piece = body[read : read + _PIECE_BYTES]
        if not piece:
            raise BadRequest(_NO_GZIP)
        if read > _PIECE_BYTES + 2 * len(unzipped):
            raise BadRequest("The body is much larger than its contents: send it without gzip.")
        try:
            unzipped += inflate.decompress(piece, limit + 1 - len(unzipped))
        except zlib.error:
            raise BadRequest(_NO_GZIP) from None
        if len(unzipped) > limit:
            raise _too_large(limit, " when decompressed")
        read += len(piece)
    if inflate.unused_data or read < len(body):
        raise BadRequest("The body must be one gzip member, and nothing after it.")
    return bytes(unzipped)


def _too_large(limit: int, when: str = "") -> RequestEntityTooLarge:
    return RequestEntityTooLarge(f"The body may have at most {limit} bytes{when}.")
