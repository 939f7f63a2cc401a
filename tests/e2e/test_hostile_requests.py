"""Malformed and unusual HTTP on a raw socket, to a real gunicorn."""

import gzip
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
import requests

from tests.clients import read_all
from tests.servers import ApiServer, api_without_kafka
from tests.waiting import eventually

EVENT = b'{"customer_id":"mallory","event_type":"click"}'
LIMIT = 64 * 1024


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with api_without_kafka(tmp_path_factory.mktemp("api"), API_WORKERS="2") as api:
        yield api


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.text)
        return document


def connect(api: ApiServer) -> socket.socket:
    url = urlsplit(api.url)
    return socket.create_connection((url.hostname, url.port), timeout=10)


def send(api: ApiServer, request: bytes) -> Answer:
    """Send a request unchanged, close the sending side, and return the answer."""
    with connect(api) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = read_all(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    return Answer(int(lines[0].split()[1]), headers, body.decode())


def post(api: ApiServer, headers: bytes, body: bytes, path: str = "/api/v1/track") -> tuple[int, dict[str, Any]]:
    """Post a body with these headers; returns the status and the JSON of the answer."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    answer = send(api, head.encode() + headers + b"\r\n\r\n" + body)
    return answer.status, answer.json


def chunks(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


CHUNKED = b"Transfer-Encoding: chunked"


def test_a_chunked_body_is_accepted(api: ApiServer) -> None:
    assert post(api, CHUNKED, chunks(EVENT[:10], EVENT[10:]))[0] == 202


def test_a_chunked_body_over_the_limit_is_refused_and_not_cut(api: ApiServer) -> None:
    padded = EVENT + b" " * (LIMIT - len(EVENT))
    status, answer = post(api, CHUNKED, chunks(padded, b"THIS IS NOT JSON"))
    assert (status, answer["message"]) == (413, "The body may have at most 65536 bytes.")


def test_a_chunked_body_with_a_wrong_size_is_the_clients_fault(api: ApiServer) -> None:
    assert post(api, CHUNKED, b"zz\r\n" + EVENT + b"\r\n0\r\n\r\n")[0] == 400


@pytest.mark.parametrize("coding", [b"chunked", b"Chunked", b" \tchunked\t"])
def test_a_coding_may_be_written_as_http_allows(api: ApiServer, coding: bytes) -> None:
    assert post(api, b"Transfer-Encoding:" + coding, chunks(EVENT))[0] == 202


def test_a_transfer_encoding_of_gzip_is_refused(api: ApiServer) -> None:
    status, answer = post(api, b"Transfer-Encoding: gzip, chunked", chunks(gzip.compress(EVENT)))
    assert (status, answer["message"]) == (501, "The only Transfer-Encoding that is understood is chunked.")


def test_a_body_in_too_many_chunks_is_refused(api: ApiServer) -> None:
    body = chunks(*(b" " for _ in range(8_500)), EVENT)
    status, answer = post(api, CHUNKED, body)
    assert (status, answer["message"]) == (400, "The body has too many chunks, or too much framing around them.")


def test_a_body_in_many_small_chunks_is_accepted(api: ApiServer) -> None:
    assert post(api, CHUNKED, chunks(*(b" " for _ in range(8_000)), EVENT))[0] == 202


def test_a_chunked_body_that_ends_early_is_refused(api: ApiServer) -> None:
    assert post(api, CHUNKED, b"100\r\n" + EVENT)[0] == 400


def test_a_body_shorter_than_announced_is_refused(api: ApiServer) -> None:
    assert post(api, b"Content-Length: 500", EVENT)[0] == 400


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\x16\x03\x01\x02\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nno header\r\n\r\n", 400),
        (b"POST /api/v1/track HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n", 400),
        (b"GET /?key=s3cret" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: x\r\nExpect: tea\r\n\r\n", 417),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 9_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: x\r\n" * 20_000, 431),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, foo\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Deflate\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity, chunked\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", 400),
    ],
)
def test_malformed_http_gets_an_answer_in_the_usual_form(api: ApiServer, request_: bytes, status: int) -> None:
    answer = send(api, request_)
    assert answer.status == status
    assert list(answer.json) == ["status", "message", "errors", "request_id"]
    assert answer.text == json.dumps(answer.json, separators=(",", ":")) + "\n"
    assert answer.headers["x-request-id"] == answer.json["request_id"]


@pytest.mark.parametrize(
    "rest",
    [
        b"A: " + b"x" * 9_000 + b"\r\n\r\n",
        b"A: x\r\n" * 20_000,
        b"Expect: tea\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 5_000,
    ],
)
def test_a_page_can_read_an_answer_given_before_the_app(rest: bytes, tmp_path: Path) -> None:
    with api_without_kafka(tmp_path, API_CORS_ORIGINS="https://shop.example") as api:
        head = b"POST /api/v1/track HTTP/1.1\r\nHost: x\r\nOrigin: %s\r\n"
        answer = send(api, head % b"https://shop.example" + rest)
        assert answer.status >= 400
        assert answer.headers["access-control-allow-origin"] == "https://shop.example"
        assert "access-control-allow-origin" not in send(api, head % b"https://else.example" + rest).headers


def test_malformed_http_is_logged_without_its_url(api: ApiServer) -> None:
    send(api, b"GET /?key=s3cret" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    eventually(lambda: "a request was refused before the app" in api.output())
    assert "s3cret" not in api.output()


def test_malformed_http_is_counted(api: ApiServer) -> None:
    send(api, b"nonsense\r\n\r\n")
    exposed = requests.get(f"{api.url}/metrics", timeout=5).text
    assert re.search(r'^pulse_api_rejected_total{reason="unreadable"} [1-9]', exposed, re.MULTILINE)
    assert 'pulse_api_requests_total{method="(other)",path="(unknown)",status="400"}' in exposed


def test_pipelined_requests_are_answered_in_order(api: ApiServer) -> None:
    head = b"POST /api/v1/track HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    one = head + b"Content-Length: %d\r\n\r\n" % len(EVENT) + EVENT
    with connect(api) as connection:
        connection.sendall(one * 3)
        connection.shutdown(socket.SHUT_WR)
        answers = read_all(connection)
    assert answers.count(b"HTTP/1.1 202") == 3


def test_a_client_that_expects_100_continue_gets_it(api: ApiServer) -> None:
    with connect(api) as connection:
        connection.sendall(
            b"POST /api/v1/track HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
            b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(EVENT)
        )
        assert connection.recv(65536).startswith(b"HTTP/1.1 100 Continue")
        connection.sendall(EVENT)
        assert read_all(connection).startswith(b"HTTP/1.1 202")


def test_a_zipped_chunked_body_is_accepted(api: ApiServer) -> None:
    zipped = gzip.compress(EVENT)
    assert post(api, CHUNKED + b"\r\nContent-Encoding: gzip", chunks(zipped[:5], zipped[5:]))[0] == 202


def test_a_double_slash_leads_to_no_other_page(api: ApiServer) -> None:
    status, answer = post(api, b"Content-Length: %d" % len(EVENT), EVENT, path="/api/v1//track")
    assert (status, answer["status"]) == (404, "error")


@pytest.mark.parametrize(
    "header", [b"SCRIPT_NAME: /x", b"X-Forwarded-Proto: https", b"X-Forwarded-Ssl: on", b"Forwarded: proto=https"]
)
def test_headers_of_proxies_are_ignored(api: ApiServer, header: bytes) -> None:
    assert post(api, b"Content-Length: %d\r\n%s" % (len(EVENT), header), EVENT)[0] == 202


def test_a_query_does_not_break_the_metrics(api: ApiServer) -> None:
    assert requests.get(f"{api.url}/metrics?name[]=foo", timeout=10).status_code == 200
