"""Refused events: the records about them, without keys, within limits, and without delay for the answers."""

import base64
import gzip
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from api.refusals import BODY_BYTES, MOST_A_SECOND, MOST_WAITING, Refusals
from common.metrics import ApiMetrics
from common.settings import AccessSettings
from common.write_keys import WriteKey
from tests.apps import REFUSED, build_app
from tests.fakes import FakeBroker, FakeClock, FakeSender
from tests.waiting import eventually

TRACK = "/api/v1/track"
BATCH = "/api/v1/track/batch"
JSON = {"Content-Type": "application/json"}
RIGHT = {"customer_id": "alice", "event_type": "click"}
WRONG = {"customer_id": "alice", "event_type": "clck"}
SECRET = "s3cret-of-the-shop"


class Api:
    """An app whose clock a test moves, and its records about refused events."""

    def __init__(self, **access: Any) -> None:
        self.broker = FakeBroker()
        self.app = build_app(self.broker, AccessSettings(**access))
        self.refusals: Refusals = self.app.extensions["refusals"]
        self.clock = FakeClock()
        self.refusals._clock = self.clock
        self.client = self.app.test_client()

    def post(self, path: str, body: Any, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self.client.post(path, data=data, headers={**JSON, **names})

    def kept(self) -> list[dict[str, Any]]:
        """The records that wait for the thread, which does not run here."""
        found = []
        while not self.refusals._waiting.empty():
            found.append(json.loads(self.refusals._waiting.get().value or b""))
        return found

    def dropped(self) -> float:
        metrics: ApiMetrics = self.app.extensions["metrics"]
        return float(metrics.refused_dropped._value.get())


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def keyed() -> Api:
    return Api(keys=(WriteKey("web", SECRET),))


def test_an_invalid_event_is_kept_with_its_errors_and_its_origin(keyed: Api) -> None:
    keyed.post(
        TRACK, WRONG, X_API_Key=SECRET, X_Request_ID="id-1", Origin="https://shop.example", User_Agent="Shop/1.0"
    )
    (kept,) = keyed.kept()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT.*Z", kept.pop("refused_at"))
    assert kept.pop("errors")["event_type"][0].startswith("Must be one of: ")
    assert kept.pop("message").startswith("event_type: Must be one of: ")
    assert kept == {
        "request_id": "id-1",
        "status": 400,
        "reason": "invalid",
        "protocol": "pulse",
        "route": TRACK,
        "source": "web",
        "index": None,
        "user_agent": "Shop/1.0",
        "origin": "https://shop.example",
        "content_type": "application/json",
        "body": json.dumps(WRONG),
    }


def test_each_wrong_event_of_a_batch_is_kept_by_itself(api: Api) -> None:
    api.post(BATCH, {"events": [WRONG, RIGHT, {**RIGHT, "color": "red"}]})
    kept = api.kept()
    assert [(each["index"], json.loads(each["body"])) for each in kept] == [(0, WRONG), (2, {**RIGHT, "color": "red"})]
    assert [list(each["errors"]) for each in kept] == [["event_type"], ["color"]]


def test_the_refused_part_of_a_partial_batch_is_kept(api: Api) -> None:
    api.post(f"{BATCH}?partial=true", {"events": [RIGHT, WRONG]})
    assert [(each["index"], each["status"]) for each in api.kept()] == [(1, 400)]


@pytest.mark.parametrize(
    ("path", "body", "content_type", "told"),
    [
        (TRACK, b"{", None, (400, "invalid")),
        (BATCH, {"events": []}, None, (400, "invalid")),
        (BATCH, {"events": {"0": RIGHT}}, None, (400, "invalid")),
        (TRACK, RIGHT, "text/html", (415, "unsupported_type")),
        (TRACK, b" " * 70_000, None, (413, "too_large")),
        ("/api/v1/trak", RIGHT, None, (404, "not_found")),
        ("/health", RIGHT, None, (405, "method_not_allowed")),
    ],
)
def test_a_request_refused_as_a_whole_is_kept_as_one_record(
    api: Api, path: str, body: Any, content_type: str | None, told: tuple[int, str]
) -> None:
    api.post(path, body, Content_Type=content_type or "application/json")
    assert [(each["status"], each["reason"], each["route"], each["index"]) for each in api.kept()] == [
        (*told, path, None)
    ]


def test_a_request_without_a_key_is_kept(keyed: Api) -> None:
    keyed.post(TRACK, RIGHT)
    (kept,) = keyed.kept()
    assert (kept["status"], kept["body"], kept["source"]) == (401, json.dumps(RIGHT), None)


def test_a_request_without_events_is_not_kept(api: Api) -> None:
    api.client.get("/favicon.ico")
    api.client.options("/nothing")
    assert api.kept() == []


def test_an_accepted_event_is_not_kept(api: Api) -> None:
    api.post(TRACK, RIGHT)
    assert api.kept() == []


def test_a_request_answered_503_is_not_kept() -> None:
    api = Api()
    api.app.extensions["delivery"].queue._capacity = 0
    api.post(TRACK, RIGHT)
    assert api.kept() == []


# ── Keys ──


@pytest.mark.parametrize(
    "send",
    [
        lambda api, key: api.post(TRACK, {"x": key}, X_API_Key=key),
        lambda api, key: api.post(TRACK, {"x": key}, Authorization=f"Bearer {key}"),
        lambda api, key: api.post(TRACK, {"x": key}, Authorization=key),
        lambda api, key: api.post(
            TRACK, {"x": key}, Authorization=f"Basic {base64.b64encode(f'{key}:'.encode()).decode()}"
        ),
        lambda api, key: api.post(f"{TRACK}?key={key}", {"x": key}),
        lambda api, key: api.post(f"{TRACK}?writeKey={key}", {"x": key}),
        lambda api, key: api.post(f"{TRACK}&key={key}", RIGHT),
        lambda api, key: api.post(TRACK, {"writeKey": key, "batch": []}),
        lambda api, key: api.post(TRACK, {"context": {"Authorization": key}}),
        lambda api, key: api.post(TRACK, {key: 1}, X_API_Key=key),
        lambda api, key: api.post(TRACK, WRONG, X_API_Key=key, User_Agent=f"Shop {key}", Origin=f"https://{key}"),
        lambda api, key: api.post(TRACK, b" " * (BODY_BYTES - 5) + key.encode(), X_API_Key=key),
        lambda api, key: api.post(TRACK, gzip.compress(b'{"api_key":"%s"}' % key.encode())),
    ],
)
@pytest.mark.parametrize("key", [SECRET, "not-quite-the-secret"])
def test_no_key_is_kept_valid_or_not(keyed: Api, send: Callable[[Api, str], None], key: str) -> None:
    send(keyed, key)
    (kept,) = keyed.kept()
    told = json.dumps(kept)
    assert key not in told
    assert key[:5] not in told


def test_a_valid_key_in_a_value_is_not_kept(keyed: Api) -> None:
    keyed.post(TRACK, {"note": f"try {SECRET}"})
    assert SECRET not in json.dumps(keyed.kept())


def test_short_keys_that_occur_often_do_not_enlarge_the_body(api: Api) -> None:
    api.post(f"{TRACK}?key=k&writeKey=e", b"key" * 20_000, X_API_Key="y", Authorization="Basic dDph")
    (kept,) = api.kept()
    assert len(kept["body"]) <= BODY_BYTES


# ── Bodies ──


def test_a_long_body_is_cut(api: Api) -> None:
    api.post(TRACK, {**RIGHT, "color": "é" * 20_000})
    (kept,) = api.kept()
    assert BODY_BYTES - 4 <= len(kept["body"].encode()) <= BODY_BYTES


def test_a_zipped_body_is_kept_unzipped(api: Api) -> None:
    api.post(TRACK, gzip.compress(json.dumps(WRONG).encode()), Content_Encoding="gzip")
    assert [each["body"] for each in api.kept()] == [json.dumps(WRONG)]


def test_a_zipped_body_that_the_route_did_not_read_is_kept_unzipped(keyed: Api) -> None:
    keyed.post(TRACK, gzip.compress(json.dumps(WRONG).encode()), Content_Encoding="gzip")
    assert [each["body"] for each in keyed.kept()] == [json.dumps(WRONG)]


def test_bodies_can_be_left_out() -> None:
    api = Api()
    api.refusals._with_bodies = False
    api.post(TRACK, WRONG)
    assert [each["body"] for each in api.kept()] == [None]


@given(body=st.binary(max_size=10_000))
def test_any_body_can_be_kept(api_for_all: Api, body: bytes) -> None:
    api_for_all.clock.advance(1)
    api_for_all.post(TRACK, body)
    (kept,) = api_for_all.kept()
    assert len(kept["body"].encode()) <= BODY_BYTES


@pytest.fixture(scope="module")
def api_for_all() -> Api:
    return Api()


# ── Limits and the thread ──


def test_at_most_ten_a_second_are_kept_and_the_rest_is_counted(api: Api) -> None:
    api.post(BATCH, {"events": [WRONG] * 25})
    assert (len(api.kept()), api.dropped()) == (MOST_A_SECOND, 15)
    api.clock.advance(0.9)
    api.post(TRACK, WRONG)
    assert (len(api.kept()), api.dropped()) == (0, 16)
    api.clock.advance(0.1)
    api.post(TRACK, WRONG)
    assert (len(api.kept()), api.dropped()) == (1, 16)


def test_the_number_of_waiting_records_is_bounded(api: Api) -> None:
    for _ in range(MOST_WAITING + 5):
        api.clock.advance(1)
        api.post(TRACK, WRONG)
    assert (len(api.kept()), api.dropped()) == (MOST_WAITING, 5)


def test_without_a_topic_refused_events_are_only_counted() -> None:
    metrics = ApiMetrics(CollectorRegistry())
    refusals = Refusals(None, metrics)
    refusals.start()
    with Flask(__name__).test_request_context(TRACK, method="POST"):
        refusals.keep(400, "invalid", {"event_type": ["Wrong."]})
    assert metrics.refused_dropped._value.get() == 1


def test_the_thread_sends_and_counts_waiting_records(api: Api) -> None:
    api.post(TRACK, WRONG)
    api.refusals.start()
    metrics: ApiMetrics = api.app.extensions["metrics"]
    eventually(lambda: metrics.refused_kept._value.get() == 1)
    assert len(api.broker.records(REFUSED)) == 1


def test_refused_events_wait_while_kafka_is_unavailable(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    api.broker.up = False
    api.post(TRACK, WRONG)
    api.refusals.start()
    eventually(lambda: "sending refused events to Kafka" in caplog.text)
    api.broker.up = True
    api.post(TRACK, WRONG)
    eventually(lambda: len(api.broker.records(REFUSED)) == 2)
    assert api.dropped() == 0


def test_a_record_that_kafka_never_accepts_is_dropped_and_later_ones_are_kept(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.refusals.never_takes", lambda error: True)
    monkeypatch.setattr("api.refusals.time.sleep", lambda seconds: None)
    api.broker.up = False
    api.post(TRACK, WRONG)
    api.refusals.start()
    eventually(lambda: api.dropped() == 1)
    api.broker.up = True
    api.post(TRACK, WRONG)
    eventually(lambda: len(api.broker.records(REFUSED)) == 1)


def test_the_thread_reports_its_death(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(FakeSender):
        def send(self, records: Any) -> Any:
            raise ZeroDivisionError

    api.refusals._sender = Broken(api.broker, REFUSED)
    api.post(TRACK, WRONG)
    api.refusals.start()
    eventually(lambda: "the thread refusals died" in caplog.text)


# ── Before the app ──


def test_a_request_refused_before_the_app_is_kept_if_its_path_is_for_events(api: Api) -> None:
    head = b"POST /api/v1/track?key=abc HTTP/1.1\r\nHost: x\r\nUser-Agent: Shop abc\r\nOrigin: https://shop.example\r\n"
    api.refusals.keep_unread(408, "too_slow", "The request did not arrive in time.", head, "id-2")
    (kept,) = api.kept()
    assert {
        name: kept[name] for name in ("status", "reason", "route", "user_agent", "origin", "request_id", "body")
    } == {
        "status": 408,
        "reason": "too_slow",
        "route": "/api/v1/track",
        "user_agent": "Shop (key taken out)",
        "origin": "https://shop.example",
        "request_id": "id-2",
        "body": None,
    }


@pytest.mark.parametrize("head", [b"", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01"])
def test_a_request_refused_before_the_app_is_not_kept_without_such_a_path(api: Api, head: bytes) -> None:
    api.refusals.keep_unread(400, "unreadable", "Malformed HTTP request.", head, "id-3")
    assert (api.kept(), api.dropped()) == ([], 0)


# ── Messages of SDKs ──


@pytest.mark.parametrize("zipped", [False, True])
def test_each_wrong_message_of_an_sdk_is_kept_by_itself_without_the_key(keyed: Api, zipped: bool) -> None:
    right = {"type": "track", "event": "e", "userId": "ada"}
    wrong = {"type": "track", "userId": "ada", "writeKey": SECRET}
    body = json.dumps({"batch": [right, wrong], "writeKey": SECRET}).encode()
    keyed.post("/v1/batch/", gzip.compress(body) if zipped else body)
    (kept,) = keyed.kept()
    assert (kept["protocol"], kept["route"], kept["source"], kept["index"]) == ("segment", "/v1/batch", "web", 1)
    assert kept["message"] == "event_name: Missing: a track has an event."
    assert json.loads(kept["body"])["userId"] == "ada"
    assert SECRET not in json.dumps(kept)


def test_each_wrong_cloudevent_is_kept_by_itself(api: Api) -> None:
    right = {"specversion": "1.0", "id": "1", "source": "s", "type": "t"}
    api.post("/api/v1/cloudevents", [right, {**right, "type": ""}])
    (kept,) = api.kept()
    assert (kept["protocol"], kept["index"], json.loads(kept["body"])["type"]) == ("cloudevents", 1, "")


def test_a_batch_without_a_valid_message_is_kept_message_by_message(api: Api) -> None:
    api.post("/v1/batch", {"batch": [{"type": "page"}, {"type": "nothing"}]})
    assert [each["index"] for each in api.kept()] == [0, 1]
