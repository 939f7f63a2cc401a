"""The law of the API: a 202 means that MongoDB can store the event as sent; all other events get a 400, never a 500.

`HYPOTHESIS_EXAMPLES=200000 tox -e py311-unit -- -k test_law --timeout 0` tries harder.
"""

import json
from typing import Any

import bson
import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st

from common.event_json import decode
from common.events import MAX_EVENT_BYTES
from tests import sent
from tests.apps import build_app, take_accepted
from tests.fakes import FakeBroker

TRACK = "/api/v1/track"
BATCH = "/api/v1/track/batch"
MONGODB_LARGEST_DOCUMENT = 16 * 1024 * 1024
MONGODB_DEEPEST = 100


@pytest.fixture(scope="module")
def app() -> Flask:
    return build_app(FakeBroker())


def post(app: Flask, path: str, body: bytes) -> tuple[int, Any]:
    answer = app.test_client().post(path, data=body, content_type="application/json")
    return answer.status_code, answer.json


def documents(app: Flask) -> list[dict[str, Any]]:
    """The documents of the accepted events; fails if Kafka or MongoDB might not accept one."""
    found = []
    for event in take_accepted(app):
        # The default limit of a broker is 1,048,588 bytes.
        assert len(event.value) < MAX_EVENT_BYTES + 256
        document = decode(event.value)
        assert event.key == document["customer_id"].encode()
        assert len(bson.encode(document)) < MONGODB_LARGEST_DOCUMENT
        assert_within_mongodbs_limits(document)
        found.append(document)
    return found


def assert_within_mongodbs_limits(value: Any, depth: int = 1) -> None:
    """The limits of MongoDB's manual, which are narrower than those of BSON."""
    assert depth <= MONGODB_DEEPEST
    if isinstance(value, dict):
        for key, inner in value.items():
            assert key
            assert "\0" not in key
            assert not key.startswith("$")
            assert depth > 1 or "." not in key
            assert_within_mongodbs_limits(inner, depth + 1)
    elif isinstance(value, int):
        assert -(2**63) <= value < 2**63
    elif isinstance(value, str):
        value.encode()


@given(event=sent.things)
def test_an_event_is_kept_as_it_was_sent_or_refused(app: Flask, event: Any) -> None:
    status, answer = post(app, TRACK, json.dumps(event).encode())
    kept = documents(app)
    if status == 202:
        assert sent.is_kept(event, kept[0], microseconds=True)
        assert answer["event_id"] == kept[0]["event_id"]
    else:
        assert (status, kept) == (400, [])
        assert answer["message"]
        assert "\n" not in answer["message"]


@given(events=st.lists(sent.things, max_size=6))
def test_a_batch_is_kept_whole_or_refused_whole(app: Flask, events: list[Any]) -> None:
    status, answer = post(app, BATCH, json.dumps({"events": events}).encode())
    kept = documents(app)
    if status == 202:
        assert answer["event_ids"] == [document["event_id"] for document in kept]
        assert all(sent.is_kept(*pair, microseconds=True) for pair in zip(events, kept, strict=True))
    else:
        assert (status, kept) == (400, [])


@given(events=st.lists(sent.things, max_size=6))
def test_each_event_of_a_partial_batch_is_kept_or_named(app: Flask, events: list[Any]) -> None:
    status, answer = post(app, f"{BATCH}?partial=true", json.dumps({"events": events}).encode())
    kept = documents(app)
    if status == 202:
        wrong = {int(index) for index in answer["rejected"]}
        right = [event for index, event in enumerate(events) if index not in wrong]
        assert answer["count"] == len(right)
        assert [event_id for event_id in answer["event_ids"] if event_id] == [document["event_id"] for document in kept]
        assert {index for index, event_id in enumerate(answer["event_ids"]) if event_id is None} == wrong
        assert all(sent.is_kept(*pair, microseconds=True) for pair in zip(right, kept, strict=True))
    else:
        assert (status, kept) == (400, [])


@given(body=sent.bodies())
@pytest.mark.parametrize("path", [TRACK, BATCH, f"{BATCH}?partial=true"])
def test_any_bytes_get_an_answer(app: Flask, path: str, body: bytes) -> None:
    status, _ = post(app, path, body)
    assert status in {202, 400, 411}
    documents(app)
