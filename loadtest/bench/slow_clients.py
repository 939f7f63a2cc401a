"""Measures how long other clients wait while slow clients send half a request, or do not read."""

import contextlib
import itertools
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

from loadtest.bench import events
from loadtest.bench.load import answer, head
from loadtest.bench.sides import Server

SLOW = 200
_LARGE = head("GET", "/docs/swagger-ui-bundle.js") * 8  # 13 MB: more than the kernel buffers for a connection
_CHUNK_TO_COME = b"100\r\n{"
_WINDOW_BYTES = 2_048
_PROBES = 25
_TIMEOUT = 5.0  # seconds; also the value of a probe without an answer
_MOST = 5.0  # seconds after which no other probe of a kind begins


@dataclass(frozen=True, slots=True)
class Waits:
    """The longest waits of a client, in milliseconds."""

    health: float
    single: float


def waits(server: Server) -> Waits:
    """Measure the waits beside 200 half-sent events, half of them chunked, and 200 clients that read no large answers.

    Each probe opens a new connection, once the server is idle again. Blocks for up to a minute.
    """
    port = server.port
    singles = list(events.batches(1, SLOW))
    chunked = head("POST", "/api/v1/track", "Content-Type: application/json", "Transfer-Encoding: chunked")
    with contextlib.ExitStack() as slow:
        for number, single in enumerate(singles):
            _open(slow, port, chunked + _CHUNK_TO_COME if number % 2 else single[: len(single) // 2])
            _open(slow, port, _LARGE)
        server.wait_until_idle()
        return Waits(
            health=_longest(port, itertools.repeat(head("GET", "/health/live"), _PROBES)),
            single=_longest(port, iter(singles[:_PROBES])),
        )


def _open(stack: contextlib.ExitStack, port: int, sent: bytes) -> None:
    sock = stack.enter_context(socket.socket())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _WINDOW_BYTES)
    sock.settimeout(_TIMEOUT)
    sock.connect(("127.0.0.1", port))
    sock.sendall(sent)


def _longest(port: int, requests: Iterator[bytes]) -> float:
    longest, begun = 0.0, time.monotonic()
    for sent in requests:
        sent_at = time.perf_counter()
        try:
            with socket.create_connection(("127.0.0.1", port), _TIMEOUT) as sock:
                sock.sendall(sent)
                answer(sock)
            longest = max(longest, time.perf_counter() - sent_at)
        except OSError:
            longest = max(longest, _TIMEOUT)
        if time.monotonic() - begun > _MOST:
            break
    return 1000 * longest
