"""What only a raw socket can send to a real gunicorn."""

import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import requests

from ops.local.ports import free_port
from tests.servers import ApiServer

EVENT = b'{"customer_id":"mallory","event_type":"click"}'
LIMIT = 64 * 1024


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    api = ApiServer(tmp_path_factory.mktemp("api"), {"KAFKA_BROKERS": f"127.0.0.1:{free_port()}"})
    api.start()
    api.wait_until_ready()
    yield api
    api.kill()


def post(api: ApiServer, headers: bytes, body: bytes, path: str = "/api/v1/track") -> tuple[int, dict[str, str]]:
    """Send a request as it is, say that nothing more comes, and give the answer's status and JSON."""
    url = urlsplit(api.url)
    with socket.create_connection((url.hostname, url.port), timeout=10) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
        connection.sendall(head.encode() + headers + b"\r\n\r\n" + body)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head_, _, json_ = answer.partition(b"\r\n\r\n")
    return int(head_.split()[1]), json.loads(json_)


def chunks(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


CHUNKED = b"Transfer-Encoding: chunked"


def test_a_chunked_body_is_taken(api: ApiServer) -> None:
    assert post(api, CHUNKED, chunks(EVENT[:10], EVENT[10:]))[0] == 202


def test_a_chunked_body_over_the_limit_is_not_cut_off_but_refused(api: ApiServer) -> None:
    padded = EVENT + b" " * (LIMIT - len(EVENT))
    status, answer = post(api, CHUNKED, chunks(padded, b"THIS IS NOT JSON"))
    assert (status, answer["message"]) == (413, "The body may have at most 65536 bytes.")


def test_a_chunked_body_with_a_wrong_size_is_the_clients_fault(api: ApiServer) -> None:
    assert post(api, CHUNKED, b"zz\r\n" + EVENT + b"\r\n0\r\n\r\n")[0] == 400


def test_a_chunked_body_that_ends_early_is_refused(api: ApiServer) -> None:
    assert post(api, CHUNKED, b"100\r\n" + EVENT)[0] == 400


def test_a_body_shorter_than_announced_is_refused(api: ApiServer) -> None:
    assert post(api, b"Content-Length: 500", EVENT)[0] == 400


def test_a_doubled_slash_is_no_other_page(api: ApiServer) -> None:
    status, answer = post(api, b"Content-Length: %d" % len(EVENT), EVENT, path="/api/v1//track")
    assert (status, answer["status"]) == (404, "error")


def test_a_query_does_not_break_the_metrics(api: ApiServer) -> None:
    assert requests.get(f"{api.url}/metrics?name[]=foo", timeout=10).status_code == 200
