"""Errors about invalid events: the client gets all that fit, the operator gets the fields and rules."""

import json
import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from api.faults import told
from common.errors import RULES, Fault, InvalidEventError
from common.event_json import load_batch, load_event
from common.metrics import REFUSED_FIELDS
from tests import sent
from tests.apps import build_app
from tests.fakes import FakeBroker
from tests.observed import RUNBOOKS

TRACK = "/api/v1/track"
BATCH = "/api/v1/track/batch"
PARTIAL = f"{BATCH}?partial=true"
LEAST = {"customer_id": "alice", "event_type": "click"}


@pytest.fixture(scope="module")
def idle_app() -> Flask:
    return build_app(FakeBroker(), capacity=1_000_000)


def messages(found: Any) -> list[str]:
    return [message for inner in found.values() for message in messages(inner)] if isinstance(found, dict) else found


# ── The rule ──


@given(st.one_of(sent.things.map(json.dumps).map(str.encode), sent.bodies()))
def test_each_message_knows_its_rule(body: bytes) -> None:
    for load in (load_event, load_batch):
        try:
            found = getattr(load(body), "errors", {})
        except InvalidEventError as error:
            found = error.errors or {"": list(error.args)}
        assert all(isinstance(message, Fault) and message.rule in RULES for message in messages(found)), found


def test_a_formatted_message_keeps_its_rule() -> None:
    filled = Fault("length", "At most {max}.").format(max=5)
    assert (filled, filled.rule) == ("At most 5.", "length")


# ── The operator ──


@pytest.mark.parametrize(
    ("path", "body", "counted"),
    [
        (TRACK, {"customer_id": "a"}, {"event_type: required": 1}),
        (TRACK, {"customer_id": 5, "event_type": "shout"}, {"customer_id: type": 1, "event_type: choice": 1}),
        (TRACK, {**LEAST, "customer_id": " " * 300}, {"customer_id: length": 1, "customer_id: blank": 1}),
        (
            TRACK,
            {**LEAST, "event_id": "undefined", "timestamp": "now"},
            {"event_id: format": 1, "timestamp: format": 1},
        ),
        (
            TRACK,
            {**LEAST, "properties": {"$a": 1, "b": [{"s3cret": [2**63]}, {"": 1}]}},
            {"properties.*: storable": 2, "properties.*: length": 1},
        ),
        (TRACK, {**LEAST, "traits": {"s3cret": {"$a": 1}}}, {"traits.*: storable": 1}),
        (TRACK, {**LEAST, "properties": []}, {"properties: type": 1}),
        (TRACK, {**LEAST, "context": {"$s3cret": "x"}}, {"context.*: storable": 1}),
        (
            TRACK,
            {**LEAST, "source": "s3cret", "event_name": ""},
            {"(unknown): unknown": 1, "event_name: length": 1, "event_name: blank": 1},
        ),
        (TRACK, {**LEAST, "s3cret": 1, "events": 2}, {"(unknown): unknown": 2}),
        (TRACK, {**LEAST, **{f"s3cret{n}": n for n in range(50)}}, {"(request): length": 1}),
        (TRACK, [], {"(request): type": 1}),
        (TRACK, "s3cret", {"(request): type": 1}),
        (BATCH, {"events": [LEAST, {}, {"customer_id": "a"}]}, {"customer_id: required": 1, "event_type: required": 2}),
        (BATCH, {"events": [LEAST, None]}, {"(request): type": 1}),
        (BATCH, {"events": []}, {"(request): length": 1}),
        (BATCH, {"events": [LEAST], "s3cret": 1}, {"(unknown): unknown": 1}),
        (BATCH, {"events": [{**LEAST, "properties": {"a": "s3cret" * 12_000}}]}, {"(request): size": 1}),
        (PARTIAL, {"events": [LEAST, {**LEAST, "properties": {"s3cret": 2**63}}]}, {"properties.*: storable": 1}),
        (f"{BATCH}?partial=s3cret", {"events": [LEAST]}, {"(request): choice": 1}),
    ],
)
def test_fields_and_rules_are_logged_and_counted_but_no_contents(
    client: FlaskClient, caplog: pytest.LogCaptureFixture, path: str, body: Any, counted: dict[str, int]
) -> None:
    with caplog.at_level("INFO"):
        client.post(path, json=body)
    assert [vars(record)["faults"] for record in caplog.records if record.message == "events refused"] == [counted]
    assert "s3cret" not in repr([vars(record) for record in caplog.records])
    exposed = client.get("/metrics").text
    series = re.findall(r'^pulse_api_refused_fields_total{field="(.*)",rule="(.*)"} ([1-9].*)', exposed, re.MULTILINE)
    assert {f"{field}: {rule}": float(times) for field, rule, times in series} == counted


