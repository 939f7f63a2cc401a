"""The routes of SDKs: paths, keys, bodies, answers, headers and CORS as the SDKs expect them."""

import base64
import gzip
import json
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from api.protocols.paths import MAX_MESSAGES, MAX_SDK_BATCH_BYTES
from api.protocols.segment import CALLS
from common.settings import AccessSettings
from common.write_keys import WriteKey
from tests.apps import TOPIC, build_app, running_app, take_accepted
from tests.fakes import FakeBroker
from tests.waiting import eventually

TRACK = {"type": "track", "event": "Walked", "userId": "ada", "messageId": "m-1"}
CLOUD = {"specversion": "1.0", "id": "c-1", "source": "https://shop.example/", "type": "com.example.walked"}
SINGLE = [*(f"/v1/{call}" for call in CALLS), *(f"/v1/{call[0]}" for call in CALLS)]
MANY = ["/v1/batch", "/v1/import", "/v1/b", "/beacon/v1/batch"]
SHOP = "https://shop.example"
KEYS = (WriteKey("shop", "s3cret"),)


@pytest.fixture
def app() -> Flask:
    return build_app(FakeBroker(), capacity=10_000)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client(use_cookies=False)


@pytest.fixture
def keyed() -> FlaskClient:
    return build_app(FakeBroker(), AccessSettings(keys=KEYS), capacity=10_000).test_client(use_cookies=False)


def stored(app: Flask) -> list[dict[str, Any]]:
    return [json.loads(event.value) for event in take_accepted(app)]


def counted(app: Flask, metric: str) -> dict[str, float]:
    """A counter's values other than zero, by its only label."""
    samples = getattr(app.extensions["metrics"], metric).collect()[0].samples
    return {
        value: sample.value
        for sample in samples
        for value in sample.labels.values()
        if sample.name[-6:] == "_total" and sample.value
    }


# ── Routes ──


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("path", SINGLE)
def test_the_path_decides_the_type_of_each_call(app: Flask, client: FlaskClient, path: str, slash: str) -> None:
    body = {"event": "e", "userId": "ada", "previousId": "p", "groupId": "g", "type": "nonsense"}
    answer = client.post(path + slash, json=body)
    assert (answer.status_code, answer.json) == (200, {"success": True})
    (event,) = stored(app)
    call = next(call for call in CALLS if call.startswith(path.split("/")[2]))
    assert (event["event_type"], event["protocol"]) == (CALLS[call], "segment")


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("path", MANY)
def test_batches_have_several_paths(app: Flask, client: FlaskClient, path: str, slash: str) -> None:
    answer = client.post(path + slash, json={"batch": [TRACK, {"type": "page", "userId": "ada"}]})
    assert (answer.status_code, answer.json) == (200, {"success": True})
    assert [event["event_type"] for event in stored(app)] == ["custom", "page_view"]


@pytest.mark.parametrize("path", ["/v1/m", "/v1/m/"])
def test_the_metrics_of_analytics_js_are_accepted_and_dropped(app: Flask, keyed: FlaskClient, path: str) -> None:
    assert keyed.post(path, data="{}").status_code == 200
    assert stored(app) == []


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_settings_of_analytics_js_have_the_requested_key(keyed: FlaskClient, slash: str) -> None:
    answer = keyed.get(f"/v1/projects/any%20key/settings{slash}")
    integrations = answer.json["integrations"]  # type: ignore[index]
    assert integrations == {"Segment.io": {"apiKey": "any key", "apiHost": "localhost/v1"}}


def test_the_settings_of_analytics_js_switch_its_own_metrics_off(keyed: FlaskClient) -> None:
    answer = keyed.get("/v1/projects/any/settings")
    assert answer.json["metrics"] == {"sampleRate": 0}  # type: ignore[index]


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_source_config_of_rudderstack_is_enabled_without_own_statistics(keyed: FlaskClient, slash: str) -> None:
    source = keyed.get(f"/sourceConfig{slash}?writeKey=x").json["source"]  # type: ignore[index]
    assert source["enabled"] is True
    assert source["config"]["statsCollection"] == {"errors": {"enabled": False}, "metrics": {"enabled": False}}


