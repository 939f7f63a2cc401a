"""The fast path answers, keeps and counts a request exactly as Flask does."""

import gzip
import json
import random
import re
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from typing import Any, NamedTuple

import pytest
from flask import Flask
from gunicorn.config import Config
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest

from api.intake import Receipt, accept_batch
from api.server.connection import Connection
from api.server.worker import answer_of
from common.settings import AccessSettings
from common.write_keys import WriteKey
from tests import sdk_messages
from tests.apps import build_app, take_accepted
from tests.fakes import FakeBroker
from tests.odd_json import Writer
from tests.sent import events, things

EVENT = b'{"customer_id":"alice","event_type":"click","properties":{"price":1.5}}'
BATCH = b'{"events":[%s,%s]}' % (EVENT, EVENT)
MESSAGE = (
    b'{"messageId":"m-1","userId":"alice","event":"Order Completed","sentAt":"2026-01-31T12:00:00Z","type":"track"}'
)
KEY = "s3cret"
AS_USER = b64encode(f"{KEY}:".encode()).decode()
ACCESS = {
    "open": AccessSettings(),
    "with keys": AccessSettings(keys=(WriteKey("web", KEY), WriteKey("app", "other"))),
    "with origins": AccessSettings(origins=frozenset({"https://shop.example"})),
    "with a bound key": AccessSettings(
        keys=(WriteKey("web", KEY, frozenset({"https://shop.example"}), 1_000_000), WriteKey("app", "other"))
    ),
    "for all origins": AccessSettings(origins=frozenset({"*"}), keys=(WriteKey("web", KEY),)),
}
CFG = Config()

# The parts that differ between two answers to the same request: generated ids and the time.
_GENERATED = [
    (re.compile(rb"evt_[0-9a-f-]{36}"), b"evt_"),
    (re.compile(rb"Date: [^\r]+"), b"Date:"),
    (re.compile(rb"[0-9a-f]{32}"), b"(id)"),
]


class Seen(NamedTuple):
    """The visible results of a request: its answer, the accepted events, and the metrics."""

    answer: bytes
    accepted: list[dict[str, Any]]
    counted: list[str]


def app_with(access: AccessSettings, capacity: int = 100_000) -> Flask:
    return build_app(FakeBroker(), access, capacity)


def request(path: str, body: bytes, *headers: str, method: str = "POST", version: str = "1.1") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", *headers, f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def without_generated(answer: bytes) -> bytes:
    for pattern, instead in _GENERATED:
        answer = pattern.sub(instead, answer)
    return answer


def seen(app: Flask, sent: bytes, *, fast: bool) -> Seen | None:
    """The results of a request; None if the fast path leaves it to Flask."""
    connection = Connection(None, ("127.0.0.1", 1), ("127.0.0.1", 8080), CFG)
    connection.receive(sent, 0.0)
    parsed: Any = connection.next_request()
    if fast:
        answer = app.extensions["fast_path"](parsed, parsed.body.getvalue())
        if answer is None:
            return None
    else:
        answer = b"".join(answer_of(app, CFG, connection, parsed, close=False))
    accepted = [json.loads(event.value) for event in take_accepted(app)]
    for event in accepted:
        event["event_id"] = re.sub(r"evt_[0-9a-f-]{36}", "evt_", event["event_id"])
    lines = generate_latest(app.extensions["metrics"]._registry).decode().splitlines()
    counted = [line for line in lines if not re.search(r"_bucket|_sum|_created|^#|seconds ", line)]
    return Seen(without_generated(answer), accepted, counted)


