"""When a request is complete enough for a thread to begin with it, and how many connections a worker takes."""

import resource

import pytest

from api.connections import BODY_SECONDS, REQUEST_SECONDS, Incoming, _most_connections

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"


def complete(*pieces: bytes) -> bool:
    incoming = Incoming(b"", 0.0)
    for piece in pieces:
        incoming.add(piece)
    return incoming.complete


@pytest.mark.parametrize(
    "request_",
    [
        HEAD + b"\r\n",
        HEAD + b"Content-Length: 0\r\n\r\n",
        HEAD + b"Content-Length: 5\r\n\r\nhello",
        HEAD + b"content-length:5 \r\n\r\nhello and the next",
    ],
)
def test_it_is_when_all_of_it_is_there(request_: bytes) -> None:
    assert complete(request_)


@pytest.mark.parametrize("part", [b"", b"POST", HEAD, HEAD + b"\r", HEAD + b"Content-Length: 5\r\n\r\nhell"])
def test_it_is_not_when_a_part_is_missing(part: bytes) -> None:
    assert not complete(part)


def test_it_may_come_byte_by_byte() -> None:
    incoming = Incoming(b"", 0.0)
    request = HEAD + b"Content-Length: 5\r\n\r\nhello"
    states = []
    for byte in request:
        incoming.add(bytes([byte]))
        states.append(incoming.complete)
    assert states == [False] * (len(request) - 1) + [True]
    assert bytes(incoming) == request


@pytest.mark.parametrize(
    "header",
    [
        b"Transfer-Encoding: chunked",
        b"Expect: 100-continue\r\nContent-Length: 5",
        b"Content-Length: 9999999999",
        b"Content-Length: 99999999999999999999999999",
        b"Content-Length: five",
    ],
)
def test_a_body_that_is_for_a_thread_to_read_or_to_refuse_is_not_waited_for(header: bytes) -> None:
    assert complete(HEAD + header + b"\r\n\r\n")


def test_a_header_in_the_body_is_no_header() -> None:
    assert not complete(HEAD + b"Content-Length: 50\r\n\r\n\r\nTransfer-Encoding: chunked\r\n")


def test_a_head_without_an_end_is_not_waited_for() -> None:
    incoming = Incoming(HEAD + b"A: b\r\n" * 20_000, 0.0)
    assert incoming.complete
    assert incoming.endless


def test_a_head_with_an_end_is_not_endless() -> None:
    incoming = Incoming(HEAD + b"Content-Length: 100000\r\n\r\n" + b"x" * 100_000, 0.0)
    assert incoming.complete
    assert not incoming.endless


def test_it_has_a_deadline() -> None:
    assert Incoming(b"", 100.0).deadline == 100.0 + REQUEST_SECONDS


def test_a_thread_waits_for_less_time_than_the_poller() -> None:
    assert BODY_SECONDS < REQUEST_SECONDS


@pytest.mark.parametrize(
    ("descriptors", "most"),
    [(resource.RLIM_INFINITY, 1000), (20_000, 1000), (1024, 924), (256, 156), (100, 50)],
)
def test_a_worker_takes_no_more_connections_than_it_has_descriptors_for(
    monkeypatch: pytest.MonkeyPatch, descriptors: int, most: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (descriptors, descriptors))
    assert _most_connections(1000) == most