@pytest.mark.parametrize("path", [*SINGLE, *MANY, "/api/v1/cloudevents"])
def test_other_methods_are_answered_405(client: FlaskClient, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, set(answer.headers["Allow"].split(", "))) == (405, {"OPTIONS", "POST"})


def test_requests_are_counted_by_the_templates_of_their_routes(app: Flask, client: FlaskClient) -> None:
    client.post("/v1/track/", json=TRACK)
    client.get("/v1/projects/secret/settings")
    metrics = client.get("/metrics").text
    assert 'path="/v1/track",status="200"' in metrics
    assert 'path="/v1/projects/<key>/settings"' in metrics


# ── Keys ──


def basic(user: str, password: str = "") -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


WAYS: list[tuple[str, dict[str, str], dict[str, Any]]] = [
    ("", basic("s3cret"), {}),
    ("", basic("s3cret", "ignored"), {}),
    ("", {"Authorization": "Bearer s3cret"}, {}),
    ("", {"X-API-Key": "s3cret"}, {}),
    ("", {**basic("of-a-proxy"), "X-API-Key": "s3cret"}, {}),
    ("?writeKey=s3cret", {}, {}),
    ("?key=s3cret", {}, {}),
    ("", {}, {"writeKey": "s3cret"}),
]


@pytest.mark.parametrize(("query", "headers", "more"), WAYS)
@pytest.mark.parametrize("path", ["/v1/track", "/v1/batch"])
def test_a_key_is_accepted_in_each_place_where_an_sdk_puts_it(
    keyed: FlaskClient, path: str, query: str, headers: dict[str, str], more: dict[str, Any]
) -> None:
    body = TRACK if path == "/v1/track" else {"batch": [TRACK]}
    assert keyed.post(path + query, json=body | more, headers=headers).status_code == 200
    app = keyed.application
    assert [event["source"] for event in stored(app)] == ["shop"]
    assert counted(app, "authenticated") == {"shop": 1}


@pytest.mark.parametrize(
    ("query", "headers", "more"),
    [
        ("", {}, {}),
        ("", basic("other"), {}),
        ("", {"Authorization": "Basic ???"}, {}),
        ("", {"Authorization": "Basic"}, {}),
        ("?writeKey=other", {}, {"writeKey": "s3cret"}),
        ("", {}, {"writeKey": "\ud83d"}),
        ("", {}, {"writeKey": 1}),
        ("", {}, {"writeKey": {"a": 1}}),
    ],
)
def test_without_a_valid_key_the_answer_is_401(
    keyed: FlaskClient, query: str, headers: dict[str, str], more: dict[str, Any]
) -> None:
    answer = keyed.post(f"/v1/track{query}", json=TRACK | more, headers=headers)
    assert answer.status_code == 401
    assert answer.json is not None
    assert (answer.json["success"], answer.json["code"]) == (False, "unauthorized")


def test_without_configured_keys_any_key_is_accepted(app: Flask, client: FlaskClient) -> None:
    assert client.post("/v1/track", json=TRACK, headers=basic("any")).status_code == 200
    assert "source" not in stored(app)[0]


# ── Keys for some origins, and for some events ──


@pytest.fixture
def bound() -> FlaskClient:
    keys = (WriteKey("web", "web", frozenset({SHOP})), WriteKey("slow", "slow", rate=10))
    return build_app(FakeBroker(), AccessSettings(keys=keys), capacity=100_000).test_client(use_cookies=False)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ({"Origin": SHOP}, 200),
        ({"Origin": "HTTPS://Shop.example"}, 200),
        ({"Origin": "https://a.example"}, 401),
        ({}, 401),
    ],
)
def test_a_key_may_be_for_pages_of_some_origins(bound: FlaskClient, origin: dict[str, str], status: int) -> None:
    assert bound.post("/v1/track", json=TRACK, headers=basic("web") | origin).status_code == status
    event = {"customer_id": "ada", "event_type": "click"}
    native = bound.post("/api/v1/track", json=event, headers={"X-API-Key": "web"} | origin)
    assert native.status_code == {200: 202}.get(status, status)


