"""The console groups refused events and shows each with its remedy."""

import json
import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.kafka import ReceivedRecord
from ops.console.refused import MOST_REFUSED, Refused

API = "http://localhost:8080"


def refused_with(*found: dict[str, Any], show_bodies: bool = True) -> Refused:
    refused = Refused(API, show_bodies=show_bodies)
    refused.take([ReceivedRecord(0, n, 0, None, json.dumps(each).encode()) for n, each in enumerate(found)])
    return refused


def one(**fields: Any) -> dict[str, Any]:
    errors = {"event_type": ["Must be one of."], "properties": {"products": {"2": {"price": ["Not a number."]}}}}
    return {"reason": "invalid", "status": 400, "route": "/api/v1/track", "errors": errors, "body": '{"a":1}', **fields}


def test_faults_are_counted_by_reason_and_field_most_frequent_first() -> None:
    whole = one(reason="too_large", errors={})
    groups = refused_with(one(), one(errors={"event_type": ["x"]}), whole).answer()["groups"]
    assert [(group["reason"], group["field"], group["count"]) for group in groups] == [
        ("invalid", "event_type", 2),
        ("invalid", "properties.products[2].price", 1),
        ("too_large", "(request)", 1),
    ]


def test_each_refused_event_has_a_remedy() -> None:
    assert (
        "Content-Type: application/json"
        in refused_with(one(reason="unsupported_type")).answer()["refused"][0]["remedy"]
    )


def test_the_command_for_an_event_of_a_batch_sends_it_alone() -> None:
    (shown,) = refused_with(one(route="/api/v1/track/batch", index=3, source="web")).answer()["refused"]
    assert shlex.split(shown["curl"]) == [
        *("curl", "-X", "POST", f"{API}/api/v1/track", "-H", "Content-Type: application/json"),
        *("-H", "X-API-Key: YOUR KEY", "--data-raw", '{"a":1}'),
    ]


def test_the_command_for_a_message_of_a_batch_sends_it_as_a_batch_of_one() -> None:
    (shown,) = refused_with(one(route="/v1/batch", index=3, protocol="segment")).answer()["refused"]
    assert shlex.split(shown["curl"])[-1] == '{"batch":[{"a":1}]}'
    (single,) = refused_with(one(route="/v1/track", protocol="segment")).answer()["refused"]
    assert shlex.split(single["curl"])[-1] == '{"a":1}'


@pytest.mark.parametrize(
    ("fields", "faulty", "marks"),
    [
        ({"protocol": "pulse"}, ["event_name", "customer_id"], ["event_name", "customer_id"]),
        ({"protocol": "segment"}, ["event_name", "properties.a"], ["event", "properties.a"]),
        ({"protocol": "segment"}, ["customer_id"], ["userId"]),
        ({"protocol": "segment"}, ["customer_id", "anonymous_id"], ["anonymousId"]),
        ({"protocol": "segment", "route": "/v1/p"}, ["event_name"], ["name"]),
        ({"protocol": "segment", "body": '{"type": "screen"'}, ["event_name"], ["name"]),
        ({"protocol": "segment"}, ["extra.category"], ["category"]),
        ({"protocol": "cloudevents"}, ["event_name", "properties.a"], ["type", "data.a"]),
        ({"protocol": "segment"}, [], []),
    ],
)
def test_a_faulty_field_is_marked_under_the_name_that_its_sender_gives_it(
    fields: dict[str, Any], faulty: list[str], marks: list[str]
) -> None:
    errors: dict[str, Any] = {path.partition(".")[0]: ["x"] for path in faulty if "." not in path}
    for path in faulty:
        if "." in path:
            errors[path.partition(".")[0]] = {path.partition(".")[2]: ["x"]}
    (shown,) = refused_with(one(errors=errors, **fields)).answer()["refused"]
    assert sorted(shown["marks"]) == sorted(marks)


@given(body=st.text(max_size=300), route=st.text(max_size=50))
def test_a_hostile_body_stays_one_word_of_the_command(body: str, route: str) -> None:
    (shown,) = refused_with(one(body=body, route=route)).answer()["refused"]
    *_, flag, word = shlex.split(shown["curl"])
    assert flag == "--data-raw"
    assert all(letter.isprintable() or letter in "\n\t" for letter in word)


def test_bodies_can_be_hidden() -> None:
    (shown,) = refused_with(one(), show_bodies=False).answer()["refused"]
    assert (shown["body"], shown["curl"]) == (None, None)


def test_a_refused_event_is_found_by_request_customer_and_event() -> None:
    refused = refused_with(one(request_id="r-1", body='{"event_id":"e-1","customer_id":"bob"'))
    assert [len(refused.find(wanted)) for wanted in ("r-1", "e-1", "bob", "e", "")] == [1, 1, 1, 0, 0]


def test_memory_is_bounded() -> None:
    assert refused_with(*[one(body="")] * (MOST_REFUSED + 5)).count == MOST_REFUSED


@given(
    value=st.binary(max_size=100)
    | st.recursive(
        st.none() | st.integers() | st.text(),
        lambda v: st.lists(v) | st.dictionaries(st.sampled_from(["errors", "body", "reason", "a"]), v),
    ).map(lambda v: json.dumps(v).encode())
)
def test_any_record_of_the_topic_can_be_read(value: bytes) -> None:
    refused = Refused(API, show_bodies=True)
    refused.take([ReceivedRecord(0, 0, 0, None, value)])
    refused.answer()
    refused.find("a")
