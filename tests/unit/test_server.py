"""gunicorn's worker: what a failing request does, and how many connections it takes."""

import os
import resource
from typing import Any

import pytest
from flask import Flask
from gunicorn.config import Config

from api.connection import Connection
from api.server import LoopWorker, most_connections

TRACK = b"POST /api/v1/track HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 46\r\n\r\n"
EVENT = b'{"customer_id":"mallory","event_type":"click"}'


def fail(*_: Any) -> None:
    raise ZeroDivisionError


def worker_of(app: Flask) -> LoopWorker:
    """One that runs no loop."""
    worker = LoopWorker(1, os.getpid(), [], None, 30, Config(), None)
    worker.wsgi = app
    worker._queue = app.extensions["worker"].queue
    worker._fast_path = app.extensions["fast_path"]
    worker._origins = frozenset()
    return worker


@pytest.mark.parametrize("failing", ["_fast_path", "wsgi"])
def test_a_request_that_fails_unexpectedly_is_answered_500_and_ends_no_worker(app: Flask, failing: str) -> None:
    worker = worker_of(app)
    app.wsgi_app, worker._fast_path = fail, fail if failing == "_fast_path" else None  # type: ignore[method-assign, assignment]
    connection = Connection(None, ("127.0.0.1", 1), ("127.0.0.1", 2), worker.cfg)
    connection.receive(TRACK + EVENT, 0.0)
    assert not worker._advance(connection)
    assert connection.out.startswith(b"HTTP/1.1 500 ")
    assert connection.last
    worker.tmp.close()


@pytest.mark.parametrize(
    ("descriptors", "most"),
    [(resource.RLIM_INFINITY, 1000), (20_000, 1000), (1024, 924), (256, 156), (100, 50)],
)
def test_a_worker_takes_no_more_connections_than_it_has_descriptors_for(
    monkeypatch: pytest.MonkeyPatch, descriptors: int, most: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (descriptors, descriptors))
    assert most_connections(1000) == most
