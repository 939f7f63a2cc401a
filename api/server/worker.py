"""gunicorn's worker: one event loop collects complete requests, calls the app, and writes answers.

A slow client, in either direction, holds bytes but no thread. Each iteration of the loop processes all complete
requests; it writes their events to the journal together, and only then sends the answers.
"""

import contextlib
import io
import logging
import math
import os
import queue
import resource
import selectors
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any

from gunicorn.http import wsgi
from gunicorn.http.errors import NoMoreData
from gunicorn.workers.base import Worker

from api.auth import Cors
from api.body import GZIP
from api.protocols.paths import is_for_sdks
from api.responses import reason_of
from api.server import early_answers
from api.server.connection import Connection
from api.server.connection_counts import ConnectionCounts
from api.server.early_answers import Refusal
from common.errors import NO_ROOM, QueueFullError
from common.logs import new_request_id

logger = logging.getLogger(__name__)

TESTED_GUNICORN = "27.0.1"
"""The version whose internals this worker uses."""

REQUEST_SECONDS = 30.0
"""How long a client may take to send a request, from its first byte to its last."""
SEND_SECONDS = 10.0
"""How long a client may read nothing of its answer."""
LEAVE_SECONDS = 2.0
"""How long a client may take to close the connection after its last answer, and any idle client at a stop."""
STOP_SECONDS = 5.0
"""How long a stop waits for requests in flight."""

_PIECE_BYTES = 64 * 1024
# The limit for one client in an iteration, so that two hundred clients with large answers delay a small one less.
_TURN_BYTES = 128 * 1024
_MOST_HELD_BYTES = 64 * 1024 * 1024
_LOOK_SECONDS = 0.25
_YIELD_SECONDS = 0.0005
_YIELDS = 20
_NO_YIELD_SECONDS = 0.1
_NO_ROOM_SECONDS = 0.05
_WARN_EVERY_SECONDS = 10.0
_OTHER_DESCRIPTORS = 100
_GO_ON = b"HTTP/1.1 100 Continue\r\n\r\n"
# The app answers these paths from memory; others may read files, or query Kafka.
_QUICK = ("/api/", "/health/", "/pulse.js")
_QUICK_SDK_BYTES = 64 * 1024
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class CachedConfig:
    """gunicorn's configuration, with each value cached: its own lookup is slow, and a request makes 15 of them."""

    def __init__(self, cfg: Any) -> None:
        self._cfg = cfg

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._cfg, name)
        setattr(self, name, value)
        return value


class Answer:
    """Replaces the socket that gunicorn's response writes to."""

    __slots__ = ("pieces", "size")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.size = 0

    def sendall(self, data: bytes) -> None:
        self.pieces.append(data)
        self.size += len(data)

    send = sendall

    def taken(self) -> bytes:
        """The bytes written since the last call."""
        data = b"".join(self.pieces)
        self.pieces.clear()
        self.size = 0
        return data


