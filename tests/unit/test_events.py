"""The event: what is taken, what is refused and with which words, and its form in Kafka."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import bson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import events
from common.errors import InvalidEventError
from common.events import decode, encode, format_timestamp, load_batch, load_event, parse_timestamp

LEAST = {"customer_id": "alice", "event_type": "click"}


STORED = {**LEAST, "event_id": "i", **dict.fromkeys(("timestamp", "received_at"), "2026-01-31T12:00:00Z")}


def body(**fields: Any) -> bytes:
    return json.dumps({**LEAST, **fields}).encode()


def refusal(raw: bytes) -> InvalidEventError:
    with pytest.raises(InvalidEventError) as raised:
        load_event(raw)
    return raised.value


def test_the_least_an_event_needs() -> None:
    assert load_event(body()) == LEAST


@pytest.mark.parametrize("event_type", events.EVENT_TYPES)
def test_event_types(event_type: str) -> None:
    assert load_event(body(event_type=event_type))["event_type"] == event_type


def test_properties_are_kept_exactly() -> None:
    properties = {"text": "ä\u2028\0", "int": 2**63 - 1, "least": -(2**63), "float": 0.1, "yes": True, "a.b": "dot"}
    assert load_event(body(properties=properties))["properties"] == properties


def test_a_boolean_stays_a_boolean() -> None:
    assert load_event(body(properties={"yes": True}))["properties"]["yes"] is True


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"customer_id": ""}, "customer_id: Length must be between 1 and 256."),
        ({"customer_id": "x" * 257}, "customer_id: Length must be between 1 and 256."),
        ({"customer_id": " \t"}, "customer_id: Must not be blank."),
        ({"customer_id": 5}, "customer_id: Not a valid string."),
        ({"customer_id": None}, "customer_id: Field may not be null."),
        ({"customer_id": "\ud800"}, "customer_id: Holds half a character (a lone surrogate)."),
        ({"event_type": "login"}, f"event_type: Must be one of: {', '.join(events.EVENT_TYPES)}."),
        ({"event_id": ""}, "event_id: Length must be between 1 and 128."),
        ({"event_id": "x" * 129}, "event_id: Length must be between 1 and 128."),
        ({"timestamp": 5}, "timestamp: Not an RFC 3339 time with an offset, such as 2026-01-31T12:00:00Z."),
        ({"properties": []}, "properties: Not a valid mapping type."),
        ({"properties": {"a": None}}, "properties.a: Field may not be null."),
        ({"properties": {"a": []}}, "properties.a: Must be a string, a number or a boolean."),
        ({"properties": {"a": {}}}, "properties.a: Must be a string, a number or a boolean."),
        ({"properties": {"a": 2**63}}, "properties.a: Integers must fit into 64 bits."),
        ({"properties": {"$a": 1}}, "properties.$a: Must not begin with '$'."),
        ({"properties": {"": 1}}, "properties.: Length must be between 1 and 256."),
        ({"properties": {"a\0": 1}}, "properties.a\0: Must not hold a NUL character."),
        ({"properties": {"a": "\udfff"}}, "properties.a: Holds half a character (a lone surrogate)."),
        ({"properties": {str(n): n for n in range(51)}}, "properties: At most 50 properties."),
        ({"context": {"browser": "x"}}, "context.browser: Unknown field."),
        ({"context": {"ip": 1}}, "context.ip: Not a valid string."),
        ({"user": "bob"}, "user: Unknown field."),
        ({"received_at": "2026-01-31T12:00:00Z"}, "received_at: Unknown field."),
    ],
)
def test_a_broken_rule_is_named_with_its_field(fields: dict[str, Any], message: str) -> None:
    assert str(refusal(body(**fields))) == message


def test_all_faults_are_reported_at_once() -> None:
    error = refusal(b'{"customer_id": 1, "event_type": "login", "more": 1}')
    assert error.errors.keys() == {"customer_id", "event_type", "more"}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "The body is empty."),
        (b"{", "The body is not valid JSON: Expecting property name"),
        (b"{} {}", "The body is not valid JSON: Extra data"),
        (b'{"customer_id":"a","event_type":"click","properties":{"a":NaN}}', "NaN is not a number"),
        (b'{"customer_id":"a","event_type":"click","properties":{"a":-Infinity}}', "-Infinity is not a number"),
        (
            b'{"customer_id":"a","event_type":"click","properties":{"a":1e400}}',
            "properties.a: Must be a finite number.",
        ),
        (b'{"customer_id":"\xff","event_type":"click"}', "The body is not valid UTF-8."),
        (b"[" * 100_000, "The body is nested too deeply."),
        (b"9" * 5000, "The body holds an integer of more digits than can be read."),
        (b"[]", "Must be a JSON object."),
        (b'"text"', "Must be a JSON object."),
    ],
)
def test_a_body_that_is_no_event_is_refused(raw: bytes, message: str) -> None:
    assert message in str(refusal(raw))


def test_of_a_repeated_key_the_last_value_counts() -> None:
    assert load_event(b'{"customer_id":"a","customer_id":"b","event_type":"click"}')["customer_id"] == "b"


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31t12:00:00z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31 12:00:00+00:00", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00:00-01:30", datetime(2026, 1, 31, 13, 30, tzinfo=UTC)),
        ("2026-01-31T12:00:00.5Z", datetime(2026, 1, 31, 12, 0, 0, 500_000, tzinfo=UTC)),
        ("2026-01-31T12:00:00.123456789Z", datetime(2026, 1, 31, 12, 0, 0, 123_456, tzinfo=UTC)),
    ],
)
def test_times_become_utc(text: str, moment: datetime) -> None:
    assert parse_timestamp(text) == moment


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-31",
        "2026-01-31T12:00:00",
        "2026-02-30T12:00:00Z",
        "2026-01-31T24:00:00Z",
        "2026-01-31T12:00:60Z",
        "20260131T120000Z",
        "2026-W05-6T12:00:00Z",
        "2026-01-31T12:00:00+0100",
        "2026-01-31T12:00:00+24:00",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "２026-01-31T12:00:00Z",
        "2026-01-31T12:00:00Z\n",
        "",
    ],
)
def test_what_is_no_rfc_3339_time_is_refused(text: str) -> None:
    assert "RFC 3339" in str(refusal(body(timestamp=text)))


@given(st.datetimes(timezones=st.timezones()))
def test_a_time_keeps_its_microseconds_through_kafka(moment: datetime) -> None:
    try:
        in_utc = moment.astimezone(UTC)
    except OverflowError:
        return
    assert parse_timestamp(format_timestamp(in_utc)) - in_utc == timedelta(0)


def test_a_batch_names_every_wrong_event_by_index() -> None:
    with pytest.raises(InvalidEventError) as raised:
        load_batch(json.dumps({"events": [LEAST, {"customer_id": "a"}, {**LEAST, "x": 1}]}).encode())
    assert raised.value.errors["events"].keys() == {1, 2}
    assert str(raised.value) == "events[1].event_type: Missing data for required field."


@pytest.mark.parametrize("count", [0, 101])
def test_a_batch_holds_1_to_100_events(count: int) -> None:
    with pytest.raises(InvalidEventError, match=r"^events: Must hold 1 to 100 events\.$"):
        load_batch(json.dumps({"events": [LEAST] * count}).encode())


scalars = st.one_of(
    st.text(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False), st.booleans()
)
keys = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=20).filter(
    lambda key: not key.startswith("$")
)


@given(
    customer_id=st.text(min_size=1, max_size=256).filter(str.strip),
    properties=st.dictionaries(keys, scalars, max_size=50),
)
def test_what_the_api_writes_to_kafka_the_consumer_reads_back_equal(
    customer_id: str, properties: dict[str, Any]
) -> None:
    moment = datetime(2026, 1, 31, 12, 0, 0, 123_456, tzinfo=UTC)
    event = load_event(body(customer_id=customer_id, properties=properties, event_id="id"))
    event |= {"timestamp": moment, "received_at": moment}
    assert decode(encode(event)) == event


def test_a_field_of_a_newer_version_is_kept_by_the_consumer() -> None:
    newer = {**STORED, "context": {"screen": "4k"}, "score": 1, "place": {"city": "Ulm"}}
    event = decode(json.dumps(newer).encode())
    assert (event["score"], event["place"], event["context"]) == (1, {"city": "Ulm"}, {"screen": "4k"})


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters())),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(st.characters()), inner)),
    max_leaves=10,
)


@given(
    st.dictionaries(
        st.one_of(st.text(st.characters()), st.sampled_from([*STORED, "_id", "new", "$new", "a.b", "properties"])),
        json_values,
    )
)
def test_whatever_the_consumer_takes_from_kafka_mongodb_can_store(fields: dict[str, Any]) -> None:
    try:
        event = decode(json.dumps({**STORED, **fields}).encode())
    except InvalidEventError:
        return
    bson.encode(event)
    assert all(name.isidentifier() and not name.startswith("_") for name in event)


@pytest.mark.parametrize(
    "extra",
    [{"new": 2**70}, {"_id": 1}, {"$set": 1}, {"a.b": 1}, {"new": [1]}, {"new": {"$a": 1}}, {"event_id": "\ud800"}],
)
def test_what_mongodb_might_not_store_does_not_decode(extra: dict[str, Any]) -> None:
    with pytest.raises(InvalidEventError):
        decode(json.dumps({**STORED, **extra}).encode())


def test_a_record_without_a_value_does_not_decode() -> None:
    with pytest.raises(InvalidEventError, match="no value"):
        decode(None)