def test_a_key_with_a_rate_refuses_whole_requests_beyond_it(bound: FlaskClient) -> None:
    batch = {"batch": [TRACK] * 25}
    first = bound.post("/v1/batch", json=batch, headers=basic("slow"))
    second = bound.post("/v1/batch", json=batch, headers=basic("slow"))
    assert (first.status_code, second.status_code) == (200, 429)
    assert second.json is not None
    assert (second.json["success"], second.json["code"]) == (False, "throttled")
    assert int(second.headers["Retry-After"]) >= 2
    assert len(stored(bound.application)) == 25
    assert counted(bound.application, "throttled") == {"slow": 1}
    event = {"customer_id": "ada", "event_type": "click"}
    native = bound.post("/api/v1/track", json=event, headers={"X-API-Key": "slow"})
    assert (native.status_code, native.headers["Retry-After"]) == (429, "2")


# ── Bodies ──


@pytest.mark.parametrize(
    "content_type",
    [None, "application/json", "text/plain", "application/x-www-form-urlencoded", "image/png", "nonsense"],
)
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("told", [False, True])
def test_a_body_is_read_as_json_with_any_content_type(
    client: FlaskClient, content_type: str | None, zipped: bool, told: bool
) -> None:
    body = json.dumps(TRACK).encode()
    headers = {"Content-Encoding": "gzip"} if told else {}
    data = gzip.compress(body) if zipped else body
    assert client.post("/v1/track", data=data, content_type=content_type, headers=headers).status_code == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b"\x1f\x8b", b'{"batch":1}', b"{}"])
@pytest.mark.parametrize("path", ["/v1/batch", "/v1/track"])
def test_a_body_without_a_message_is_answered_400_with_a_code(client: FlaskClient, path: str, body: bytes) -> None:
    answer = client.post(path, data=body, content_length=len(body))
    assert answer.status_code == 400
    assert answer.json is not None
    assert answer.json.keys() == {"status", "message", "errors", "request_id", "success", "code"}
    assert (answer.json["status"], answer.json["success"]) == ("error", False)
    assert answer.json["code"] in {"invalid", "unreadable"}


def padded(message: dict[str, Any], size: int) -> bytes:
    """The message, padded to N bytes."""
    empty = json.dumps(message | {"properties": {"p": ""}}, separators=(",", ":"))
    body = json.dumps(message | {"properties": {"p": "x" * (size - len(empty))}}, separators=(",", ":")).encode()
    assert len(body) == size
    return body


def test_a_message_may_have_64_kib(app: Flask, client: FlaskClient) -> None:
    assert client.post("/v1/track", data=padded(TRACK, 65_536)).status_code == 200
    assert client.post("/v1/track", data=padded(TRACK, 65_537)).status_code == 413
    batch = b'{"batch":[' + padded(TRACK, 65_536) + b"," + padded(TRACK, 65_537) + b"]}"
    answer = client.post("/v1/batch", data=batch)
    assert answer.json == {"success": True, "rejected": {"1": ["Larger than 65536 bytes."]}}
    assert len(stored(app)) == 2


def test_a_batch_may_have_2500_messages(app: Flask, client: FlaskClient) -> None:
    assert client.post("/v1/batch", json={"batch": [TRACK] * MAX_MESSAGES}).status_code == 200
    assert len(stored(app)) == MAX_MESSAGES
    answer = client.post("/v1/batch", json={"batch": [TRACK] * (MAX_MESSAGES + 1)})
    assert answer.status_code == 400
    assert answer.json is not None
    assert answer.json["message"] == "batch: At most 2,500 messages."


def test_all_of_a_large_batch_reaches_kafka_in_its_order() -> None:
    broker = FakeBroker()
    batch = [TRACK | {"messageId": str(number)} for number in range(MAX_MESSAGES)]
    with running_app(broker) as app:
        assert app.test_client().post("/v1/batch", json={"batch": batch}).status_code == 200
        eventually(lambda: len(broker.records(TOPIC)) == MAX_MESSAGES, what="all events in Kafka")
    sent = [json.loads(record.value or b"")["event_id"] for record in broker.records(TOPIC)]
    assert sent == [message["messageId"] for message in batch]


