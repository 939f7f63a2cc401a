"""A client's connection: the received part of its next request, and the unsent part of its answer.

It handles bytes, not sockets. gunicorn's parser interprets a request; this module only detects when it is complete.
"""

import io
import re
from typing import TYPE_CHECKING, Any

from gunicorn.http.body import LengthReader
from gunicorn.http.errors import ParseException, UnsupportedTransferCoding
from gunicorn.http.message import Request
from gunicorn.http.unreader import Unreader

from api.protocols.paths import most_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_HEAD_BYTES = 64 * 1024
CHUNKED_FOR_PLAIN = 2
"""The factor by which a chunked body, as sent, may be longer than a plain one."""
MAX_CHUNKS = 8192
"""The limit for a body: a chunk costs as much as a hundred bytes of events."""
MAX_CHUNK_LINES_BYTES = 64 * 1024
"""The limit for a body's chunk-size lines together: gunicorn parses each extension in them."""
MAX_TRAILER_BYTES = 64 * 1024

_HEAD_END = b"\r\n\r\n"
_LINE_END = b"\r\n"
_HEX_DIGITS = b"0123456789abcdefABCDEF"
_MOST_HEX_DIGITS = 16
_BARE_LF = re.compile(rb"(?<!\r)\n")


class Given(Unreader):  # type: ignore[misc]  # gunicorn has no types
    """Gives gunicorn's parser the received bytes, then the end of the input."""

    def chunk(self, size_hint: int | None = None) -> bytes:
        del size_hint
        return b""

    @property
    def empty(self) -> bool:
        """Whether the parser has consumed all bytes."""
        return not self.buf.getvalue()


class EndlessHeadError(Exception):
    """The head of a request is too long."""


class EndlessBodyError(Exception):
    """A chunked body is too long."""


