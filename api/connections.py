"""gunicorn's side of a request: a slow client holds no thread, and what is no HTTP gets an answer like all others."""

import contextlib
import logging
import math
import re
import resource
import select
import socket
import struct
import time
from typing import Any

from gunicorn.http.body import ChunkedReader
from gunicorn.http.errors import UnsupportedTransferCoding
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import _DEFER, ThreadWorker

from api import early_answers
from api.body import WastefulChunksError
from api.connection_counts import ConnectionCounts
from api.early_answers import Refusal
from api.responses import count_rejected
from common.events import MAX_BATCH_BYTES

logger = logging.getLogger(__name__)

REQUEST_SECONDS = 30.0
"""How long a client may take to send a request, from its first byte to its last. No thread waits for it."""

BODY_SECONDS = 5.0
"""How long a thread waits for what it has to ask or to look for: a body after `Expect`, the chunks of a body."""

_NAP_SECONDS = 0.0005
_NAPS_FOR_OTHERS = 20
_NO_NAPS_SECONDS = 0.1
_SEND_SECONDS = 10
_HANG_UP_SECONDS = 2.0
_NO_DESCRIPTOR_SECONDS = 0.05
_WARN_EVERY_SECONDS = 10.0
_OTHER_DESCRIPTORS = 100
_MOST_CHUNKS = 8 * 1024
_MOST_READ_BY_THREAD = 2 * MAX_BATCH_BYTES
_PIECE_BYTES = 64 * 1024
_PIECES_AT_ONCE = 16
_LONGEST_HEAD = 64 * 1024
_MOST_HELD_BYTES = 64 * 1024 * 1024
_HEAD_END = b"\r\n\r\n"
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,19})[ \t]*\r\n", re.IGNORECASE)
_READ_BY_THREAD = re.compile(rb"\r\n(?:transfer-encoding|expect):", re.IGNORECASE)


class Incoming:
    """A request on its way in."""

    def __init__(self, received: bytes, now: float) -> None:
        self._received = bytearray(received)
        self._searched_to = 0
        self._whole: int | None = None
        self.deadline = now + REQUEST_SECONDS

    def add(self, piece: bytes) -> None:
        """Take what came next."""
        self._received += piece

    def __bytes__(self) -> bytes:
        return bytes(self._received)

    @property
    def size(self) -> int:
        """How much of it is here."""
        return len(self._received)

    @property
    def complete(self) -> bool:
        """Whether a thread can begin with it, without waiting for more or because it has to see to that itself."""
        if self._whole is None:
            self._whole = self._measure()
        return self.endless or (self._whole is not None and len(self._received) >= self._whole)

    @property
    def endless(self) -> bool:
        """Whether its head is too long."""
        return self._whole is None and len(self._received) > _LONGEST_HEAD

    def _measure(self) -> int | None:
        """How many bytes a thread needs to begin; None while that cannot be told."""
        end = self._received.find(_HEAD_END, self._searched_to)
        if end < 0:
            # Only its last bytes can be the beginning of the end.
            self._searched_to = max(0, len(self._received) - len(_HEAD_END) + 1)
            return None
        whole = end + len(_HEAD_END)
        length = _CONTENT_LENGTH.search(self._received, 0, whole)
        if length is None or int(length[1]) > MAX_BATCH_BYTES or _READ_BY_THREAD.search(self._received, 0, whole):
            return whole
        return whole + int(length[1])


class PatientWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's gthread, but a request waits beside the threads, with those kept alive, until all of it is here.

    With gthread alone, as many half requests as there are threads keep everybody else out, and so do as many idle
    connections as a worker may have; of connections that come together nearly all go to the worker that happens to be
    awake.
    """

    counts: ConnectionCounts
    """Of all workers. To be set before the fork."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._wait_until = math.inf
        self._held_bytes = 0
        self._no_naps_until = 0.0
        self._no_descriptor = False
        self._no_warning_until = 0.0
        self.worker_connections = _most_connections(self.cfg.worker_connections)
        self.max_keepalived = self.worker_connections - self.cfg.threads

    def accept(self, listener: socket.socket) -> None:
        """Take a new connection, but leave a worker with fewer the time to do so first. In the main loop."""
        if time.monotonic() >= self._no_naps_until and self.nr_conns > self.counts.fewest():
            for _ in range(_NAPS_FOR_OTHERS):
                time.sleep(_NAP_SECONDS)
                if not select.select([listener], [], [], 0)[0]:
                    return
                if self.nr_conns <= self.counts.fewest():
                    break
            else:
                # The other is busy, or frozen: not every new connection shall wait for it.
                self._no_naps_until = time.monotonic() + _NO_NAPS_SECONDS
        try:
            super().accept(listener)
        except OSError as error:
            # gunicorn would end the worker. Most of all it is a lack of descriptors, which a closed connection mends.
            self._no_descriptor = True
            now = time.monotonic()
            if now >= self._no_warning_until:
                self._no_warning_until = now + _WARN_EVERY_SECONDS
                logger.warning("a connection could not be taken", extra={"error": str(error)})
            time.sleep(_NO_DESCRIPTOR_SECONDS)

    def handle(self, conn: Any) -> Any:
        """Serve one request of a connection, or hand it back to wait for more. In a thread.

        Returns what gthread wants to know: _DEFER to be called again when more is there, True to keep the connection
        alive for the next request, False to close it.
        """
        if self.cfg.is_ssl:
            return super().handle(conn)
        if not conn.initialized:
            conn.init()
            conn.parser.unreader = _UnreaderWithDeadline(conn.sock)
            # A client that does not read its answer.
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_SECONDS, 0))
            conn.incoming = None
            conn.leave_at = None
        now = time.monotonic()
        if conn.leave_at is not None:
            return _DEFER if _hear_out(conn.sock) and now < conn.leave_at else _leave(conn.sock)
        unreader = conn.parser.unreader
        if conn.incoming is None:
            conn.incoming = Incoming(unreader.take_buffered(), now)
        if not _receive(conn.sock, conn.incoming) or conn.incoming.endless:
            refusal = self._refusal(conn.incoming, now)
            if refusal is None:
                return _DEFER
            self._refuse(conn.sock, refusal)
            return self._begin_to_leave(conn)
        unreader.unread(bytes(conn.incoming))
        unreader.deadline = now + BODY_SECONDS
        unreader.left = _MOST_READ_BY_THREAD
        conn.incoming = None
        return super().handle(conn) or self._begin_to_leave(conn)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Hand a request to the app, but for codings that gunicorn lets pass and nobody undoes. In a thread."""
        codings = [value for name, value in req.headers if name == "TRANSFER-ENCODING"]
        if codings and [coding.strip().lower() for coding in ",".join(codings).split(",")] != ["chunked"]:
            raise UnsupportedTransferCoding(codings)
        if codings:
            req.body.reader = _FewChunks(req, conn.parser.unreader)
        return super().handle_request(req, conn)

    def _refusal(self, incoming: Incoming, now: float) -> Refusal | None:
        """Why not to wait for the rest of it."""
        if incoming.endless:
            return early_answers.ENDLESS
        if now > min(incoming.deadline, self._wait_until):
            return early_answers.SLOW
        # Who sends little is not to suffer from those who send much.
        return early_answers.CROWDED if self._held_bytes > _MOST_HELD_BYTES and incoming.size > _PIECE_BYTES else None

    def murder_pending(self) -> None:
        """Part of the main loop's every turn: tell those that are given up; count connections and what they hold."""
        now = time.monotonic()
        for conn in self.pending_conns:
            if conn.timeout > now:
                break
            if getattr(conn, "incoming", None) and conn.incoming.size:
                self._refuse(conn.sock, early_answers.SLOW)
        super().murder_pending()
        for conn in [conn for conn in self.pending_conns if (getattr(conn, "leave_at", None) or math.inf) <= now]:
            self._drop(conn)
        if self.alive and (self._no_descriptor or self.nr_conns >= self.worker_connections):
            self._make_room()
        if self.alive:
            self.counts.write(self.age, self.nr_conns)
        else:
            self.counts.forget(self.age)
        waiting = (getattr(conn, "incoming", None) for conn in self.pending_conns)
        self._held_bytes = sum(incoming.size for incoming in waiting if incoming)

    def _make_room(self) -> None:
        """Close the connection that has been idle longest or, if none is idle, the longest silent half request."""
        self._no_descriptor = False
        waiting = sorted(
            (*self.keepalived_conns, *self.pending_conns), key=lambda conn: (_half_sent(conn), conn.timeout)
        )
        conn = next((conn for conn in waiting if _silent(conn.sock)), None)
        if conn is None:
            return
        if _half_sent(conn):
            self._refuse(conn.sock, early_answers.CROWDED)
        self._drop(conn)

    def _drop(self, conn: Any) -> None:
        """Close a connection that waits. After the turn's events: one of them could be about it."""
        (self.pending_conns if conn in self.pending_conns else self.keepalived_conns).remove(conn)
        self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()

    def _cap_keepalive(self, deadline: float) -> None:
        """Part of a stop: wait until then for what is still coming, not only for those kept alive."""
        super()._cap_keepalive(deadline)
        self._wait_until = deadline
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, deadline)

    def _begin_to_leave(self, conn: Any) -> Any:
        """Say that nothing more comes, and wait for the client to hang up: hanging up first can cost it the answer.

        gunicorn would wait in its main loop and serve nobody meanwhile.
        """
        conn.incoming = None
        conn.leave_at = time.monotonic() + _HANG_UP_SECONDS
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            return False
        return _DEFER if _hear_out(conn.sock) else _leave(conn.sock)

    def _keepalive_after(self, conn: Any, keepalive: bool) -> Any:
        """Part of the end of a request: what is still missing of a body that nobody wanted is not waited for."""
        conn.parser.unreader.deadline = 0.0
        return super()._keepalive_after(conn, keepalive)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        """Answer what went wrong outside of the app."""
        del req, addr
        refusal = early_answers.of_error(exc)
        if refusal is early_answers.OUR_FAULT:
            logger.error("a request failed outside of the app", exc_info=exc)
        self._refuse(client, refusal)

    def _refuse(self, sock: socket.socket, refusal: Refusal) -> None:
        """Answer, and count what the app has not seen as the app would."""
        metrics = self.wsgi.extensions["metrics"]
        metrics.requests.labels("(other)", "(unknown)", int(refusal.status)).inc()
        if refusal is not early_answers.OUR_FAULT:
            count_rejected(metrics, refusal.status)
        early_answers.send(sock, refusal)