@pytest.mark.parametrize("zipped", [False, True])
def test_a_batch_may_have_four_and_a_half_mib(app: Flask, client: FlaskClient, zipped: bool) -> None:
    def body(size: int) -> bytes:
        full = b'{"batch":[' + b",".join([padded(TRACK, 60_000)] * 78) + b"]}"
        plain = full + b" " * (size - len(full))
        return gzip.compress(plain) if zipped else plain

    assert client.post("/v1/batch", data=body(MAX_SDK_BATCH_BYTES)).status_code == 200
    assert len(stored(app)) == 78
    assert client.post("/v1/batch", data=body(MAX_SDK_BATCH_BYTES + 1)).status_code == 413


def test_a_large_shared_context_cannot_multiply_the_size_of_a_batch(app: Flask, client: FlaskClient) -> None:
    answer = client.post("/v1/batch", json={"context": {"c": "x" * 50_000}, "batch": [TRACK] * 1_000})
    assert answer.status_code == 413
    assert stored(app) == []


def test_an_event_that_grows_beyond_the_limit_in_the_api_is_stored(app: Flask, client: FlaskClient) -> None:
    identify = {"userId": "ada", "context": {"traits": {"about": "x" * 60_000}}}
    assert client.post("/v1/identify", json=identify).status_code == 200
    (event,) = stored(app)
    assert event["traits"] == event["context"]["traits"]


# ── Answers ──


def test_the_valid_messages_of_a_batch_are_accepted_and_the_others_named(app: Flask, client: FlaskClient) -> None:
    batch = [TRACK, {"type": "track", "userId": "ada"}, "odd", TRACK | {"properties": 1, "userId": "x" * 300}]
    answer = client.post("/v1/batch", json={"batch": batch})
    assert answer.status_code == 200
    assert answer.json is not None
    rejected = answer.json["rejected"]
    assert rejected["1"] == ["event_name: Missing: a track has an event."]
    assert rejected["2"] == ["Must be a JSON object."]
    assert set(rejected["3"]) >= {"properties: Must be a JSON object."}
    assert len(stored(app)) == 1


def test_a_batch_without_a_valid_message_is_answered_400(app: Flask, client: FlaskClient) -> None:
    answer = client.post("/v1/batch", json={"batch": [{"type": "track"}, {}]})
    assert answer.status_code == 400
    assert answer.json is not None
    assert answer.json["message"] == "batch[0].customer_id: Missing: a userId or an anonymousId."
    assert answer.json["errors"]["batch"].keys() == {"0", "1"}


@pytest.mark.parametrize("path", MANY)
def test_an_empty_batch_is_no_error(client: FlaskClient, path: str) -> None:
    answer = client.post(path, json={"batch": []})
    assert (answer.status_code, answer.json) == (200, {"success": True})


def test_a_full_queue_is_answered_429_with_different_waits() -> None:
    client = build_app(FakeBroker(), capacity=1).test_client(use_cookies=False)
    assert client.post("/v1/batch", json={"batch": [TRACK, TRACK]}).status_code == 200
    answers = [client.post("/v1/batch", json={"batch": [TRACK]}) for _ in range(50)]
    assert {answer.status_code for answer in answers} == {429}
    waits = {int(answer.headers["Retry-After"]) for answer in answers}
    assert len(waits) > 1
    assert min(waits) >= 1
    assert answers[0].json is not None
    assert (answers[0].json["code"], answers[0].json["success"]) == ("queue_full", False)
    assert f"try again in {answers[0].headers['Retry-After']} s" in answers[0].json["message"]


def test_repaired_values_are_counted(app: Flask, client: FlaskClient) -> None:
    body = b'{"userId":"ada","event":"e","properties":{"$a":NaN,"":1e999,"big":99999999999999999999,"half":"\\ud83d"}}'
    assert client.post("/v1/track", data=body).status_code == 200
    (event,) = stored(app)
    assert event["properties"] == {"\uff04a": None, "_": None, "big": 1e20, "half": "\ufffd"}
    mended = counted(app, "values_mended")
    assert mended == {"dollar_key": 1, "not_finite": 2, "empty_key": 1, "large_integer": 1, "surrogate": 1}


