"""The event: valid and invalid values, the error messages, and the form in Kafka."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import bson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common import events
from common.errors import InvalidEventError
from common.event_json import decode, encode, load_batch, load_event
from common.events import format_timestamp, parse_timestamp
from tests import sent
from tests.odd_json import nested

LEAST = {"customer_id": "alice", "event_type": "click"}


STORED = {**LEAST, "event_id": "i", **dict.fromkeys(("timestamp", "received_at"), "2026-01-31T12:00:00Z")}


SET_BY_US = ("received_at", "source", "protocol", "extra", "original_timestamp", "sent_at", "kafka", "processed_at")
TOO_MANY_INNER = "At most 1,000 objects and arrays in an event."
TOO_MANY = "At most 1,000 keys in an event, those of inner objects included."


def members(count: int) -> dict[str, int]:
    return {f"{n:x}": n for n in range(count)}


def body(**fields: Any) -> bytes:
    return json.dumps({**LEAST, **fields}).encode()


def refusal(raw: bytes) -> InvalidEventError:
    with pytest.raises(InvalidEventError) as raised:
        load_event(raw)
    return raised.value


def test_an_event_needs_only_its_customer_and_type() -> None:
    assert load_event(body()) == LEAST


@pytest.mark.parametrize("event_type", events.EVENT_TYPES)
def test_event_types(event_type: str) -> None:
    assert load_event(body(event_type=event_type))["event_type"] == event_type


def test_properties_are_kept_exactly() -> None:
    properties = {"text": "ä\u2028\0", "int": 2**63 - 1, "least": -(2**63), "float": 0.1, "yes": True, "a.b": "dot"}
    assert load_event(body(properties=properties))["properties"] == properties


@pytest.mark.parametrize("name", ["properties", "context", "traits"])
@pytest.mark.parametrize(
    "value",
    [
        {},
        {"products": [{"sku": "mug-blue", "price": 12.75, "coupon": None}, {"sku": "tea", "sizes": [1, 2.0]}]},
        {"device": {"type": "phone"}, "ip": None, "empty": [[], {}, ""]},
        nested(16),
        {"a": nested(14, [1])},
        members(1_000),
        {"of": [members(499), members(500)]},
        {"_schema": {"_schema": 1}, "…": 1},
        {"many": list(range(10_000))},
        {"of": [{}, []] * 499},
    ],
    ids=lambda value: f"{value!s:.20}",
)
def test_a_nested_object_is_kept_unchanged(name: str, value: dict[str, Any]) -> None:
    assert repr(load_event(body(**{name: value}))[name]) == repr(value)


def test_all_faults_of_a_nested_value_are_reported_with_their_paths() -> None:
    error = refusal(body(properties={"of": [1, {"$a": 2**63, "b": 2**63, "c": 1}, {"": 1}]}, traits={"a": nested(16)}))
    assert error.errors.keys() == {"properties", "traits"}
    assert error.errors["properties"] == {
        "of": {
            1: {"$a": ["Must not begin with '$'."], "b": ["Integers must fit into 64 bits."]},
            2: {"": ["Length must be between 1 and 256."]},
        }
    }


def test_at_most_a_hundred_faults_of_an_object_are_reported() -> None:
    error = refusal(body(properties={"of": [2**63] * 1_000}))
    assert list(error.errors["properties"]["of"]) == list(range(100))


def test_a_boolean_stays_a_boolean() -> None:
    assert load_event(body(properties={"yes": True}))["properties"]["yes"] is True


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"customer_id": ""}, "customer_id: Length must be between 1 and 256."),
        ({"customer_id": "x" * 257}, "customer_id: Length must be between 1 and 256."),
        ({"customer_id": " \t"}, "customer_id: Must not be blank."),
        ({"customer_id": 5}, "customer_id: Must be a string."),
        ({"customer_id": None}, "customer_id: Field may not be null."),
        ({"customer_id": "\ud800"}, "customer_id: Must not contain half a character (a lone surrogate)."),
        ({"event_type": "login"}, f"event_type: Must be one of: {', '.join(events.EVENT_TYPES)}."),
        ({"event_id": ""}, "event_id: Length must be between 1 and 128."),
        ({"event_id": "x" * 129}, "event_id: Length must be between 1 and 128."),
        ({"event_id": "\u00a0\n"}, "event_id: Must not be blank."),
        ({"event_id": "null"}, "event_id: Must not be 'null': give each event an id of its own, or none."),
        ({"timestamp": 5}, "timestamp: Not an RFC 3339 time with an offset, such as 2026-01-31T12:00:00Z."),
        ({"event_type": ["click"]}, "event_type: Must be a string."),
        ({"properties": []}, "properties: Must be a JSON object."),
        ({"properties": None}, "properties: Field may not be null."),
        ({"properties": {"a": 2**63}}, "properties.a: Integers must fit into 64 bits."),
        ({"properties": {"$a": 1}}, "properties.$a: Must not begin with '$'."),
        ({"properties": {"": 1}}, "properties.: Length must be between 1 and 256."),
        ({"properties": {"a\0": 1}}, "properties.a\\x00: Must not hold a NUL character."),
        ({"properties": {"a": "\udfff"}}, "properties.a: Must not contain half a character (a lone surrogate)."),
        ({"properties": {"a" * 257: 1}}, f"properties.{'a' * 80}…: Length must be between 1 and 256."),
        ({"properties": {"of": [1, {"a": [2**63]}]}}, "properties.of[1].a[0]: Integers must fit into 64 bits."),
        ({"properties": {"of": [{"a": {"$b": 1}}]}}, "properties.of[0].a.$b: Must not begin with '$'."),
        ({"traits": {"of": [{"": 1}]}}, "traits.of[0].: Length must be between 1 and 256."),
        ({"traits": {"of": [{"a\0": 1}]}}, "traits.of[0].a\\x00: Must not hold a NUL character."),
        ({"context": {"of": ["\udfff"]}}, "context.of[0]: Must not contain half a character (a lone surrogate)."),
        (
            {"context": {"of": {"\udfff": 1}}},
            "context.of.\\udfff: Must not contain half a character (a lone surrogate).",
        ),
        ({"properties": nested(17)}, f"properties{'.a' * 16}: At most 16 levels of objects and arrays."),
        ({"properties": {"a": nested(15, [])}}, f"properties{'.a' * 16}: At most 16 levels of objects and arrays."),
        ({"properties": {"of": [[]] * 998}, "traits": {"of": []}}, f"traits: {TOO_MANY_INNER}"),
        ({"context": {"of": [[]] * 999}}, f"context: {TOO_MANY_INNER}"),
        ({"properties": members(1_001)}, f"properties: {TOO_MANY}"),
        ({"properties": {"of": [members(500), members(500)]}}, f"properties: {TOO_MANY}"),
        ({"properties": members(400), "context": members(400), "traits": members(201)}, f"traits: {TOO_MANY}"),
        ({"context": []}, "context: Must be a JSON object."),
        ({"traits": "x"}, "traits: Must be a JSON object."),
        ({"event_name": "x" * 201}, "event_name: Length must be between 1 and 200."),
        ({"event_name": "\n"}, "event_name: Must not be blank."),
        ({"user_id": ""}, "user_id: Length must be between 1 and 256."),
        ({"anonymous_id": "x" * 257}, "anonymous_id: Length must be between 1 and 256."),
        ({"group_id": 5}, "group_id: Must be a string."),
        ({"previous_id": None}, "previous_id: Field may not be null."),
        ({"user": "bob"}, "user: Unknown field."),
        ({"new\nline \ud800": 1}, r"new\nline \ud800: Unknown field."),
        *(({name: "2026-01-31T12:00:00Z"}, f"{name}: Unknown field.") for name in SET_BY_US),
        ({str(n): n for n in range(31)}, "At most 32 fields: all else goes into properties."),
    ],
)
def test_a_broken_rule_is_named_with_its_field(fields: dict[str, Any], message: str) -> None:
    assert str(refusal(body(**fields))) == message


@pytest.mark.parametrize("no_id", ["undefined", "null", "NaN", "[object Object]", " ", "\t"])
class TestPlaceholderIds:
    """Texts such as "null", which programs send for several events when they have no id."""

    def test_is_refused(self, no_id: str) -> None:
        assert refusal(body(event_id=no_id)).errors.keys() == {"event_id"}

    def test_is_read_from_a_record_that_was_accepted_earlier(self, no_id: str) -> None:
        assert decode(json.dumps({**STORED, "event_id": no_id}).encode())["event_id"] == no_id


def test_a_record_may_have_more_fields_than_a_client_may_send() -> None:
    newer = {f"field_{n}": n for n in range(100)}
    assert decode(json.dumps({**STORED, **newer}).encode()).items() >= newer.items()


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
        (b"\xef\xbb\xbf{}", "The body begins with a byte order mark: send it without one."),
        (
            b'{"customer_id":"a","event_type":"click","properties":{"a":-%s}}' % (b"9" * 5000),
            "properties.a: Integers must fit into 64 bits.",
        ),
        (b"[]", "Must be a JSON object."),
        (b'"text"', "Must be a JSON object."),
    ],
)
def test_a_body_without_a_valid_event_is_refused(raw: bytes, message: str) -> None:
    assert message in str(refusal(raw))


def test_the_last_value_of_a_repeated_key_counts() -> None:
    assert load_event(b'{"customer_id":"a","customer_id":"b","event_type":"click"}')["customer_id"] == "b"


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31t12:00:00z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31 12:00:00+00:00", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00:00-01:30", datetime(2026, 1, 31, 13, 30, tzinfo=UTC)),
        ("2026-01-31T23:59:59+23:59", datetime(2026, 1, 31, 0, 0, 59, tzinfo=UTC)),
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
        "2026-01-31T12:00:00+05:60",
        "2026-01-31T12:00:00-00:99",
        "2026-01-31T12:60:00Z",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "２026-01-31T12:00:00Z",
        "2026-01-31T12:00:00Z\n",
        "",
    ],
)
def test_a_time_that_is_not_rfc_3339_is_refused(text: str) -> None:
    assert "RFC 3339" in str(refusal(body(timestamp=text)))


@given(st.datetimes(timezones=st.timezones()))
def test_a_time_keeps_its_microseconds_through_kafka(moment: datetime) -> None:
    try:
        in_utc = moment.astimezone(UTC)
    except OverflowError:
        return
    assert parse_timestamp(format_timestamp(in_utc)) - in_utc == timedelta(0)


def batch(*events: Any) -> bytes:
    return json.dumps({"events": events}).encode()


def test_a_batch_has_its_valid_events_and_its_errors_by_index() -> None:
    right, wrong = load_batch(batch(LEAST, {"customer_id": "a"}, LEAST, {**LEAST, "x": 1}, 5, None))
    assert right == {0: LEAST, 2: LEAST}
    assert wrong == {
        1: {"event_type": ["Missing data for required field."]},
        3: {"x": ["Unknown field."]},
        4: ["Must be a JSON object."],
        5: ["Field may not be null."],
    }


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"[]", 'Must be a JSON object such as {"events": […]}.'),
        (b"{}", "events: Missing data for required field."),
        (b'{"events":{}}', "events: Must be an array of events."),
        (batch(), "events: Must hold 1 to 100 events."),
        (batch(*[LEAST] * 101), "events: Must hold 1 to 100 events."),
        (batch(*[5] * 101), "events: Must hold 1 to 100 events."),
        (b'{"events":[{"customer_id":"a","event_type":"click"}],"more":1}', "more: Unknown field."),
    ],
)
def test_a_malformed_batch_is_refused_as_a_whole(raw: bytes, message: str) -> None:
    with pytest.raises(InvalidEventError) as raised:
        load_batch(raw)
    assert str(raised.value) == message


def test_events_after_a_thousand_faults_are_named_and_not_examined() -> None:
    crowd = {**LEAST, "properties": {str(n): 2**63 for n in range(50)}}
    right, wrong = load_batch(batch(*[crowd] * 30, {"customer_id": 5}, LEAST))
    assert right == {31: LEAST}
    assert wrong.keys() == {*range(31)}
    assert wrong[30] == ["Not examined: fix the events before it first."]


def test_a_huge_integer_is_the_fault_of_one_event() -> None:
    raw = batch(LEAST, {**LEAST, "properties": {"a": 7}}).replace(b"7", b"9" * 5000)
    assert load_batch(raw) == ({0: LEAST}, {1: {"properties": {"a": ["Integers must fit into 64 bits."]}}})


def test_the_faults_of_an_event_that_is_no_object_have_no_field() -> None:
    assert refusal(b"[]").errors == {}


def test_a_field_named_as_marshmallows_own_key_is_an_ordinary_field() -> None:
    wrong = ["Integers must fit into 64 bits."]
    assert refusal(body(_schema=1)).errors == {"_schema": ["Unknown field."]}
    assert refusal(body(context={"_schema": [{"_schema": 2**63}]})).errors == {
        "context": {"_schema": {0: {"_schema": wrong}}}
    }


@given(
    customer_id=st.text(min_size=1, max_size=256).filter(str.strip),
    properties=sent.right_objects,
)
def test_the_consumer_reads_back_the_event_that_the_api_wrote_to_kafka(
    customer_id: str, properties: dict[str, Any]
) -> None:
    moment = datetime(2026, 1, 31, 12, 0, 0, 123_456, tzinfo=UTC)
    event = load_event(body(customer_id=customer_id, properties=properties, event_id="id"))
    event |= {"timestamp": moment, "received_at": moment}
    assert decode(encode(event)) == event


def test_a_field_of_a_newer_version_is_kept_by_the_consumer() -> None:
    newer = {"score": 1, "place": {"city": "Ulm", "of": [None]}, "none": None, "of": [1]}
    event = decode(json.dumps({**STORED, **newer}).encode())
    assert {name: event[name] for name in newer} == newer


@given(
    st.dictionaries(
        st.one_of(st.text(st.characters()), st.sampled_from([*STORED, "_id", "new", "$new", "a.b", "properties"])),
        sent.json_values,
    )
)
def test_mongodb_can_store_every_event_that_the_consumer_decodes(fields: dict[str, Any]) -> None:
    try:
        event = decode(json.dumps({**STORED, **fields}).encode())
    except InvalidEventError:
        return
    bson.encode(event)
    assert all(name.isidentifier() and not name.startswith("_") for name in event)


@pytest.mark.parametrize(
    "extra",
    [
        {"new": 2**70},
        {"_id": 1},
        {"$set": 1},
        {"a.b": 1},
        {"new": nested(17)},
        {"new": [{"$a": 1}]},
        {"event_id": "\ud800"},
    ],
)
def test_a_record_that_mongodb_might_not_store_does_not_decode(extra: dict[str, Any]) -> None:
    with pytest.raises(InvalidEventError):
        decode(json.dumps({**STORED, **extra}).encode())


def test_a_record_without_a_value_does_not_decode() -> None:
    with pytest.raises(InvalidEventError, match="no value"):
        decode(None)


storable_values = st.recursive(
    st.one_of(sent.texts, st.integers(-(2**63), 2**63 - 1), st.floats(), st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(sent.texts, inner, max_size=5)),
    max_leaves=10,
)


@given(st.dictionaries(sent.texts, storable_values))
@example({"text": "null", "none": None})
@example({"text": "null", "nan": float("nan")})
@example({"infinite": float("-inf")})
def test_an_event_is_encoded_as_the_json_of_its_values_or_not_at_all(event: dict[str, Any]) -> None:
    try:
        expected = json.loads(json.dumps(event, allow_nan=False, ensure_ascii=False).encode())
    except ValueError:
        with pytest.raises(ValueError, match=r"compliant|surrogates"):
            encode(event)
    else:
        # repr distinguishes 1, 1.0 and True, 0.0 and -0.0, and the last digit of a float.
        assert repr(json.loads(encode(event))) == repr(expected)


def test_times_are_encoded_in_rfc_3339() -> None:
    moment = datetime(2026, 1, 31, 12, 0, 0, 50, tzinfo=UTC)
    assert encode({"timestamp": moment, "text": "null"}) == b'{"timestamp":"2026-01-31T12:00:00.000050Z","text":"null"}'
