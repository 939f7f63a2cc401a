"""Each worker gets an even share of the connections."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import requests

from tests.clients import connections
from tests.servers import ApiServer, api_without_kafka
from tests.waiting import eventually

GET = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    with api_without_kafka(tmp_path, API_WORKERS="2") as api:
        yield api


@contextlib.contextmanager
def kept_alive(api: ApiServer, count: int) -> Iterator[None]:
    """N connections, opened at once; each has received an answer."""
    with connections(api.url, count, GET) as opened:
        for connection in opened:
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        yield


def workers(api: ApiServer) -> list[psutil.Process]:
    assert api.child is not None
    return psutil.Process(api.child.pid).children()


def spread(api: ApiServer) -> list[int]:
    """How many connections each worker has."""
    port = urlsplit(api.url).port
    return sorted(
        sum(each.status == psutil.CONN_ESTABLISHED and each.laddr.port == port for each in worker.net_connections())
        for worker in workers(api)
    )


def evenly(api: ApiServer) -> bool:
    # A connection counts until its worker has noticed that the client is gone.
    eventually(lambda: spread(api) == [0, 0], what="the end of the earlier connections")
    with kept_alive(api, 20):
        return spread(api) == [10, 10]


def test_each_of_two_workers_gets_half_of_the_connections_opened_at_once(api: ApiServer) -> None:
    # The API is ready as soon as its first worker is.
    eventually(lambda: evenly(api), what="an even spread")
    # By chance, one or two of ten would be even. A busy machine may delay a worker now and then.
    assert sum(evenly(api) for _ in range(10)) >= 5


def test_a_worker_that_replaces_a_killed_one_gets_its_share(api: ApiServer) -> None:
    eventually(lambda: evenly(api), what="an even spread")
    first = workers(api)[0]
    first.kill()
    eventually(lambda: len(workers(api)) == 2 and first not in workers(api), what="another worker")
    eventually(lambda: evenly(api), what="an even spread again")


def test_a_frozen_worker_does_not_delay_new_connections(api: ApiServer) -> None:
    eventually(lambda: evenly(api), what="an even spread")
    frozen = workers(api)[0]
    frozen.suspend()
    eventually(lambda: frozen.status() == psutil.STATUS_STOPPED, what="the worker to be frozen")
    try:
        with kept_alive(api, 20):
            assert spread(api) == [0, 20]
        # Each request opens a new connection.
        assert all(requests.get(f"{api.url}/health/live", timeout=10).ok for _ in range(20))
    finally:
        frozen.resume()