def test_a_body_that_is_not_json_is_logged_and_counted(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        client.post(TRACK, data=b"{", content_type="application/json")
    assert next(vars(record).get("faults") for record in caplog.records) == {"(request): json": 1}


def test_a_batch_without_faults_is_not_logged(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        client.post(PARTIAL, json={"events": [LEAST]})
    assert caplog.records == []


@given(st.one_of(sent.things, st.fixed_dictionaries({"events": st.lists(sent.things, max_size=3)})))
def test_clients_cannot_invent_fields_or_rules(idle_app: Flask, body: Any) -> None:
    for path in (TRACK, BATCH, PARTIAL):
        idle_app.test_client().post(path, data=json.dumps(body), content_type="application/json")
    exposed = idle_app.test_client().get("/metrics").text
    series = re.findall(r'^pulse_api_refused_fields_total{field="(.*)",rule="(.*)"}', exposed, re.MULTILINE)
    assert len(series) == len(REFUSED_FIELDS) * len(RULES)


def test_the_runbook_explains_each_rule() -> None:
    assert re.findall(r"^\| `(\w+)` \|", RUNBOOKS["Why was it refused"], re.MULTILINE) == list(RULES)


# ── The client ──


def test_errors_that_fit_are_reported_unchanged() -> None:
    errors = {"a": ["x"], "properties": {"b": ["y", "z"]}}
    assert told(errors) == errors


def test_the_first_of_many_faults_and_the_number_of_others_are_reported() -> None:
    found = told({"properties": {f"key-{n}": ["Must be a finite number."] for n in range(1000)}})["properties"]
    assert list(found)[:2] == ["key-0", "key-1"]
    assert found["…"] == [f"And {1000 - len(found) + 1} more."]
    assert len(json.dumps(found)) < 10_000


def test_each_invalid_event_of_a_full_batch_is_reported_with_a_field() -> None:
    errors = {"events": {n: {f"key-{m}": ["x" * 100] for m in range(50)} for n in range(100)}}
    found = told(errors)["events"]
    assert list(found) == list(range(100))
    assert found[99] == {"key-0": ["x" * 100], "…": ["And 49 more."]}


def test_the_path_within_a_field_is_left_out_when_it_does_not_fit() -> None:
    deep = {"a" * 200: {0: {"b" * 200: {1: ["x" * 100]}}, 2: ["y"]}}
    errors = {"events": {n: {"properties": deep} for n in range(100)}}
    found = told(errors)
    assert found["events"][0] != found["events"][99] == {"properties": ["x" * 100], "…": ["And 1 more."]}
    assert len(json.dumps(found)) < 32 * 1024


@pytest.mark.parametrize("character", ["k", "ä", "\ud800", "😀", "\0"])
def test_long_names_are_cut_to_a_bounded_size_when_escaped(character: str) -> None:
    (name,) = told({character * 10_000: ["x"]})
    assert name.startswith(character * 5)
    assert name.endswith("…")
    assert len(json.dumps(name)) <= 110


def test_names_that_are_equal_after_the_cut_are_reported_once() -> None:
    assert list(told({"k" * 1000 + end: ["x"] for end in "abc"}).values()) == [["x"], ["And 2 more."]]