class At(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime(2026, 1, 31, 12, tzinfo=tz)


@pytest.fixture(autouse=True, scope="module")
def clock_stands() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in ("api.fast_path", "api.routes", "api.protocols.routes"):
            patch.setattr(f"{module}.datetime", At)
        yield


@pytest.fixture(scope="module", params=list(ACCESS))
def access(request: pytest.FixtureRequest) -> AccessSettings:
    return ACCESS[request.param]


@pytest.mark.parametrize(("path", "body"), [("/api/v1/track", EVENT), ("/api/v1/track/batch", BATCH)])
def test_the_fast_path_takes_a_plain_request(path: str, body: bytes) -> None:
    origin = "Origin: https://shop.example"
    sent = request(path, body, "Host: x", "Content-Type: application/json", f"Authorization: Bearer {KEY}", origin)
    for access in ACCESS.values():
        assert seen(app_with(access), sent, fast=True) is not None


@pytest.mark.parametrize("path", ["/v1/track", "/v1/t"])
@pytest.mark.parametrize(
    "key",
    [f"Authorization: Bearer {KEY}", f"Authorization: Basic {b64encode(KEY.encode()).decode()}", f"X-API-Key: {KEY}"],
)
def test_the_fast_path_takes_one_message_of_an_sdk(path: str, key: str) -> None:
    sent = request(path, MESSAGE, "Host: x", "Content-Type: text/plain", key, "Origin: https://shop.example")
    for access in ACCESS.values():
        assert seen(app_with(access), sent, fast=True) is not None


def test_the_fast_path_reads_the_key_in_the_message() -> None:
    body = MESSAGE[:-1] + b',"writeKey":"%s"}' % KEY.encode()
    assert seen(app_with(ACCESS["with keys"]), request("/v1/track", body, "Host: x"), fast=True) is not None


@pytest.mark.parametrize(
    "sent",
    [
        request("/v1/track?writeKey=s3cret", MESSAGE, "Host: x"),
        request("/v1/track/", MESSAGE, "Host: x"),
        request("/v1/track", MESSAGE, "Host: x", "Content-Encoding: gzip"),
        request("/v1/track", gzip.compress(MESSAGE), "Host: x"),
        request("/v1/track", b'{"userId":"alice"}', "Host: x"),
        request("/v1/track", b'{"userId":"alice","event":"e","properties":{"x":NaN}}', "Host: x"),
        request("/v1/track", b'{"userId":"alice","event":"e","properties":{"$x":1}}', "Host: x"),
        request("/v1/track", b'{"userId":"alice","event":"e","properties":"%s"}' % (b"x" * 64 * 1024), "Host: x"),
        request("/v1/batch", b'{"batch":[%s]}' % MESSAGE, "Host: x"),
        request("/api/v1/track", EVENT, "Host: x", "Content-Type: text/plain"),
        request("/api/v1/track", EVENT, "Host: x"),
        request("/api/v1/track", EVENT, "Content-Type: application/json"),
        request("/api/v1/track?x=y", EVENT, "Host: x", "Content-Type: application/json"),
        request("/api/v1/track/", EVENT, "Host: x", "Content-Type: application/json"),
        request("/api/v1/track", EVENT, "Host: x", "Content-Type: application/json", "Content-Encoding: gzip"),
        request("/api/v1/track", EVENT, "Host: x", "Content-Type: application/json", "Connection: close"),
        request("/api/v1/track", EVENT, "Host: x", "Content-Type: application/json", "Upgrade: websocket"),
        request(
            "/api/v1/track", EVENT, "Host: x", "Content-Type: application/json", "X-Request-ID: a", "X-Request-ID: b"
        ),
        request("/api/v1/track", EVENT, "Host: x", "Content-Type: application/json", method="PUT"),
        request("/api/v1/track", EVENT, "Host: x", "Content-Type: application/json", version="1.0"),
        request("/api/v1/track", b"{}", "Host: x", "Content-Type: application/json"),
        request("/api/v1/track", BATCH, "Host: x", "Content-Type: application/json"),
        request("/api/v1/track/batch?partial=true", BATCH, "Host: x", "Content-Type: application/json"),
    ],
)
def test_an_unusual_request_is_for_flask(sent: bytes) -> None:
    app = app_with(AccessSettings())
    assert seen(app, sent, fast=True) is None
    assert take_accepted(app) == []


def test_a_request_without_a_valid_key_is_for_flask() -> None:
    app = app_with(ACCESS["with keys"])
    sent = request("/api/v1/track", EVENT, "Host: x", "Content-Type: application/json", "X-API-Key: wrong")
    assert seen(app, sent, fast=True) is None


def test_a_request_for_which_there_is_no_room_is_for_flask() -> None:
    app = app_with(AccessSettings(), capacity=1)
    sent = request("/api/v1/track/batch", BATCH, "Host: x", "Content-Type: application/json")
    # An empty queue accepts one request of any size.
    app.extensions["delivery"].queue.put(accept_batch(BATCH, Receipt(datetime.now(UTC))))
    assert seen(app, sent, fast=True) is None
    assert len(take_accepted(app)) == 2


def test_a_request_over_the_rate_of_its_key_is_for_flask() -> None:
    app = app_with(AccessSettings(keys=(WriteKey("web", KEY, rate=1),)))
    sent = request("/api/v1/track/batch", BATCH, "Host: x", "Content-Type: application/json", f"X-API-Key: {KEY}")
    assert seen(app, sent, fast=True) is not None
    assert seen(app, sent, fast=True) is None


def test_with_a_log_line_per_request_all_requests_are_for_flask(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="api")
    assert app_with(AccessSettings()).extensions["fast_path"] is None


_headers = st.fixed_dictionaries(
    {},
    optional={
        "Content-Type": st.sampled_from(
            ["application/json"] * 6 + ["application/json; charset=utf-8", "text/plain", "x"]
        ),
        "Host": st.sampled_from(["localhost:8080"] * 6 + ["[::1]:8080", "a b", "", "shop.example", "a..b", "x" * 300]),
        "X-Request-ID": st.sampled_from(["abc", "a b", "", "x" * 129, "ä"]),
        "Authorization": st.sampled_from([f"Bearer {KEY}", f"bearer  {KEY} ", "Bearer wrong", f"Basic {KEY}", KEY]),
        "X-API-Key": st.sampled_from([KEY, "wrong", "", "ä"]),
        "Origin": st.sampled_from(["https://shop.example", "HTTPS://SHOP.EXAMPLE", "https://else.example", "null", ""]),
        "Connection": st.sampled_from(["keep-alive", "close", "Keep-Alive", "upgrade"]),
        "Upgrade": st.just("websocket"),
        "Accept": st.sampled_from(["*/*", "text/html"]),
        "Cookie": st.just("a=b"),
        "Content-Encoding": st.sampled_from(["identity", "gzip"]),
        "X-HTTP-Method-Override": st.just("GET"),
        "X-Forwarded-Proto": st.just("https"),
        "Range": st.just("bytes=0-1"),
        "If-None-Match": st.just("*"),
    },
)
_common = st.just({"Content-Type": "application/json", "Host": "localhost:8080"})
_bodies = st.one_of(
    events.map(lambda event: json.dumps(event).encode()),
    things.map(lambda thing: json.dumps(thing).encode()),
    st.lists(events, max_size=3).map(lambda batch: json.dumps({"events": batch}).encode()),
    st.integers(0, 2**32).map(lambda seed: (writer := Writer(random.Random(seed))).bytes_of(writer.event())),
    st.integers(0, 2**32).map(lambda seed: (writer := Writer(random.Random(seed))).bytes_of(writer.batch())),
)


@given(
    st.sampled_from(
        ["/api/v1/track", "/api/v1/track/batch", "/api/v1/track?key=s3cret", "/api/v1/track/batch?partial=1"]
    ),
    st.sampled_from(["POST"] * 8 + ["GET", "PUT", "OPTIONS"]),
    st.one_of(_common, st.tuples(_common, _headers).map(lambda two: {**two[0], **two[1]}), _headers),
    _bodies,
)
def test_an_event_is_answered_kept_and_counted_as_through_flask(
    access: AccessSettings, path: str, method: str, headers: dict[str, str], body: bytes
) -> None:
    check_the_same(access, path, method, headers, body)


@given(
    sdk_messages.PATHS | st.sampled_from(["/v1/t", "/v1/i", "/v1/p?writeKey=s3cret", "/v1/batch"]),
    st.one_of(
        _common, st.tuples(_common, _headers, sdk_messages.HEADERS).map(lambda all_: {**all_[2], **all_[1], **all_[0]})
    ),
    st.one_of(sdk_messages.LIKELY, sdk_messages.LIKELY, sdk_messages.MESSAGES, things),
)
def test_a_message_of_an_sdk_is_answered_kept_and_counted_as_through_flask(
    access: AccessSettings, path: str, headers: dict[str, str], message: Any
) -> None:
    check_the_same(access, path, "POST", headers, json.dumps(message).encode())


def check_the_same(access: AccessSettings, path: str, method: str, headers: dict[str, str], body: bytes) -> None:
    """If the fast path takes the request, the results are those of Flask."""
    sent = request(path, body, *(f"{name}: {value}" for name, value in headers.items()), method=method)
    fast = seen(app_with(access), sent, fast=True)
    if fast is not None:
        assert fast == seen(app_with(access), sent, fast=False)
