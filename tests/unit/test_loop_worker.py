"""The worker of the API under gunicorn: failing requests, answers after a commit, and limits per client."""

import io
import math
import os
import resource
import selectors
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from gunicorn.config import Config

from api.auth import Cors
from api.journal.journal import DATA, Journal
from api.server.connection import Connection
from api.server.worker import LoopWorker, _is_quick, most_connections
from tests.apps import build_app
from tests.bad_disks import FULL, bad_disk
from tests.fakes import FakeBroker

TRACK = b"POST /api/v1/track HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 46\r\n\r\n"
EVENT = b'{"customer_id":"mallory","event_type":"click"}'


def fail(*_: Any) -> None:
    raise ZeroDivisionError


def opened(worker: LoopWorker) -> Connection:
    """A connection with a complete request."""
    connection = Connection(None, ("127.0.0.1", 1), ("127.0.0.1", 2), worker.cfg)
    connection.receive(TRACK + EVENT, 0.0)
    worker._connections.add(connection)
    return connection


def worker_of(app: Flask) -> LoopWorker:
    """A worker without a running loop."""
    worker = LoopWorker(1, os.getpid(), [], None, 30, Config(), None)
    worker.wsgi = app
    worker._queue = app.extensions["delivery"].queue
    worker._fast_path = app.extensions["fast_path"]
    worker._cors = Cors(frozenset(), frozenset())
    return worker


@pytest.mark.parametrize("failing", ["_fast_path", "wsgi"])
def test_an_unexpected_error_is_answered_500_and_does_not_end_the_worker(app: Flask, failing: str) -> None:
    worker = worker_of(app)
    app.wsgi_app, worker._fast_path = fail, fail if failing == "_fast_path" else None  # type: ignore[method-assign, assignment]
    connection = opened(worker)
    assert not worker._advance(connection)
    assert connection.out.startswith(b"HTTP/1.1 500 ")
    assert connection.last
    worker.tmp.close()


@pytest.fixture
def grouped(tmp_path: Path) -> Iterator[LoopWorker]:
    """A worker whose requests share a commit to its journal, and which sends no events to Kafka."""
    journal = Journal(tmp_path, max_bytes=2**20, sync=True)
    worker = worker_of(build_app(FakeBroker()))
    worker._queue.keep_in(journal)
    worker._queue.grouped_by = threading.get_ident()
    yield worker
    worker._queue.grouped_by = None
    worker.tmp.close()
    journal.close()


@pytest.mark.parametrize("through_flask", [False, True])
def test_the_answers_of_a_turn_are_written_after_its_commit(grouped: LoopWorker, through_flask: bool) -> None:
    if through_flask:
        grouped._fast_path = None
    connections = [opened(grouped) for _ in range(3)]
    waiting = [connection for connection in connections if grouped._advance(connection)]
    assert waiting == connections
    assert grouped._queue.journal.events == 0
    grouped._commit(waiting)
    assert grouped._queue.journal.events == 3
    assert all(connection.out.startswith(b"HTTP/1.1 202 ") for connection in connections)


@pytest.mark.parametrize("through_flask", [False, True])
def test_all_requests_of_a_turn_are_answered_503_when_the_commit_fails(
    grouped: LoopWorker, tmp_path: Path, through_flask: bool
) -> None:
    if through_flask:
        grouped._fast_path = None
    waiting = [connection for connection in [opened(grouped) for _ in range(3)] if grouped._advance(connection)]
    with bad_disk(FULL, tmp_path / DATA):
        grouped._commit(waiting)
    assert len(waiting) == 3
    for connection in waiting:
        assert connection.out.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: 1\r\n" in connection.out
        assert b"disk that keeps events until Kafka has them is full" in connection.out


