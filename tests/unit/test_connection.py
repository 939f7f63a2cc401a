"""A connection's requests: when one is complete, its body, its limits, and where the next one begins."""

from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import ParseException
from hypothesis import given
from hypothesis import strategies as st

from api.protocols.paths import MAX_SDK_BATCH_BYTES
from api.server.connection import (
    CHUNKED_FOR_PLAIN,
    MAX_CHUNK_LINES_BYTES,
    MAX_CHUNKS,
    MAX_HEAD_BYTES,
    MAX_TRAILER_BYTES,
    Connection,
    EndlessBodyError,
    EndlessHeadError,
)
from common.events import MAX_BATCH_BYTES

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
HELLO = HEAD + b"Content-Length: 5\r\n\r\nhello"


def connection(*pieces: bytes) -> Connection:
    opened = Connection(None, ("127.0.0.1", 1), ("127.0.0.1", 2), Config())
    for piece in pieces:
        opened.receive(piece, 0.0)
    return opened


def body_of(request: Any) -> bytes:
    body: bytes = request.body.read()
    return body


@pytest.mark.parametrize(
    ("sent", "body"),
    [
        (HEAD + b"\r\n", b""),
        (b"\r\n" + HELLO, b"hello"),
        (HELLO, b"hello"),
        (HEAD + b"content-length:5 \r\n\r\nhello", b"hello"),
        (CHUNKED + b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", b"hello"),
        (CHUNKED + b"05;name=value\r\nhello\r\n0\r\nA: trailer\r\n\r\n", b"hello"),
        (HEAD + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    ],
)
def test_a_request_is_complete_with_its_last_byte(sent: bytes, body: bytes) -> None:
    coming = connection()
    for number in range(len(sent)):
        assert coming.next_request() is None
        coming.receive(sent[number : number + 1], 0.0)
    assert body_of(coming.next_request()) == body
    assert coming.held == 0


@pytest.mark.parametrize(
    "first", [HELLO, CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", CHUNKED + b"5\r\nhello\r\n0\r\nA: b\r\n\r\n"]
)
def test_the_next_request_begins_where_the_first_ends(first: bytes) -> None:
    coming = connection(first + HELLO)
    request = coming.next_request()
    assert coming.finish_body(request)
    assert body_of(coming.next_request()) == b"hello"
    assert coming.next_request() is None


@given(st.lists(st.sampled_from([HELLO, HEAD + b"\r\n", CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"]), max_size=5), st.data())
def test_it_makes_no_difference_where_the_bytes_are_cut(requests: list[bytes], data: st.DataObject) -> None:
    sent = b"".join(requests)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=10)))
    coming = connection()
    found = []
    for begin, end in zip([0, *cuts], [*cuts, len(sent)], strict=True):
        coming.receive(sent[begin:end], 0.0)
        while (request := coming.next_request()) is not None:
            found.append(body_of(request))
    assert found == [b"" if request == HEAD + b"\r\n" else b"hello" for request in requests]


@pytest.mark.parametrize("size", [b"", b"zz", b"-1", b"0x5", b"5 5"])
def test_a_chunk_with_a_wrong_size_is_refused(size: bytes) -> None:
    request: Any = connection(CHUNKED + size + b"\r\nhello\r\n0\r\n\r\n").next_request()
    with pytest.raises(ParseException):
        request.body.read()


def test_a_chunk_longer_than_its_size_is_refused() -> None:
    coming = connection(CHUNKED + b"3\r\nhello\r\n0\r\n\r\n" + HELLO)
    request: Any = coming.next_request()
    with pytest.raises(ParseException):
        request.body.read()
    assert not coming.finish_body(request)


def test_the_connection_does_not_wait_for_a_body_that_is_too_long() -> None:
    coming = connection(HEAD + b"Content-Length: %d\r\n\r\n" % (MAX_BATCH_BYTES + 1))
    assert coming.next_request() is not None
    assert not coming.whole


def test_a_body_that_ends_early_is_handed_on_as_received() -> None:
    coming = connection(HEAD + b"Content-Length: 5\r\n\r\nhel")
    assert coming.next_request() is None
    coming.ended = True
    assert body_of(coming.next_request()) == b"hel"
    assert not coming.whole


def test_a_head_without_an_end_is_refused() -> None:
    with pytest.raises(EndlessHeadError):
        connection(HEAD + b"A: b\r\n" * (MAX_HEAD_BYTES // 6)).next_request()


def test_a_head_with_bare_line_feeds_is_refused_at_once() -> None:
    with pytest.raises(ParseException):
        connection(b"GET / HTTP/1.1\nHost: x\n\n").next_request()


def test_a_chunked_body_without_an_end_is_refused() -> None:
    coming = connection(CHUNKED)
    with pytest.raises(EndlessBodyError):
        for _ in range(CHUNKED_FOR_PLAIN * MAX_BATCH_BYTES // 60_000 + 2):
            coming.receive(b"ea60\r\n" + b"x" * 60_000 + b"\r\n", 0.0)
            assert coming.next_request() is None


def test_a_chunk_size_without_an_end_is_refused() -> None:
    coming = connection(CHUNKED + b"5;" + b"x" * CHUNKED_FOR_PLAIN * MAX_BATCH_BYTES)
    with pytest.raises(EndlessBodyError):
        coming.next_request()


@pytest.mark.parametrize("coding", ["gzip, chunked", "identity, chunked", "chunked, chunked", "x"])
def test_an_unsupported_transfer_coding_is_refused(coding: str) -> None:
    with pytest.raises(ParseException):
        connection(HEAD + f"Transfer-Encoding: {coding}\r\n\r\n".encode()).next_request()


def test_trailers_without_an_end_are_refused_when_they_arrive_in_pieces() -> None:
    coming = connection(CHUNKED + b"0\r\n")
    with pytest.raises(EndlessBodyError):
        for _ in range(MAX_TRAILER_BYTES):
            coming.receive(b"A: b\r\n", 0.0)
            assert coming.next_request() is None


def test_it_says_how_much_of_a_body_is_missing() -> None:
    coming = connection(HEAD + b"Content-Length: 5\r\n\r\nhe")
    assert coming.next_request() is None
    assert coming.missing == 3


def test_a_body_in_too_many_chunks_is_refused() -> None:
    assert connection(CHUNKED + b"1\r\nx\r\n" * MAX_CHUNKS + b"0\r\n\r\n").next_request() is not None
    with pytest.raises(EndlessBodyError):
        connection(CHUNKED + b"1\r\nx\r\n" * (MAX_CHUNKS + 1) + b"0\r\n\r\n").next_request()


def test_a_body_with_too_many_bytes_before_its_chunks_is_refused() -> None:
    chunk = b"1;%s\r\nx\r\n" % (b"a" * 998)
    chunks = MAX_CHUNK_LINES_BYTES // 1000
    assert connection(CHUNKED + chunk * chunks + b"0\r\n\r\n").next_request() is not None
    with pytest.raises(EndlessBodyError):
        connection(CHUNKED + chunk * (chunks + 1) + b"0\r\n\r\n").next_request()


def test_a_client_that_expects_100_continue_gets_it_once() -> None:
    coming = connection(HEAD + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    assert coming.next_request() is None
    assert coming.wants_to_be_asked()
    assert not coming.wants_to_be_asked()


def test_a_client_that_does_not_wait_for_100_continue_gets_none() -> None:
    coming = connection(HEAD + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\nh")
    assert coming.next_request() is None
    assert not coming.wants_to_be_asked()


def test_each_request_on_a_connection_may_expect_100_continue() -> None:
    asking = HEAD + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    coming = connection()
    for _ in range(2):
        coming.receive(asking, 0.0)
        assert coming.next_request() is None
        assert coming.wants_to_be_asked()
        coming.receive(b"hello", 0.0)
        assert coming.next_request() is not None


def test_the_time_of_a_request_begins_with_its_first_byte() -> None:
    coming = connection()
    assert coming.idle
    coming.receive(HEAD, 3.0)
    coming.receive(b"\r\n", 5.0)
    assert coming.began == 3.0
    coming.next_request()
    assert coming.began is None
    assert coming.idle


@pytest.mark.parametrize(
    ("path", "most"),
    [(b"/api/v1/track", MAX_BATCH_BYTES), (b"/v1/batch", MAX_SDK_BATCH_BYTES), (b"/docs", MAX_BATCH_BYTES)],
)
def test_the_path_limits_the_length_of_a_collected_body(path: bytes, most: int) -> None:
    begin = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    assert connection(begin % (path, most)).next_request() is None
    # The worker does not wait for a body that no route accepts.
    coming = connection(begin % (path, most + 1))
    assert coming.next_request() is not None
    assert not coming.whole


def test_the_path_limits_the_length_of_a_chunked_body() -> None:
    for path, most in ((b"/", MAX_BATCH_BYTES), (b"/v1/batch", MAX_SDK_BATCH_BYTES)):
        head = b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" % path
        assert connection(head, b"%x\r\n" % (2 * most - 100)).next_request() is None
        with pytest.raises(EndlessBodyError):
            connection(head, b"%x\r\n" % (2 * most)).next_request()