def most_connections(wanted: int) -> int:
    """The wanted number, limited by the file descriptors that a worker does not need otherwise."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if limit == resource.RLIM_INFINITY else min(wanted, max(limit - _OTHER_DESCRIPTORS, limit // 2))


def answer_of(app: Any, cfg: Any, connection: Connection, request: Any, *, close: bool) -> Iterator[bytes]:
    """The app's answer in pieces, each produced on demand. Raises gunicorn's errors.

    `close`: whether to announce the end of the connection. Afterwards `connection.last` says whether it ends.
    """
    answer = Answer()
    response, environ = wsgi.create(request, answer, connection.peer, connection.own, cfg)
    # Drop gunicorn's 100 Continue: the client has already got it if it asked.
    answer.taken()
    if close:
        response.force_close()
    chunks = app(environ, response.start_response)
    try:
        for chunk in chunks:
            response.write(chunk)
            if answer.size >= _PIECE_BYTES:
                yield answer.taken()
        response.close()
    finally:
        if hasattr(chunks, "close"):
            chunks.close()
    connection.last = response.should_close() or not connection.finish_body(request)
    yield answer.taken()


class LoopWorker(Worker):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's worker with one event loop. API_THREADS threads produce the answers that may be slow."""

    counts: ConnectionCounts
    """The counts of all workers. Set it before the fork."""
    cfg: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cfg = CachedConfig(self.cfg)
        self._connections: set[Connection] = set()
        self._listening = False
        self._listen_at = 0.0
        self._yields = 0
        self._no_yields_until = 0.0
        self._no_warning_until = 0.0
        self._most_connections = most_connections(self.cfg.worker_connections)
        self._look_at = 0.0
        self._stop_at: float | None = None
        self._ready: list[Connection] = []
        self._made: queue.SimpleQueue[Connection] = queue.SimpleQueue()

    def init_process(self) -> None:
        """Blocks until the worker ends."""
        if self.cfg.is_ssl:
            logger.critical("this server does not support TLS: use a proxy in front of it")
            sys.exit(4)
        self._selector = selectors.DefaultSelector()
        self._threads = ThreadPoolExecutor(self.cfg.threads, thread_name_prefix="answers")
        super().init_process()

    def run(self) -> None:
        """Serve until the stop, then until all requests in flight are answered. Blocks."""
        self._queue = self.wsgi.extensions["delivery"].queue
        self._queue.grouped_by = threading.get_ident()
        self._cors = self.wsgi.extensions.get("cors", Cors(frozenset(), frozenset()))
        self._fast_path = self.wsgi.extensions.get("fast_path")
        self._selector.register(self.PIPE[0], _READ, None)
        for listener in self.sockets:
            listener.setblocking(False)
        while self._stop_at is None or (self._connections and time.monotonic() < self._stop_at):
            self._turn()
        self._queue.grouped_by = None
        for connection in list(self._connections):
            self._close(connection)
        self._threads.shutdown(wait=False)
        self._selector.close()
        for listener in self.sockets:
            listener.close()

    def _turn(self) -> None:
        """Wait for input, process all complete requests, and send the answers."""
        now = time.monotonic()
        until = min(self._look_at, math.inf if self._listening else self._listen_at)
        events = self._selector.select(0 if self._ready else max(0.0, until - now))
        now = time.monotonic()
        ready, self._ready = self._ready, []
        for key, mask in events:
            connection = key.data
            if isinstance(connection, Connection):
                if mask & _READ:
                    self._receive(connection, now)
                ready.append(connection)
            elif connection is None:
                with contextlib.suppress(BlockingIOError):
                    os.read(self.PIPE[0], 4096)
            else:
                self._accept(connection, now)
        while not self._made.empty():
            connection = self._made.get()
            connection.busy = False
            ready.append(connection)
        waiting = self._advance_all(ready)
        if waiting:
            # Requests that have arrived in the meantime share the commit, and its sync.
            late = self._receive_more(ready)
            ready += late
            self._commit(waiting + self._advance_all(late))
        for connection in ready:
            if connection in self._connections:
                self._send(connection, now)
        if now >= self._look_at or (self._stop_at is None and not self.alive):
            self._look(now)
        self._listen(now)

    # ── New connections ──

    def _accept(self, listener: socket.socket, now: float) -> None:
        """Accept a new connection, but give workers with fewer connections the first chance."""
        if now >= self._no_yields_until and len(self._connections) > self.counts.fewest():
            self._yields += 1
            if self._yields <= _YIELDS:
                self._listen_at = now + _YIELD_SECONDS
                return
            # The others do not accept it: they are busy, or frozen.
            self._no_yields_until = now + _NO_YIELD_SECONDS
        self._yields = 0
        if len(self._connections) >= self._most_connections:
            self._make_room()
        try:
            sock, peer = listener.accept()
        except BlockingIOError:
            # Another worker was faster.
            return
        except OSError as error:
            # Usually a lack of file descriptors, which closing a connection fixes.
            if now >= self._no_warning_until:
                self._no_warning_until = now + _WARN_EVERY_SECONDS
                logger.warning("could not accept a connection", extra={"error": str(error)})
            self._make_room()
            self._listen_at = now + _NO_ROOM_SECONDS
            return
        sock.setblocking(False)
        connection = Connection(sock, peer, listener.getsockname(), self.cfg)
        connection.deadline = now + self.cfg.keepalive
        connection.watched = _READ
        self._connections.add(connection)
        self._selector.register(sock, _READ, connection)
        self.counts.write(self.age, len(self._connections))

    def _listen(self, now: float) -> None:
        """Listen, except while other workers should accept new connections, and during a stop."""
        wanted = self.alive and now >= self._listen_at
        if wanted != self._listening:
            self._listening = wanted
            for listener in self.sockets:
                if wanted:
                    self._selector.register(listener, _READ, listener)
                else:
                    self._selector.unregister(listener)

    def _make_room(self) -> None:
        """Close the connection that has been idle longest, or otherwise refuse the request that has taken longest."""
        waiting = [connection for connection in self._connections if not connection.occupied or connection.leaving]
        waiting.sort(key=lambda connection: (not (connection.idle or connection.leaving), connection.deadline))
        silent = next((connection for connection in waiting if _silent(connection.sock)), None)
        if silent is None:
            return
        if not (silent.idle or silent.leaving):
            self._refuse(silent, early_answers.CROWDED)
            with contextlib.suppress(OSError):
                silent.sock.send(silent.out)
        self._close(silent)

    # ── Requests in ──

    def _receive(self, connection: Connection, now: float) -> None:
        """Read the client's data."""
        try:
            data = connection.sock.recv(_PIECE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._close(connection)
            return
        if connection.leaving:
            if not data:
                self._close(connection)
        elif not data:
            connection.ended = True
        else:
            connection.receive(data, now)
            connection.deadline = min(now + self.cfg.keepalive, (connection.began or now) + REQUEST_SECONDS)
            if self._stop_at is not None:
                connection.deadline = min(connection.deadline, now + LEAVE_SECONDS)

    def _receive_more(self, ready: list[Connection]) -> list[Connection]:
        """Read from the connections that have become readable since, without waiting, and return them."""
        now, known = time.monotonic(), set(ready)
        selected = [key.data for key, mask in self._selector.select(0) if mask & _READ]
        late = [each for each in selected if isinstance(each, Connection) and each not in known]
        for connection in late:
            self._receive(connection, now)
        return late

    def _advance_all(self, connections: list[Connection]) -> list[Connection]:
        """Process their requests; returns those whose events are uncommitted."""
        return [each for each in connections if each in self._connections and self._advance(each)]

    def _advance(self, connection: Connection) -> bool:
        """Process the next request if it is complete and the last answer is sent; returns whether its events are
        uncommitted.
        """
        if connection.occupied:
            return False
        try:
            request = connection.next_request()
        except Exception as error:  # noqa: BLE001, of_error tells ours from the client's
            if connection.ended and isinstance(error, NoMoreData):
                self._close(connection)
            else:
                self._refuse(connection, early_answers.of_error(error))
            return False
        if request is None:
            self._await_more(connection)
            return False
        self._wake_at(connection, 1)
        if not _is_quick(request):
            connection.busy = True
            self._threads.submit(self._answer_in_thread, connection, request)
            return False
        before = self._queue.uncommitted
        self._begin_answer(connection, request)
        return bool(self._queue.uncommitted > before)

    def _await_more(self, connection: Connection) -> None:
        if connection.ended:
            self._close(connection)
        elif connection.wants_to_be_asked():
            connection.out = _GO_ON
        elif connection.held > _PIECE_BYTES and sum(each.held for each in self._connections) > _MOST_HELD_BYTES:
            # Clients with small requests must not suffer from those with large ones.
            self._refuse(connection, early_answers.CROWDED)
        else:
            self._wake_at(connection, min(connection.missing, _PIECE_BYTES))

    def _wake_at(self, connection: Connection, least: int) -> None:
        """Wake up only when `least` bytes are there: a client that sends single bytes would cost an iteration for
        each.
        """
        if least != connection.least:
            connection.least = least
            with contextlib.suppress(OSError):
                connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)

    # ── Answers out ──

    def _answer_in_thread(self, connection: Connection, request: Any) -> None:
        try:
            self._begin_answer(connection, request)
        finally:
            self._made.put(connection)
            with contextlib.suppress(BlockingIOError):
                os.write(self.PIPE[1], b".")

    def _begin_answer(self, connection: Connection, request: Any) -> None:
        """Produce an answer, or the first piece of a long one. A failure affects no other request."""
        close = self._stop_at is not None or not self.alive or not connection.whole
        try:
            if self._fast_path and not close and isinstance(request.body, io.BytesIO):
                connection.out = self._fast_path(request, request.body.getvalue()) or b""
            if not connection.out:
                connection.rest = answer_of(self.wsgi, self.cfg, connection, request, close=close)
                connection.out = next(filter(None, connection.rest))
        except Exception as error:  # noqa: BLE001, of_error tells ours from the client's
            self._refuse(connection, early_answers.of_error(error))

    def _commit(self, connections: list[Connection]) -> None:
        """Commit the events of these requests to the journal; if that fails, answer 503."""
        try:
            self._queue.commit()
        except QueueFullError as error:
            for connection in connections:
                refusal = Refusal(HTTPStatus.SERVICE_UNAVAILABLE, NO_ROOM[error.reason], error.retry_after)
                self._refuse(connection, refusal, error.reason)

    def _send(self, connection: Connection, now: float) -> None:
        """Send as much as the client accepts, without waiting; then continue with its next request."""
        if connection.busy:
            self._watch(connection, 0)
            return
        had_answer = bool(connection.out)
        if not self._send_out(connection, now):
            return
        if connection.out:
            self._watch(connection, _WRITE)
        elif had_answer and connection.last:
            self._leave(connection, now)
        elif had_answer and (connection.held or connection.ended):
            # Process the received data first: read no more until then.
            self._watch(connection, 0)
            self._ready.append(connection)
        else:
            if had_answer:
                connection.deadline = now + (self.cfg.keepalive if self._stop_at is None else LEAVE_SECONDS)
            self._watch(connection, _READ)

    def _send_out(self, connection: Connection, now: float) -> bool:
        """Send piece by piece until the client accepts no more or has used up its share of this iteration.

        Returns whether the connection is still open.
        """
        left = _TURN_BYTES
        while connection.out and left > 0:
            try:
                sent = connection.sock.send(connection.out)
            except BlockingIOError:
                break
            except OSError:
                self._close(connection)
                break
            connection.deadline = now + SEND_SECONDS
            left -= sent
            if sent < len(connection.out):
                connection.out = connection.out[sent:]
                break
            connection.out = self._next_piece(connection)
        return connection in self._connections

    def _next_piece(self, connection: Connection) -> bytes:
        """The next piece of the answer; empty at its end."""
        piece = b""
        try:
            # A piece can be empty if its data was sent with the previous one.
            piece = next(filter(None, connection.rest or ()), b"")
        except Exception:
            # The beginning is already sent: closing the connection shows that the answer is incomplete.
            logger.exception("an answer failed after its beginning was sent")
            self._close(connection)
        if not piece:
            connection.rest = None
        return piece

    def _watch(self, connection: Connection, events: int) -> None:
        if events == connection.watched:
            return
        if not connection.watched:
            self._selector.register(connection.sock, events, connection)
        elif not events:
            self._selector.unregister(connection.sock)
        else:
            self._selector.modify(connection.sock, events, connection)
        connection.watched = events

    def _refuse(self, connection: Connection, refusal: Refusal, reason: str | None = None) -> None:
        """Answer in place of the app, count as the app would, and end the connection.

        `reason`: the metric's reason, if it does not follow from the status.
        """
        metrics = self.wsgi.extensions["metrics"]
        request_id = new_request_id()
        reason = reason or reason_of(refusal.status)
        if refusal is early_answers.OUR_FAULT:
            logger.error("a request failed outside the app", exc_info=sys.exc_info())
        else:
            metrics.rejected.labels(reason).inc()
            if refusal.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                refusals = self.wsgi.extensions["refusals"]
                refusals.keep_unread(refusal.status, reason, refusal.message, connection.head, request_id)
        refusal = early_answers.for_path(refusal, early_answers.path_of(connection.head))
        metrics.requests.labels("(other)", "(unknown)", int(refusal.status)).inc()
        connection.rest = None
        connection.last = True
        connection.out = early_answers.answer(refusal, connection.head, reason, self._cors, request_id)

    # ── Ends ──

    def _leave(self, connection: Connection, now: float) -> None:
        """Close our side, and wait for the client to close: closing the socket first can destroy the answer."""
        connection.leaving = True
        connection.deadline = now + LEAVE_SECONDS
        connection.drop()
        try:
            connection.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(connection)
        else:
            self._watch(connection, _READ)

    def _close(self, connection: Connection) -> None:
        if connection not in self._connections:
            return
        self._connections.remove(connection)
        self._watch(connection, 0)
        connection.drop()
        connection.sock.close()
        self.counts.write(self.age, len(self._connections))

    def _look(self, now: float) -> None:
        """Check deadlines, and begin a stop if requested."""
        self._look_at = now + _LOOK_SECONDS
        self.notify()
        if self.ppid != os.getppid():
            logger.warning("gunicorn's master is gone; stopping")
            self.alive = False
        if self._stop_at is None and not self.alive:
            self._begin_stop(now)
        for connection in list(self._connections):
            if now < connection.deadline or connection.busy:
                continue
            if connection.began is not None and not connection.occupied and not connection.leaving:
                self._refuse(connection, early_answers.SLOW)
                self._send(connection, now)
            else:
                self._close(connection)

    def _begin_stop(self, now: float) -> None:
        """Accept no new connections; give the open ones a moment for data in transit."""
        self._stop_at = now + STOP_SECONDS
        self.counts.forget(self.age)
        for connection in self._connections:
            if not connection.occupied:
                connection.deadline = min(connection.deadline, now + LEAVE_SECONDS)


def _is_quick(request: Any) -> bool:
    """Whether the app answers it from memory, immediately: requests of SDKs may be large, or become large
    decompressed.
    """
    if not is_for_sdks(request.path):
        return bool(request.path.startswith(_QUICK))
    body = request.body.getvalue() if isinstance(request.body, io.BytesIO) else None
    return body is not None and len(body) <= _QUICK_SDK_BYTES and not body.startswith(GZIP)


def _silent(sock: socket.socket) -> bool:
    """Whether there is no unread data."""
    try:
        return not sock.recv(1, socket.MSG_PEEK)
    except OSError:
        # There is no data, or the client is gone.
        return True
