"""Recorded requests of SDKs: the API answers each as the SDK expects, and stores each message completely."""

import base64
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from common.events import parse_timestamp
from common.settings import AccessSettings
from common.write_keys import WriteKey
from tests.apps import build_app, take_accepted
from tests.fakes import FakeBroker

RECORDINGS = sorted((Path(__file__).parent.parent / "recordings").glob("*.json"))
KEY = "wk_made_up_key"
# Headers that the HTTP client sets, or that do not fit the replayed body.
NOT_SENT = {"host", "connection", "content-length", "accept-encoding"}
TYPES = {"Order Completed": "purchase", "page": "page_view"}
IDS = {"userId": "user_id", "anonymousId": "anonymous_id", "previousId": "previous_id", "groupId": "group_id"}
# Keys in the recorded sessions that the API has to repair.
MENDED = {"$set": "\uff04set", "": "_"}


def requests_of(recording: Path) -> list[dict[str, Any]]:
    requests: list[dict[str, Any]] = json.loads(recording.read_text())["requests"]
    return requests


@pytest.fixture
def app() -> Flask:
    return build_app(FakeBroker(), AccessSettings(keys=(WriteKey("shop", KEY),)), capacity=10_000)


def send(client: FlaskClient, recorded: dict[str, Any]) -> Any:
    headers = {name: value for name, value in recorded["headers"].items() if name.lower() not in NOT_SENT}
    body = json.dumps(recorded["body"]).encode() if recorded["body"] != "" else b""
    if "gzip" in recorded["encoding"]:
        body = gzip.compress(body)
    return client.open(
        f"{recorded['path']}?{recorded['query']}", method=recorded["method"], headers=headers, data=body, buffered=True
    )


def messages_of(recorded: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Each message, with the fields of its envelope and its headers."""
    body, headers = recorded["body"], recorded["headers"]
    if isinstance(body, dict) and "batch" in body:
        shared = {name: body[name] for name in ("sentAt", "context", "integrations") if name in body}
        yield from (shared | message for message in body["batch"])
    elif isinstance(body, list):
        yield from body
    elif "ce-id" in headers:
        yield {name[3:]: value for name, value in headers.items() if name.startswith("ce-")} | {"data": body}
    else:
        yield body


def mended(value: Any) -> Any:
    if isinstance(value, dict):
        return {MENDED.get(key, key): mended(inner) for key, inner in value.items()}
    return [mended(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.stem)
def test_each_request_is_answered_as_the_sdk_expects(app: Flask, recording: Path) -> None:
    client = app.test_client(use_cookies=False)
    for recorded in requests_of(recording):
        answer = send(client, recorded)
        assert answer.status_code == recorded["answered"], (recorded["path"], answer.data)
        if recorded["method"] == "POST":
            assert answer.json == {"success": True}


@pytest.mark.parametrize(
    "recording", [each for each in RECORDINGS if "cloudevents" not in each.name], ids=lambda recording: recording.stem
)
def test_each_message_is_stored_with_all_its_fields(app: Flask, recording: Path) -> None:
    client = app.test_client(use_cookies=False)
    for recorded in requests_of(recording):
        send(client, recorded)
        if recorded["method"] != "POST":
            continue
        stored = [json.loads(event.value) for event in take_accepted(app)]
        for message, event in zip(messages_of(recorded), stored, strict=True):
            assert event.pop("event_id") == message.pop("messageId")
            assert event.pop("protocol") == "segment"
            assert event.pop("source") == "shop"
            call, context = message.pop("type"), message.get("context", {})
            name = message.pop({"track": "event", "page": "name", "screen": "name"}.get(call, ""), None)
            assert event.pop("event_name", None) == name
            of_call = {"page": "page_view", "track": "custom"}.get(call, call)
            assert event.pop("event_type") == TYPES.get(name, of_call)
            ids = {ours: message.pop(theirs, None) for theirs, ours in IDS.items()}
            assert {ours: event.pop(ours, None) for ours in ids} == ids
            assert event.pop("customer_id") == (ids["user_id"] or ids["anonymous_id"])
            for part in ("properties", "traits", "context"):
                sent = message.pop(part, None)
                if part == "traits" and call == "identify" and not sent:
                    sent = context["traits"]
                assert event.pop(part, None) == mended(sent)
            check_times(message, event)
            message.pop("writeKey", None)
            assert event.pop("extra", {}) == message
            assert event == {}


def check_times(message: dict[str, Any], event: dict[str, Any]) -> None:
    """The test replays the session long after its recording, as from a client with a slow clock."""
    times = {name: parse_timestamp(message.pop(name)) for name in [*message] if name.lower().endswith(("at", "stamp"))}
    stored = {name: parse_timestamp(event.pop(name)) for name in [*event] if name != "extra"}
    told = times.get("originalTimestamp") or times["timestamp"]
    assert stored["original_timestamp"] == told
    assert stored["sent_at"] == times["sentAt"]
    if len(times) == 3:
        assert stored["timestamp"] == times["timestamp"]
    else:
        assert abs((stored["timestamp"] - told) - (stored["received_at"] - stored["sent_at"])).total_seconds() < 1


@pytest.mark.parametrize(
    "recording", [each for each in RECORDINGS if "cloudevents" in each.name], ids=lambda recording: recording.stem
)
def test_each_cloudevent_is_stored_with_all_its_fields(app: Flask, recording: Path) -> None:
    client = app.test_client(use_cookies=False)
    for recorded in requests_of(recording):
        send(client, recorded)
        stored = [json.loads(event.value) for event in take_accepted(app)]
        for message, event in zip(messages_of(recorded), stored, strict=True):
            assert event["event_id"] == message["id"]
            assert event["customer_id"] == message["subject"]
            assert (event["event_type"], event["event_name"]) == ("custom", message["type"])
            assert event["properties"] == message["data"]
            assert parse_timestamp(event["timestamp"]) == parse_timestamp(message["time"])
            assert event["extra"] == {
                "source": message["source"].replace("Z%C3%BC", "Zü"),
                "comexampleshop": message["comexampleshop"],
                "datacontenttype": "application/json",
            }
            assert event["protocol"] == "cloudevents"


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.stem)
def test_no_event_has_the_key(app: Flask, recording: Path) -> None:
    client = app.test_client(use_cookies=False)
    for recorded in requests_of(recording):
        send(client, recorded)
    events = b"".join(event.value for event in take_accepted(app))
    assert events
    assert KEY.encode() not in events
    assert base64.b64encode(f"{KEY}:".encode()) not in events
