"""Malformed requests on a raw socket cost little CPU; test_costly_requests.py has the well-formed ones."""

import socket
from collections.abc import Callable, Iterator
from typing import NamedTuple

import psutil
import pytest

from common.events import MAX_BATCH_BYTES
from tests.clients import connections
from tests.costs import reading
from tests.e2e.test_costly_requests import MOST_READINGS
from tests.servers import ApiServer, api_without_kafka

POST = b"POST /api/v1/track/batch HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with api_without_kafka(tmp_path_factory.mktemp("api")) as api:
        yield api


class Costly(NamedTuple):
    """A request that could be expensive for the API."""

    what: str
    sent: Callable[[], bytes]


def filled(head: bytes, unit: bytes, tail: bytes = b"0\r\n\r\n") -> bytes:
    """The head, units up to the maximum size of a request, and the tail."""
    return head + unit * ((MAX_BATCH_BYTES - len(head) - len(tail)) // len(unit)) + tail


TABLE = [
    Costly("chunks of a byte", lambda: filled(CHUNKED, b"1\r\n \r\n")),
    Costly("chunks of a hundred bytes", lambda: filled(CHUNKED, b"64\r\n%s\r\n" % (b" " * 100))),
    Costly("chunks with long names of extensions", lambda: filled(CHUNKED, b"1;%s\r\n \r\n" % (b"a" * 8000))),
    Costly("chunks with many extensions", lambda: filled(CHUNKED, b"1;%sa\r\n \r\n" % (b"a;" * 4000))),
    Costly("chunks with quoted extensions", lambda: filled(CHUNKED, b'1;a="%s"\r\n \r\n' % (rb"\a" * 4000))),
    Costly("a chunk with an endless extension", lambda: filled(CHUNKED + b"1;a=", b"a")),
    Costly("a chunk with an endless size", lambda: filled(CHUNKED, b"0")),
    Costly("many trailers", lambda: filled(CHUNKED + b"0\r\n", b"a: b\r\n")),
    Costly("an endless trailer", lambda: filled(CHUNKED + b"0\r\na: ", b"b")),
    Costly("many headers", lambda: filled(POST, b"a: b\r\n")),
    Costly("an endless header", lambda: filled(POST + b"a: ", b"b")),
    Costly("many lengths", lambda: filled(POST, b"Content-Length: x\r\n")),
    Costly("an endless length", lambda: filled(POST + b"Content-Length: ", b"0")),
    Costly("spaces in place of a length", lambda: filled(POST + b"Content-Length:", b" ")),
    Costly("no line", lambda: filled(b"", b"A")),
    Costly("empty lines", lambda: filled(b"", b"\r\n")),
    Costly("an endless URL", lambda: filled(b"GET /", b"a/")),
    Costly(
        "a body for an unknown route",
        lambda: filled(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1048000\r\n\r\n", b" "),
    ),
    Costly("a body longer than its Content-Length", lambda: filled(POST + b"Content-Length: 5\r\n\r\n", b"1")),
]


def send(api: ApiServer, sent: bytes) -> None:
    """Send it as far as the server reads it, and wait until the server closes the connection."""
    with connections(api.url, 1, b"") as (client,):
        try:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass
        except (ConnectionResetError, BrokenPipeError):
            pass


def cpu_seconds(api: ApiServer) -> float:
    """The CPU time of the worker, in seconds."""
    assert api.child is not None
    (worker,) = psutil.Process(api.child.pid).children()
    times = worker.cpu_times()
    return float(times.user + times.system)


@pytest.mark.parametrize("costly", TABLE, ids=lambda costly: costly.what)
def test_a_request_costs_little_cpu(api: ApiServer, costly: Costly) -> None:
    sent = costly.sent()
    costs: list[float] = []
    while len(costs) < 3 and min(costs, default=MOST_READINGS) >= MOST_READINGS:
        before = cpu_seconds(api)
        send(api, sent)
        costs.append((cpu_seconds(api) - before) / reading())
    assert min(costs) < MOST_READINGS
