"""The API on fakes: accepted events, health, metrics and logs. test_answers.py has a table of all answers."""

import json
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.apps import TOPIC
from tests.fakes import FakeBroker
from tests.waiting import eventually

LEAST = {"customer_id": "alice", "event_type": "click"}
TRACK = "/api/v1/track"
BATCH = "/api/v1/track/batch"


def batch(*events: dict[str, Any]) -> dict[str, Any]:
    return {"events": list(events)}


def test_an_event_is_answered_202_with_its_id(client: FlaskClient) -> None:
    answer = client.post(TRACK, json={**LEAST, "event_id": "mine"})
    assert (answer.status_code, answer.json) == (202, {"status": "accepted", "event_id": "mine"})


def test_an_accepted_event_reaches_kafka(client: FlaskClient, broker: FakeBroker) -> None:
    event_id = client.post(TRACK, json=LEAST).json["event_id"]  # type: ignore[index]
    eventually(lambda: broker.records(TOPIC))
    assert json.loads(broker.records(TOPIC)[0].value or b"")["event_id"] == event_id


def test_a_batch_is_answered_with_its_ids_in_order(client: FlaskClient) -> None:
    answer = client.post(BATCH, json=batch({**LEAST, "event_id": "b"}, {**LEAST, "event_id": "a"}))
    assert (answer.status_code, answer.json) == (202, {"status": "accepted", "count": 2, "event_ids": ["b", "a"]})


def test_a_batch_with_one_wrong_event_enqueues_nothing(client: FlaskClient, app: Flask, broker: FakeBroker) -> None:
    answer = client.post(BATCH, json=batch(LEAST, {"customer_id": "a"}))
    app.extensions["delivery"].stop(5)
    assert answer.status_code == 400
    assert broker.records(TOPIC) == []


def test_405_says_what_is_allowed(client: FlaskClient) -> None:
    assert "POST" in client.get(TRACK).headers["Allow"]


@pytest.mark.parametrize(("path", "allowed"), [(TRACK, {"OPTIONS", "POST"}), ("/health", {"GET", "HEAD", "OPTIONS"})])
def test_options_are_answered_without_a_body(client: FlaskClient, path: str, allowed: set[str]) -> None:
    answer = client.options(path)
    assert (answer.status_code, answer.data, answer.headers.get("Content-Type")) == (204, b"", None)
    assert set(answer.headers["Allow"].split(", ")) == allowed