def test_faults_are_logged_by_field_and_rule(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    client.post("/v1/batch", json={"batch": [TRACK, {"type": "track", "userId": "ada", "properties": {"a": "hidden"}}]})
    (refused,) = [vars(record)["faults"] for record in caplog.records if record.message == "events refused"]
    assert refused == {"event_name: required": 1}
    assert "hidden" not in caplog.text


# ── Headers ──


def test_ids_and_times_of_headers_are_for_messages_without_them(app: Flask, client: FlaskClient) -> None:
    headers = {"AnonymousId": base64.b64encode(b"anon-1").decode(), "SentAt": "2026-01-31T12:00:00Z"}
    client.post("/v1/track", json={"event": "e"}, headers=headers)
    (event,) = stored(app)
    assert (event["customer_id"], event["anonymous_id"]) == ("anon-1", "anon-1")
    assert event["sent_at"] == "2026-01-31T12:00:00Z"


@pytest.mark.parametrize("odd", ["???", "/w==", "", "YQ", "\xff"])
def test_a_malformed_id_in_a_header_is_ignored(client: FlaskClient, odd: str) -> None:
    assert client.post("/v1/track", json={"event": "e"}, headers={"AnonymousId": odd}).status_code == 400


@pytest.mark.parametrize(
    ("headers", "query", "corrected"),
    [
        ({}, "", True),
        ({"X-Retry-Count": "0"}, "", True),
        ({"X-Retry-Count": "1"}, "", False),
        ({"rsa-retry-attempt": "2"}, "", False),
        ({}, "?retry_count=3", False),
    ],
)
def test_a_retry_corrects_no_clock(
    app: Flask, client: FlaskClient, headers: dict[str, str], query: str, corrected: bool
) -> None:
    body = TRACK | {"timestamp": "2020-01-01T00:00:00Z", "sentAt": "2020-01-01T00:00:00Z"}
    client.post(f"/v1/track{query}", json=body, headers=headers)
    assert (stored(app)[0]["timestamp"] != "2020-01-01T00:00:00Z") == corrected


# ── CORS ──

PREFLIGHT = {"Origin": SHOP, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}


@pytest.mark.parametrize("path", ["/v1/t", "/v1/batch/", "/beacon/v1/batch", "/api/v1/cloudevents", "/sourceConfig/"])
def test_pages_of_any_origin_may_send(client: FlaskClient, path: str) -> None:
    answer = client.options(path, headers=PREFLIGHT)
    assert answer.status_code == 204
    assert answer.headers["Access-Control-Allow-Origin"] == SHOP
    assert "Origin" in answer.headers["Vary"]
    assert set(answer.headers["Access-Control-Allow-Headers"].split(", ")) == {
        *("authorization", "content-type", "x-retry-count", "anonymousid", "sentat", "rsa-retry-attempt"),
        *("rsa-retry-reason", "rsa-since-first-attempt", "rsa-since-last-attempt"),
    }
    assert answer.headers["Access-Control-Max-Age"] == "7200"


def test_headers_that_an_sdk_or_a_site_adds_are_allowed_too(client: FlaskClient) -> None:
    asked = "anonymousid, Rsa-Recovered,x-of-the-site, no(name"
    answer = client.options("/v1/track", headers=PREFLIGHT | {"Access-Control-Request-Headers": asked})
    allowed = answer.headers["Access-Control-Allow-Headers"].split(", ")
    assert {"anonymousid", "rsa-recovered", "x-of-the-site", "rsa-retry-reason"} <= set(allowed)
    assert "no(name" not in allowed
    assert len(allowed) == len(set(allowed))


@pytest.mark.parametrize("body", [json.dumps(TRACK), "{"])
def test_pages_may_read_answers_and_errors(client: FlaskClient, body: str) -> None:
    answer = client.post("/v1/track", data=body, headers={"Origin": SHOP})
    assert answer.headers["Access-Control-Allow-Origin"] == SHOP
    assert "Retry-After" in answer.headers["Access-Control-Expose-Headers"]


@pytest.fixture
def listed() -> FlaskClient:
    access = AccessSettings(origins=frozenset({SHOP}), sdk_cors="listed")
    return build_app(FakeBroker(), access).test_client(use_cookies=False)


def test_with_sdk_cors_listed_only_pages_of_listed_origins_may_send(listed: FlaskClient) -> None:
    assert listed.options("/v1/t", headers=PREFLIGHT).headers["Access-Control-Allow-Origin"] == SHOP
    others = listed.options("/v1/t", headers=PREFLIGHT | {"Origin": "https://evil.example"})
    assert "Access-Control-Allow-Origin" not in others.headers


def test_the_native_routes_keep_their_own_origins(client: FlaskClient) -> None:
    assert "Access-Control-Allow-Origin" not in client.options("/api/v1/track", headers=PREFLIGHT).headers


# ── CloudEvents ──


@pytest.mark.parametrize("content_type", ["application/cloudevents+json; charset=utf-8", "application/json", None])
def test_a_cloudevent_in_structured_mode(app: Flask, client: FlaskClient, content_type: str | None) -> None:
    body = CLOUD | {"data": {"a": [1, None]}, "time": "2026-01-31T12:00:00Z", "subject": "ada", "tenant": "x"}
    answer = client.post("/api/v1/cloudevents/", data=json.dumps(body), content_type=content_type)
    assert (answer.status_code, answer.json) == (200, {"success": True})
    (event,) = stored(app)
    del event["received_at"]
    assert event == {
        "event_id": "c-1",
        "customer_id": "ada",
        "event_type": "custom",
        "event_name": "com.example.walked",
        "properties": {"a": [1, None]},
        "timestamp": "2026-01-31T12:00:00Z",
        "extra": {"source": SHOP + "/", "tenant": "x"},
        "protocol": "cloudevents",
    }


@pytest.mark.parametrize(
    ("content_type", "body", "properties"),
    [
        ("application/json", b'{"a":1}', {"a": 1}),
        ("application/vnd.x+json", b'{"a":NaN}', {"a": None}),
        ("application/json", b"[1]", {"data": [1]}),
        ("text/plain", b"1", {"data": "1"}),
        ("image/png", b"\x89PNG\xff", {"data_base64": "iVBOR/8="}),
        (None, b"", None),
    ],
)
def test_a_cloudevent_in_binary_mode(
    app: Flask, client: FlaskClient, content_type: str | None, body: bytes, properties: Any
) -> None:
    headers = {f"ce-{name}": value for name, value in CLOUD.items()} | {"ce-subject": "Z%C3%BCrich"}
    answer = client.post(
        "/api/v1/cloudevents", data=body, content_length=len(body), content_type=content_type, headers=headers
    )
    assert answer.status_code == 200
    (event,) = stored(app)
    assert (event["customer_id"], event["event_id"]) == ("Zürich", "c-1")
    assert event.get("properties") == properties
    assert event["extra"].get("datacontenttype") == content_type


def test_cloudevents_in_a_batch(app: Flask, client: FlaskClient) -> None:
    batch = [CLOUD, CLOUD | {"specversion": "0.3"}, {k: v for k, v in CLOUD.items() if k != "type"}, 1]
    answer = client.post(
        "/api/v1/cloudevents", data=json.dumps(batch), content_type="application/cloudevents-batch+json"
    )
    assert answer.status_code == 200
    assert answer.json is not None
    assert answer.json["rejected"] == {
        "1": ["A CloudEvent's specversion must be 1.0."],
        "2": ["event_name: Missing: a CloudEvent has a type."],
        "3": ["Must be a JSON object."],
    }
    assert [event["customer_id"] for event in stored(app)] == [SHOP + "/"]


def test_a_malformed_time_goes_to_extra(app: Flask, client: FlaskClient) -> None:
    client.post("/api/v1/cloudevents", json=CLOUD | {"time": "noon"})
    assert stored(app)[0]["extra"]["time"] == "noon"
