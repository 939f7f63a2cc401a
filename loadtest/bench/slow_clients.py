"""Clients that send half a request, and clients that do not read: how long others wait meanwhile."""

import contextlib
import itertools
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

from loadtest.bench import events
from loadtest.bench.load import answer, head

SLOW = 200
_LARGE = "/docs/swagger-ui-bundle.js"  # more than a mebibyte
_WINDOW_BYTES = 2_048
_PROBES = 25
_TIMEOUT = 10.0  # seconds; a probe that has no answer then counts as that
_MOST = 20.0  # seconds for all probes of a kind


@dataclass(frozen=True, slots=True)
class Waits:
    """The longest that a client waited, in milliseconds."""

    health: float
    single: float


def waits(port: int) -> Waits:
    """With 200 half-sent events and 200 readers that read nothing of a large answer; each probe connects anew."""
    singles = list(events.batches(1, SLOW))
    with contextlib.ExitStack() as slow:
        for half_sent in singles:
            _open(slow, port, half_sent[: len(half_sent) // 2])
            _open(slow, port, head("GET", _LARGE))
        time.sleep(1)  # so that all of it has arrived
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
        # An OSError is mostly the timeout; a server that hangs up has not answered either.
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), _TIMEOUT) as sock:
            sock.sendall(sent)
            answer(sock)
        longest = max(longest, time.perf_counter() - sent_at)
        if time.monotonic() - begun > _MOST:
            break
    return 1000 * longest
