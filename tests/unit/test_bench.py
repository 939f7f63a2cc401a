"""The tools of `make bench` count and compare correctly."""

import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from loadtest.bench import noop
from loadtest.bench.load import Load, answer, drive, request
from loadtest.bench.report import DOCUMENT, Row, Target, replaced, table


class Full(BaseHTTPRequestHandler):
    """An API that answers 503 to each body once, then 202."""

    protocol_version = "HTTP/1.1"
    seen: set[bytes]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(202 if body in self.seen else 503)
        self.seen.add(body)
        self.send_header("Retry-After", "0")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    Full.seen = set()
    with ThreadingHTTPServer(("127.0.0.1", 0), Full) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def requests(count: int) -> list[bytes]:
    return [request("/", str(number).encode()) for number in range(count)]


def test_the_client_sends_refused_requests_again(port: int) -> None:
    load = drive(port, requests(20), connections=4)
    assert load.answers == {503: 20, 202: 20}
    assert len(load.latencies) == 20


def test_the_client_keeps_a_pace(port: int) -> None:
    load = drive(port, requests(20), connections=4, rate=200)
    assert load.answers[202] == 20
    assert load.seconds >= 19 / 200


def test_an_answer_is_read_to_its_end(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        for status in (503, 202):
            sock.sendall(request("/", b"once more"))
            assert answer(sock) == status


def test_an_answer_that_ends_early_is_an_error() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{")
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionError):
            answer(ours)


def test_a_percentile_is_the_latency_that_a_share_of_the_answers_reaches() -> None:
    load = Load(latencies=[0.001 * n for n in range(100)])
    assert load.milliseconds(0.99) == pytest.approx(99)


@pytest.mark.parametrize(("target", "met"), [(Target(at_least=2), True), (Target(at_most=1), False), (None, None)])
def test_a_target_is_met_by_the_median(target: Target | None, met: bool | None) -> None:
    assert Row("", "", [0, 2, 9], target).met is met


def test_the_table_has_the_ratio_of_the_medians_of_rounds() -> None:
    text = table([Row("what", "us", [10, 20], Target(at_most=12), ("half", [20, 40]))])
    cells = [cell.strip() for cell in text.splitlines()[-1].split("|")[1:-1]]
    assert cells == ["what", "us", "10.0", "15.0", "20.0", "0.50 × half", "≤ 12.0", "not met"]


def test_the_no_op_app_has_every_extension_that_our_hooks_start_in_a_worker() -> None:
    settings = (DOCUMENT.parent.parent / "api" / "gunicorn.conf.py").read_text()
    started = set(re.findall(r'extensions\["(\w+)"\]', settings))
    assert started
    assert started <= noop.app.extensions.keys()


_DOCUMENT = """\
# Speed
<!-- api: written by `make bench` -->
old
<!-- end -->
Between.
<!-- consumer: written by `make bench` -->
old
<!-- end -->
"""


def test_a_part_that_is_measured_again_replaces_only_its_own_figures() -> None:
    assert replaced(_DOCUMENT, "api", "new") == _DOCUMENT.replace("old", "new", 1)


def test_figures_without_a_place_are_refused() -> None:
    with pytest.raises(ValueError, match="no place for kill"):
        replaced(_DOCUMENT, "kill", "new")


@pytest.mark.parametrize("part", ["rivals", "api", "consumer"])
def test_the_document_has_a_place_for_each_part(part: str) -> None:
    assert "new" in replaced(DOCUMENT.read_text(), part, "new")