def client_of(worker: LoopWorker) -> socket.socket:
    """The client's end of a new connection."""
    client, server = socket.socketpair()
    client.settimeout(30)
    server.setblocking(False)
    connection = Connection(server, ("127.0.0.1", 1), ("127.0.0.1", 2), worker.cfg)
    connection.watched = selectors.EVENT_READ
    worker._connections.add(connection)
    worker._selector.register(server, selectors.EVENT_READ, connection)
    return client


def test_a_request_that_arrives_while_another_is_processed_shares_its_commit(
    grouped: LoopWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, commit = grouped._fast_path, grouped._queue.commit
    unsent, committed = [TRACK + EVENT], []

    def with_second(*request: Any) -> Any:
        while unsent:
            second.sendall(unsent.pop())
        return process(*request)

    def counted() -> None:
        committed.append(grouped._queue.uncommitted)
        commit()

    monkeypatch.setattr(grouped, "_fast_path", with_second)
    monkeypatch.setattr(grouped._queue, "commit", counted)
    grouped._look_at = math.inf
    with selectors.DefaultSelector() as grouped._selector, client_of(grouped) as first, client_of(grouped) as second:
        first.sendall(TRACK + EVENT)
        grouped._turn()
        assert committed == [2]
        assert first.recv(4096).startswith(b"HTTP/1.1 202 ")
        assert second.recv(4096).startswith(b"HTTP/1.1 202 ")
    for connection in grouped._connections:
        connection.sock.close()


@pytest.mark.parametrize(
    ("descriptors", "most"),
    [(resource.RLIM_INFINITY, 1000), (20_000, 1000), (1024, 924), (256, 156), (100, 50)],
)
def test_a_worker_accepts_no_more_connections_than_it_has_descriptors_for(
    monkeypatch: pytest.MonkeyPatch, descriptors: int, most: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (descriptors, descriptors))
    assert most_connections(1000) == most


def request_of(path: str, body: bytes | None) -> Any:
    return SimpleNamespace(path=path, body=object() if body is None else io.BytesIO(body))


@pytest.mark.parametrize(
    ("path", "body", "quick"),
    [
        ("/api/v1/track/batch", b"x" * 1_000_000, True),
        ("/health/live", b"", True),
        ("/metrics", b"", False),
        ("/v1/track", b"{}", True),
        ("/v1/projects/x/settings", b"", True),
        ("/v1/batch", b"x" * 65_536, True),
        ("/v1/batch", b"x" * 65_537, False),
        ("/v1/batch", b"\x1f\x8b", False),
        # A chunked body, whose length only gunicorn knows.
        ("/v1/batch", None, False),
        ("/api/v1/cloudevents", b"x" * 65_537, False),
    ],
)
def test_slow_requests_are_answered_in_a_thread(path: str, body: bytes | None, quick: bool) -> None:
    assert _is_quick(request_of(path, body)) == quick


def test_an_event_accepted_in_a_thread_is_kept_before_its_answer(grouped: LoopWorker) -> None:
    connection = opened(grouped)
    request = connection.next_request()
    before = grouped._queue.journal.events
    thread = threading.Thread(target=grouped._begin_answer, args=(connection, request))
    thread.start()
    thread.join(30)
    assert connection.out.startswith(b"HTTP/1.1 202")
    assert grouped._queue.journal.events == before + 1
    assert grouped._queue.uncommitted == 0


class Sink:
    """The socket of a client that receives all bytes at once."""

    def __init__(self) -> None:
        self.taken = 0

    def send(self, data: bytes) -> int:
        self.taken += len(data)
        return len(data)


def test_a_client_with_a_large_answer_gets_a_limited_part_per_turn(app: Flask) -> None:
    worker = worker_of(app)
    connection = opened(worker)
    connection.sock = Sink()
    connection.out, connection.rest = b"x", iter([bytes(64 * 1024)] * 100)
    taken = []
    while connection.out:
        worker._send_out(connection, 0.0)
        taken.append(connection.sock.taken)
        connection.sock.taken = 0
    worker.tmp.close()
    assert max(taken) < 256 * 1024
    assert sum(taken) == 100 * 64 * 1024 + 1