class _UnreaderWithDeadline(SocketUnreader):  # type: ignore[misc]  # gunicorn has no types
    """Reads from the socket only until a moment of the monotonic clock, then raises TimeoutError; and only so much."""

    deadline = 0.0
    left = 0

    def chunk(self, size_hint: int | None = None) -> bytes:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.sock.settimeout(left)
        try:
            received: bytes = super().chunk(size_hint)
        finally:
            self.sock.settimeout(None)
        self.left -= len(received)
        if self.left < 0:
            raise WastefulChunksError
        return received


class _FewChunks(ChunkedReader):  # type: ignore[misc]  # gunicorn has no types
    """Reads a chunked body, but no crowd of tiny chunks: each costs 5 us, so a MiB of them a second."""

    chunks = 0

    def parse_chunk_size(self, unreader: Any, data: bytes | None = None) -> Any:
        self.chunks += 1
        if self.chunks > _MOST_CHUNKS:
            raise WastefulChunksError
        return super().parse_chunk_size(unreader, data)


def _most_connections(wanted: int) -> int:
    """As many as there are descriptors for, beside those that a worker needs for other things."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if limit == resource.RLIM_INFINITY else min(wanted, max(limit - _OTHER_DESCRIPTORS, limit // 2))


def _half_sent(conn: Any) -> bool:
    """Whether a part of a request is here."""
    incoming = getattr(conn, "incoming", None)
    return incoming is not None and incoming.size > 0


def _silent(sock: socket.socket) -> bool:
    """Whether nothing has come that is not yet read."""
    try:
        return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
        # Nothing is there, or the client is gone.
        return True


def _receive(sock: socket.socket, incoming: Incoming) -> bool:
    """Take what is there, without waiting; whether a thread can begin with it."""
    sock.setblocking(False)
    try:
        while not incoming.complete:
            piece = sock.recv(_PIECE_BYTES)
            if not piece:
                # The client will send no more: gunicorn sees to what that means.
                return True
            incoming.add(piece)
    except BlockingIOError:
        return False
    except OSError:
        # gunicorn will hear the same and close the connection.
        return True
    return True


def _hear_out(sock: socket.socket) -> bool:
    """Drop some of what the client still sends; whether more may come."""
    sock.setblocking(False)
    try:
        return all(sock.recv(_PIECE_BYTES) for _ in range(_PIECES_AT_ONCE))
    except BlockingIOError:
        return True
    except OSError:
        return False


def _leave(sock: socket.socket) -> bool:
    """Have gunicorn close the connection without waiting for anything."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RD)
    return False
