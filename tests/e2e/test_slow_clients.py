"""Slow or endless clients do not block others: one worker with one thread serves all of them."""

import select
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import requests

from tests.clients import connections, read_all
from tests.servers import ApiServer, api_without_kafka
from tests.waiting import eventually

POST = b"POST /api/v1/track HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
EVENT = b'{"customer_id":"mallory","event_type":"click"}'


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with api_without_kafka(tmp_path_factory.mktemp("api"), API_THREADS="1") as api:
        yield api


def open_connections(api: ApiServer) -> int:
    """The number of connections that the worker has not closed."""
    assert api.child is not None
    (worker,) = psutil.Process(api.child.pid).children()
    port = urlsplit(api.url).port
    return sum(each.laddr.port == port and each.status != psutil.CONN_LISTEN for each in worker.net_connections())


@pytest.mark.parametrize(
    "begin",
    [
        b"",
        b"PO",
        POST,
        POST + b"Content-Length: 50\r\n\r\n{",
        # These clients get their answer, and never close the connection.
        b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"no HTTP\r\n\r\n",
        b"POST /nowhere HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n28\r\n{",
        POST + b"Expect: 100-continue\r\nContent-Length: 50\r\n\r\n",
        # These clients read nothing of answers larger than the operating system's buffers.
        b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n" * 20,
    ],
    ids=[
        "nothing",
        "half a line",
        "half a head",
        "half a body",
        "no closing",
        "no closing after an error",
        "no body after an error",
        "half a chunk",
        "waiting for 100 Continue",
        "not reading",
    ],
)
def test_other_clients_are_served_in_the_meantime(api: ApiServer, begin: bytes) -> None:
    # A wait for one of these clients would take at least 2 s.
    with connections(api.url, 200, begin):
        assert requests.get(f"{api.url}/health/live", timeout=10).status_code == 200


def test_a_request_in_pieces_is_answered(api: ApiServer) -> None:
    with connections(api.url, 1, POST) as (client,):
        for piece in (b"Content-Length: %d\r\nConn" % len(EVENT), b"ection: close\r\n\r\n", EVENT[:5], EVENT[5:]):
            # Another client is answered first: the worker has read the earlier data, and frees the thread.
            assert requests.get(f"{api.url}/health/live", timeout=10).status_code == 200
            client.sendall(piece)
        assert read_all(client).startswith(b"HTTP/1.1 202")


@pytest.mark.parametrize(
    "begin",
    [POST, POST + b"Content-Length: 50\r\n\r\n{", POST + b"Transfer-Encoding: chunked\r\n\r\n28\r\n{"],
    ids=["half a head", "half a body", "half a chunk"],
)
def test_a_client_that_falls_silent_is_answered_408(tmp_path: Path, begin: bytes) -> None:
    # The default timeout is 30 s; 1 s is enough for a test.
    with (
        api_without_kafka(tmp_path, GUNICORN_CMD_ARGS="--keep-alive 1") as api,
        connections(api.url, 1, begin) as (client,),
    ):
        answer = read_all(client)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"The request did not arrive in time: send it again, all of it at once." in answer


def test_a_long_answer_reaches_a_client_that_reads_slowly(api: ApiServer) -> None:
    whole = requests.get(f"{api.url}/docs/swagger-ui-bundle.js", timeout=10).content
    with connections(
        api.url, 1, b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    ) as (client,):
        assert requests.get(f"{api.url}/health/live", timeout=10).status_code == 200
        assert read_all(client).endswith(b"\r\n\r\n" + whole)


def test_a_long_answer_is_followed_by_the_next_on_the_same_connection(api: ApiServer) -> None:
    with requests.Session() as client:
        paths = (
            "/health",
            "/health/live",
            "/health/ready",
            "/docs",
            "/openapi.json",
            "/metrics",
            "/api/v1/track",
            "/x",
        )
        for method in ("HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            for path in paths:
                client.request(method, f"{api.url}{path}", timeout=10)
        # The answer is longer than one piece, and complete from the start.
        assert all(len(client.get(f"{api.url}/metrics", timeout=10).content) > 64 * 1024 for _ in range(3))


def test_a_connection_that_the_client_does_not_close_after_its_answer_is_closed(tmp_path: Path) -> None:
    """The worker closes it after 2 s; between two requests, a client may be silent for 620 s."""
    request = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with (
        api_without_kafka(tmp_path, GUNICORN_CMD_ARGS="--keep-alive 3600") as api,
        connections(api.url, 5, request) as clients,
    ):
        for client in clients:
            assert b"200 OK" in read_all(client)
        eventually(lambda: not open_connections(api), what="the end of the connections")


def test_incomplete_requests_take_a_bounded_amount_of_memory(api: ApiServer) -> None:
    large = POST.replace(b"/track", b"/track/batch") + b"Content-Length: 1000000\r\n\r\n" + b" " * 999_000
    with connections(api.url, 80, large) as clients:
        refused = eventually(lambda: select.select(clients, [], [], 0)[0], what="a refusal")
        answer = read_all(refused[0])
        assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"\r\nRetry-After: 1\r\n" in answer
        assert len(refused) < 40


def test_a_stop_does_not_wait_for_slow_clients(tmp_path: Path) -> None:
    with (
        api_without_kafka(tmp_path, API_THREADS="1") as api,
        connections(api.url, 5, b""),
        connections(api.url, 5, POST),
    ):
        requests.get(f"{api.url}/health/live", timeout=10)
        # Within gunicorn's grace period of 30 s; the exit code of a killed worker would differ.
        assert api.stop(timeout=20) == 0