def test_an_unexpected_error_is_answered_without_its_trace(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("api.routes.accept_event", lambda *_: 1 / 0)
    answer = client.post(TRACK, json=LEAST)
    assert answer.status_code == 500
    assert "division" not in answer.text
    assert "ZeroDivisionError" in caplog.text


def test_a_sane_request_id_is_kept(client: FlaskClient) -> None:
    assert client.get("/health/live", headers={"X-Request-ID": "abc-1"}).headers["X-Request-ID"] == "abc-1"


@pytest.mark.parametrize("sent", ["", "x" * 129, "a b", "<script>"])
def test_an_insane_request_id_is_replaced(client: FlaskClient, sent: str) -> None:
    answered = client.get("/health/live", headers={"X-Request-ID": sent}).headers["X-Request-ID"]
    assert len(answered) == 32


def test_a_full_queue_is_answered_503_with_retry_after(client: FlaskClient, broker: FakeBroker) -> None:
    broker.up = False
    assert client.post(BATCH, json=batch(*[LEAST] * 99)).status_code == 202
    answer = client.post(BATCH, json=batch(*[LEAST] * 2))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")


def test_a_request_refused_for_lack_of_room_enqueues_nothing(client: FlaskClient, broker: FakeBroker) -> None:
    broker.up = False
    client.post(BATCH, json=batch(*[LEAST] * 99))
    client.post(BATCH, json=batch(*[LEAST] * 2))
    assert client.post(TRACK, json=LEAST).status_code == 202


def test_ready_while_kafka_is_unavailable(client: FlaskClient, broker: FakeBroker) -> None:
    broker.up = False
    assert client.get("/health/ready").status_code == 200


def test_not_ready_when_no_event_can_be_accepted(client: FlaskClient, broker: FakeBroker) -> None:
    broker.up = False
    client.post(BATCH, json=batch(*[LEAST] * 100))
    assert client.get("/health/ready").status_code == 503


def test_health_is_degraded_while_kafka_is_unavailable(client: FlaskClient) -> None:
    answer = client.get("/health")
    assert answer.json is not None
    assert (answer.status_code, answer.json["status"]) == (200, "degraded")
    assert answer.json["checks"]["kafka"] == {"status": "down"}


def test_health_is_unavailable_when_no_event_can_be_accepted(client: FlaskClient, broker: FakeBroker) -> None:
    broker.up = False
    client.post(BATCH, json=batch(*[LEAST] * 100))
    answer = client.get("/health")
    assert answer.json is not None
    assert (answer.status_code, answer.json["status"]) == (503, "unavailable")


def test_not_live_without_the_producer_thread(client: FlaskClient, app: Flask) -> None:
    app.extensions["delivery"].stop(5)
    assert client.get("/health/live").status_code == 503


def test_requests_are_counted_by_route_template(client: FlaskClient) -> None:
    client.post(TRACK, json=LEAST)
    client.get("/some/path/of/theirs")
    client.get(TRACK)
    client.post("/docs/page.css")
    exposed = client.get("/metrics").text
    assert 'pulse_api_requests_total{method="POST",path="/api/v1/track",status="202"} 1.0' in exposed
    assert 'pulse_api_requests_total{method="GET",path="(unknown)",status="404"} 1.0' in exposed
    assert 'pulse_api_requests_total{method="GET",path="/api/v1/track",status="405"} 1.0' in exposed
    assert 'pulse_api_requests_total{method="POST",path="/docs/<path:name>",status="405"} 1.0' in exposed


@pytest.mark.parametrize(
    ("url", "logged"),
    [
        ("/api/v2/track?key=s3cret", "/api/v2/track"),
        ("/api/v1/track&key=s3cret", "/api/v1/track…"),
        ("/api/v1/track%3Fkey=s3cret", "/api/v1/track…"),
        ("/a%0ab", "/a…"),
        ("/a%C3%A4b", "/a…"),
        ("/" + "a" * 1000, "/" + "a" * 99 + "…"),
        (TRACK, TRACK),
    ],
)
def test_the_log_says_which_wrong_path_was_asked_for_but_nothing_that_may_be_a_key(
    client: FlaskClient, caplog: pytest.LogCaptureFixture, url: str, logged: str
) -> None:
    with caplog.at_level("INFO"):
        client.get(url)
    assert [vars(record)["path"] for record in caplog.records if record.message == "request answered"] == [logged]
    assert "s3cret" not in repr([vars(record) for record in caplog.records])


def test_events_are_counted_as_accepted_and_as_produced(client: FlaskClient, app: Flask) -> None:
    client.post(BATCH, json=batch(LEAST, LEAST))
    app.extensions["delivery"].stop(5)
    exposed = client.get("/metrics").text
    assert 'pulse_api_events_accepted_total{event_type="click"} 2.0' in exposed
    assert 'pulse_api_events_produced_total{event_type="click"} 2.0' in exposed
    assert "pulse_api_queue_depth 0.0" in exposed


def test_the_log_has_the_reason_for_a_503(
    client: FlaskClient, broker: FakeBroker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.up = False
    client.post(BATCH, json=batch(*[LEAST] * 100))
    client.post(TRACK, json=LEAST)
    line = next(record for record in caplog.records if vars(record).get("status") == 503)
    assert (line.levelname, vars(line)["reason"]) == ("WARNING", "queue_full")


def test_refusals_are_counted(client: FlaskClient, broker: FakeBroker) -> None:
    broker.up = False
    client.post(TRACK, json={})
    client.post(BATCH, json=batch(*[LEAST] * 100))
    client.post(TRACK, json=LEAST)
    exposed = client.get("/metrics").text
    assert "pulse_api_validation_errors_total 1.0" in exposed
    assert 'pulse_api_rejected_total{reason="queue_full"} 1.0' in exposed
    assert "pulse_api_queue_depth 100.0" in exposed
