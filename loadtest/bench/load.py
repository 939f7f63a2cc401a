"""A cheap client: prepared requests over kept-alive connections, one thread, minimal parsing."""

import heapq
import itertools
import select
import socket
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

_PIECE_BYTES = 64 * 1024
_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length: "
_RETRY = b"retry-after: "


@dataclass(slots=True)
class Load:
    """The results of a load."""

    seconds: float = 0.0
    answers: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)  # of each answer, in seconds since the due time of its request

    def milliseconds(self, share: float) -> float:
        """The latency that this share of the answers did not exceed."""
        return 1000 * sorted(self.latencies)[min(int(len(self.latencies) * share), len(self.latencies) - 1)]


def request(path: str, body: bytes) -> bytes:
    """A POST with a JSON body."""
    return head("POST", path, "Content-Type: application/json", f"Content-Length: {len(body)}") + body


def head(method: str, path: str, *lines: str) -> bytes:
    """A request without its body."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: bench", *lines]).encode() + _HEAD_END


def answer(sock: socket.socket) -> int:
    """Read a whole answer; returns its status. Blocks. Raises OSError, also if the connection ends first."""
    received = b""
    while not received or not _whole(received):
        piece = sock.recv(_PIECE_BYTES)
        if not piece:
            raise ConnectionError("The server closed the connection.")
        received += piece
    return int(received[9:12])


def drive(port: int, requests: Iterable[bytes], connections: int, rate: float | None = None) -> Load:
    """Send all requests, each as soon as a connection is free or, with a `rate`, at that rate per second.

    It sends a request again after the Retry-After of a 503. Blocks until each has another answer. Raises OSError.
    """
    load = Load()
    sockets = {}
    poll = select.epoll()
    for _ in range(connections):
        sock = socket.create_connection(("127.0.0.1", port), timeout=60)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets[sock.fileno()] = sock
        poll.register(sock, select.EPOLLIN)
    begun = time.perf_counter()
    free = deque(sockets)
    under_way: dict[int, tuple[float, bytes]] = {}
    received: dict[int, bytes] = {}
    coming = _due(requests, begun, rate)
    again: list[tuple[float, bytes]] = []
    upcoming = next(coming, None)
    while upcoming or again or under_way:
        now = time.perf_counter()
        while free and (upcoming or again):
            late = bool(again) and (upcoming is None or again[0][0] <= now)
            due, sent = again[0] if late or upcoming is None else upcoming
            if due > now:
                break
            if late:
                heapq.heappop(again)
            else:
                upcoming = next(coming, None)
            place = free.popleft()
            sockets[place].sendall(sent)
            under_way[place] = (due or now, sent)
        next_due = min([due for due, _ in again[:1]] + ([upcoming[0]] if upcoming else []), default=now + 1)
        for place, _ in poll.poll(max(0.0, next_due - time.perf_counter()) if free else 60.0):
            answer = received.pop(place, b"") + sockets[place].recv(_PIECE_BYTES)
            if not _whole(answer):
                received[place] = answer
                continue
            due, sent = under_way.pop(place)
            free.append(place)
            now = time.perf_counter()
            status = int(answer[9:12])
            load.answers[status] += 1
            if status == 503:
                heapq.heappush(again, (now + int(_header(answer, _RETRY)), sent))
            else:
                load.latencies.append(now - due)
    load.seconds = time.perf_counter() - begun
    poll.close()
    for sock in sockets.values():
        sock.close()
    return load


def _due(requests: Iterable[bytes], begun: float, rate: float | None) -> Iterator[tuple[float, bytes]]:
    """Each request with its due time; 0 means at once."""
    moments = itertools.repeat(0.0) if rate is None else (begun + n / rate for n in itertools.count())
    return zip(moments, requests, strict=False)


def _whole(answer: bytes) -> bool:
    if not answer:
        raise ConnectionError("The server closed the connection.")
    end = answer.find(_HEAD_END)
    return end >= 0 and len(answer) >= end + len(_HEAD_END) + int(_header(answer[: end + 2], _LENGTH))


def _header(answer: bytes, name: bytes) -> bytes:
    return answer.lower().partition(name)[2].partition(b"\r\n")[0]
