"""A worker serves new clients even when it has reached its limit of connections or descriptors."""

import resource
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from tests.clients import connections
from tests.servers import ApiServer, api_without_kafka

GET = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD = GET.replace(b"GET", b"HEAD")
HALF = b"POST /api/v1/track HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{"
EVENT = {"customer_id": "a", "event_type": "click"}


@pytest.fixture(autouse=True)
def _descriptors() -> Iterator[None]:
    """Raise the limit of descriptors for this process and its children."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def worker(api: ApiServer) -> psutil.Process:
    assert api.child is not None
    (child,) = psutil.Process(api.child.pid).children()
    return child


@pytest.mark.parametrize("begin", [b"", GET, HALF], ids=["silent", "kept alive", "half-sent"])
def test_a_thousand_idle_connections_do_not_block_others(tmp_path: Path, begin: bytes) -> None:
    with api_without_kafka(tmp_path) as api, connections(api.url, 1_050, begin):
        for _ in range(3):
            assert requests.post(f"{api.url}/api/v1/track", json=EVENT, timeout=10).status_code == 202


def test_the_connections_that_are_idle_longest_are_closed_first(tmp_path: Path) -> None:
    with (
        api_without_kafka(tmp_path, GUNICORN_CMD_ARGS="--worker-connections 30") as api,
        connections(api.url, 1, HALF) as (half,),
        connections(api.url, 10, HEAD) as first,
    ):
        assert all(client.recv(65536).endswith(b"\r\n\r\n") for client in first)
        with connections(api.url, 25, HEAD) as others:
            assert all(client.recv(65536).endswith(b"\r\n\r\n") for client in others)
            assert [client.recv(1) for client in first[:3]] == [b"", b"", b""]
            # The worker closes idle connections, not those with half a request.
            half.sendall(b" " * 48 + b"}")
            assert half.recv(65536).startswith(b"HTTP/1.1 4")


def test_a_lack_of_descriptors_ends_no_worker(tmp_path: Path) -> None:
    with api_without_kafka(tmp_path) as api:
        pid = worker(api).pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        # Enough for the worker's own files, but not for all connections below.
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (worker(api).num_fds() + 20, hard))
        with connections(api.url, 60, GET):
            assert requests.get(f"{api.url}/health/live", timeout=20).status_code == 200
        assert worker(api).pid == pid
        assert "could not accept a connection" in api.output()
