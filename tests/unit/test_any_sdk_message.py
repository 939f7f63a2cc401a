"""Any body on the routes of SDKs gets an answer below 500, and each accepted message can be stored."""

import gzip
import json
import math
import random
from typing import Any

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st

from common.event_json import decode
from tests.apps import build_app, take_accepted
from tests.fakes import FakeBroker
from tests.odd_json import Writer
from tests.sdk_messages import CLOUDS, FIELDS, HEADERS, LIKELY, MESSAGES, OBJECTS, PATHS, VALUES


@pytest.fixture(scope="module")
def app() -> Flask:
    return build_app(FakeBroker(), capacity=1_000_000)


def send(app: Flask, path: str, body: Any, headers: dict[str, str], zipped: bool = False) -> tuple[int, Any]:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    data = gzip.compress(text) if zipped else text
    client = app.test_client(use_cookies=False)
    answer = client.post(path, data=data, headers=headers, content_length=len(data))
    assert answer.status_code in {200, 400, 413, 415}, answer.data
    assert answer.json is not None
    assert answer.json["success"] == (answer.status_code == 200)
    return answer.status_code, answer.json


def check_stored(app: Flask, taken: int) -> None:
    """Each accepted message is in the queue, and the consumer can decode it."""
    accepted = take_accepted(app)
    assert len(accepted) == taken
    for event in accepted:
        stored = decode(event.value)
        assert "writeKey" not in stored.get("extra", {})
        assert event.key == stored["customer_id"].encode()


@given(PATHS, MESSAGES | LIKELY, HEADERS, st.booleans())
def test_a_message_is_stored_or_refused(
    app: Flask, path: str, message: Any, headers: dict[str, str], zipped: bool
) -> None:
    status, _ = send(app, path, message, headers, zipped)
    check_stored(app, int(status == 200))


@given(st.lists(MESSAGES | LIKELY | VALUES, max_size=5), st.fixed_dictionaries({}, optional=FIELDS), HEADERS)
def test_each_message_of_a_batch_is_stored_or_refused(
    app: Flask, messages: list[Any], envelope: Any, headers: dict[str, str]
) -> None:
    status, answer = send(app, "/v1/batch", {**envelope, "batch": messages}, headers)
    check_stored(app, len(messages) - len(answer.get("rejected", {})) if status == 200 else 0)


@given(CLOUDS | st.lists(CLOUDS | VALUES, max_size=4) | VALUES, HEADERS)
def test_cloudevents_are_stored_or_refused(app: Flask, body: Any, headers: dict[str, str]) -> None:
    status, answer = send(app, "/api/v1/cloudevents", body, headers)
    accepted = take_accepted(app)
    if status == 200 and isinstance(body, list) and "ce-id" not in headers and "ce-time" not in headers:
        assert len(accepted) == len(body) - len(answer.get("rejected", {}))
    for event in accepted:
        decode(event.value)


@given(st.randoms(use_true_random=False))
def test_bytes_that_are_nearly_json_are_stored_or_refused(app: Flask, rng: random.Random) -> None:
    writer = Writer(rng)
    member = writer.properties()
    document = f'{{"type":"track","event":"e","userId":{writer.text()},"properties":{member},"x":{writer.anything()}}}'
    status, _ = send(app, "/v1/track", writer.bytes_of(document), {})
    check_stored(app, int(status == 200))


@given(OBJECTS)
def test_a_value_that_needs_no_repair_is_stored_unchanged(app: Flask, properties: dict[str, Any]) -> None:
    send(app, "/v1/track", {"event": "e", "userId": "u", "properties": properties}, {})
    for event in take_accepted(app):
        if plain(properties):
            assert json.loads(event.value)["properties"] == properties


def plain(value: Any) -> bool:
    """Whether the API stores the value without a repair."""
    match value:
        case str():
            return not any("\ud800" <= character <= "\udfff" for character in value)
        case float():
            return math.isfinite(value)
        case bool() | None:
            return True
        case int():
            return -(2**63) <= value < 2**63
        case dict():
            return all(key and key[0] != "$" and "\0" not in key and plain(key) and plain(value[key]) for key in value)
        case _:
            return all(map(plain, value))


@pytest.mark.parametrize("levels", [15, 16, 17, 100, 300, 5_000])
@pytest.mark.parametrize("kind", ["[]", '{"a":}'])
def test_a_message_of_any_depth_is_stored_or_refused(app: Flask, levels: int, kind: str) -> None:
    begin, end = (kind[:-1], kind[-1])
    body = f'{{"event":"e","userId":"u","properties":{{"p":{begin * levels}1{end * levels}}}}}'
    status, _ = send(app, "/v1/track", body.encode(), {})
    assert (status == 200) == (levels < 1_000)
    check_stored(app, int(status == 200))