class Connection:
    """One connection. `peer` and `own` are the addresses of its two ends."""

    __slots__ = (
        "_asked",
        "_chunk_lines",
        "_chunks",
        "_head",
        "_incoming",
        "_most_bytes",
        "_number",
        "_request",
        "_scanned",
        "_trailers_from",
        "_unreader",
        "began",
        "busy",
        "cfg",
        "deadline",
        "ended",
        "last",
        "least",
        "leaving",
        "out",
        "own",
        "peer",
        "rest",
        "sock",
        "watched",
        "whole",
    )

    def __init__(self, sock: Any, peer: Any, own: Any, cfg: Any) -> None:
        self.sock = sock
        self.peer = peer
        self.own = own
        self.cfg = cfg
        self._incoming = bytearray()
        self._head = b""
        self._most_bytes = 0
        self._scanned = 0
        self._chunks = 0
        self._chunk_lines = 0
        self._trailers_from = 0
        self._asked = False
        self._number = 0
        self._request: Any = None
        self._unreader = Given()
        self.began: float | None = None
        """The time of the incoming request's first byte, by the monotonic clock."""
        self.deadline = 0.0
        """The deadline for the next progress, by the same clock."""
        self.least = 1
        """The number of bytes that must arrive before the loop wakes up."""
        self.watched = 0
        """The selector events that the loop waits for."""
        self.whole = True
        """Whether the last request's body was complete."""
        self.out = b""
        """The bytes to send now."""
        self.rest: Iterator[bytes] | None = None
        """The following pieces, produced on demand."""
        self.last = False
        """Whether the connection ends after this answer."""
        self.busy = False
        """Whether a thread is producing the answer."""
        self.ended = False
        """Whether the client has closed its side."""
        self.leaving = False
        """Whether the API has closed its side."""

    @property
    def occupied(self) -> bool:
        """Whether an answer is in progress."""
        return self.busy or self.leaving or bool(self.out) or self.rest is not None

    @property
    def idle(self) -> bool:
        """Whether the connection is idle in both directions."""
        return not self.occupied and self.began is None

    @property
    def missing(self) -> int:
        """The number of missing bytes of the body if known; otherwise 1."""
        reader = self._request.body.reader if self._request is not None else None
        return reader.length - len(self._incoming) if isinstance(reader, LengthReader) else 1

    @property
    def held(self) -> int:
        """The number of received bytes that the app does not have yet."""
        return len(self._incoming)

    @property
    def head(self) -> bytes:
        """The head of the last request, even if incomplete or invalid."""
        return self._head or bytes(self._incoming[:MAX_HEAD_BYTES])

    def receive(self, data: bytes, now: float) -> None:
        """Add received data."""
        if self.began is None:
            self.began = now
            self._head = b""
        self._incoming += data

    def drop(self) -> None:
        """Discard the received data without an answer."""
        self._incoming.clear()
        self.rest = None

    def next_request(self) -> Any | None:
        """The next request with its whole body, as gunicorn parses it; None while it is incomplete.

        If the body is too long, or ended early, the request has only its received part: see `whole`. Raises
        EndlessHeadError, EndlessBodyError, and the errors of gunicorn's parser.
        """
        if self._request is None and not self._read_head():
            return None
        reader = self._request.body.reader
        if isinstance(reader, LengthReader):
            length: int | None = reader.length if reader.length <= self._most_bytes else 0
            self.whole = reader.length <= len(self._incoming)
            here = self.whole or length == 0
        else:
            length = self._end_of_chunks()
            self.whole = here = length is not None
        if not here and not self.ended:
            return None
        body = bytes(self._incoming[:length])
        del self._incoming[:length]
        self._scanned = 0
        request, self._request = self._request, None
        if isinstance(reader, LengthReader):
            # Replaces gunicorn's reader.
            request.body = io.BytesIO(body)
        else:
            self._unreader.unread(body)
        if not self._incoming:
            self.began = None
        return request

    def finish_body(self, request: Any) -> bool:
        """Whether gunicorn's end of the body is the start of the next request here."""
        if not self.whole or isinstance(request.body, io.BytesIO):
            return self.whole
        try:
            request.body.read()
        except (OSError, ParseException):
            return False
        return not request.body.failed and self._unreader.empty

    def wants_to_be_asked(self) -> bool:
        """Whether the client waits for 100 Continue before it sends the body. True once per request."""
        if self._request is None or self._asked or self._request.version < (1, 1):
            return False
        self._asked = any(name == "EXPECT" for name, _ in self._request.headers)
        return self._asked and not self._incoming

    def _read_head(self) -> bool:
        """Whether the head is complete; if so, sets `_request` to gunicorn's request."""
        end = self._incoming.find(_HEAD_END, self._scanned)
        if end < 0:
            if len(self._incoming) > MAX_HEAD_BYTES:
                raise EndlessHeadError
            if not _BARE_LF.search(self._incoming, self._scanned):
                # Only the last bytes can be the start of the end marker.
                self._scanned = max(0, len(self._incoming) - len(_HEAD_END) + 1)
                return False
            # gunicorn refuses this head in any case.
            end = len(self._incoming)
        elif end > MAX_HEAD_BYTES:
            raise EndlessHeadError
        self._scanned = self._chunks = self._chunk_lines = self._trailers_from = 0
        self._asked = False
        self._number += 1
        self._head = bytes(self._incoming[: end + len(_HEAD_END)])
        del self._incoming[: end + len(_HEAD_END)]
        self._unreader = Given()
        self._unreader.unread(self._head)
        request = Request(self.cfg, self._unreader, self.peer, self._number)
        codings = [value.strip().lower() for name, value in request.headers if name == "TRANSFER-ENCODING"]
        if codings and codings != ["chunked"]:
            # gunicorn accepts some codings that it does not decode.
            raise UnsupportedTransferCoding(codings)
        self._most_bytes = most_bytes(request.path)
        self._request = request
        return True

    def _end_of_chunks(self) -> int | None:
        """The length of the chunked body in bytes; None while it is incomplete. gunicorn reports invalid chunks.

        Scans each byte about once, however they arrive. Raises EndlessBodyError.
        """
        incoming = self._incoming
        while (end := incoming.find(_LINE_END, self._scanned, self._scanned + MAX_HEAD_BYTES)) >= 0:
            line = bytes(incoming[self._scanned : end])
            if self._chunk_lines + len(line) > MAX_CHUNK_LINES_BYTES:
                raise EndlessBodyError
            size = line.partition(b";")[0].strip(b" \t")
            if not size or size.strip(_HEX_DIGITS):
                return len(incoming)
            if len(size) > _MOST_HEX_DIGITS:
                raise EndlessBodyError
            length = int(size, 16)
            if length == 0:
                return self._end_of_trailers(end)
            next_chunk = end + len(_LINE_END) + length + len(_LINE_END)
            if next_chunk > CHUNKED_FOR_PLAIN * self._most_bytes or self._chunks == MAX_CHUNKS:
                raise EndlessBodyError
            if next_chunk > len(incoming):
                return None
            self._chunks += 1
            self._chunk_lines += len(line)
            self._scanned = next_chunk
        if len(incoming) - self._scanned > MAX_HEAD_BYTES:
            raise EndlessBodyError
        return None

    def _end_of_trailers(self, begin: int) -> int | None:
        """`begin`: where the line of the last chunk ends. The trailers, if any, end with an empty line."""
        end = self._incoming.find(_HEAD_END, max(begin, self._trailers_from))
        if end >= 0:
            return end + len(_HEAD_END)
        if len(self._incoming) - begin > MAX_TRAILER_BYTES:
            raise EndlessBodyError
        self._trailers_from = len(self._incoming) - len(_HEAD_END) + 1
        return None
