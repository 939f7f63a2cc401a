"""The conversion of messages of Segment's and RudderStack's SDKs into events."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from api.protocols.conversion import convert
from api.protocols.messages import Envelope, Message
from api.protocols.segment import CALLS, messages_in, to_event
from common.errors import InvalidEventError
from common.events import parse_timestamp

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
ENVELOPE = Envelope(NOW)


def track(**fields: Any) -> Message:
    return {"type": "track", "event": "Walked", "userId": "ada", **fields}


def event_of(message: Message, call: str | None = None, envelope: Envelope = ENVELOPE) -> dict[str, Any]:
    """The event of a message, without the fields that the API adds to every event."""
    converted = convert([message], lambda each: to_event(each, call, envelope), odd=True)
    assert converted.batch.errors == {}
    return converted.batch.events[0]


def errors_of(message: Any, call: str | None = None) -> Any:
    return convert([message], lambda each: to_event(each, call, ENVELOPE), odd=True).batch.errors[0]


# ── Types and names ──


@pytest.mark.parametrize(
    ("name", "event_type"),
    [
        ("Order Completed", "purchase"),
        ("Product Added", "add_to_cart"),
        ("Products Searched", "search"),
        ("Product Clicked", "click"),
        ("Promotion Clicked", "click"),
        ("order completed", "custom"),
        ("Walked", "custom"),
    ],
)
def test_standard_names_of_shops_have_their_own_types(name: str, event_type: str) -> None:
    event = event_of(track(event=name))
    assert (event["event_type"], event["event_name"]) == (event_type, name)


@pytest.mark.parametrize(
    ("call", "event_type"),
    [("page", "page_view"), ("screen", "screen"), ("identify", "identify"), ("group", "group"), ("alias", "alias")],
)
def test_each_call_has_a_type(call: str, event_type: str) -> None:
    assert event_of({"type": call, "userId": "ada"})["event_type"] == event_type


@pytest.mark.parametrize("call", ["page", "screen"])
def test_pages_and_screens_may_have_names(call: str) -> None:
    assert event_of({"type": call, "userId": "ada", "name": "Basket"})["event_name"] == "Basket"
    for name in (None, "", " "):
        assert "event_name" not in event_of({"type": call, "userId": "ada", "name": name})


def test_the_path_overrides_the_type_of_the_message() -> None:
    event = event_of(track(type="identify"), call="track")
    assert (event["event_type"], event["extra"]) == ("custom", {"type": "identify"})
    assert "extra" not in event_of(track(), call="track")


@pytest.mark.parametrize("call", [None, "Track", "delete", 1, ["track"], {}])
def test_without_a_path_the_message_must_have_a_type(call: Any) -> None:
    assert errors_of(track(type=call)) == {"event_type": [f"A message's type must be one of: {', '.join(CALLS)}."]}


@pytest.mark.parametrize("name", [None, "", " \t"])
def test_a_track_without_an_event_is_refused(name: Any) -> None:
    assert errors_of(track(event=name)) == {"event_name": ["Missing: a track has an event."]}


# ── Ids ──


@pytest.mark.parametrize("absent", [None, "", "  "])
def test_the_customer_is_the_user_id_or_else_the_anonymous_id(absent: Any) -> None:
    assert event_of(track(anonymousId="anon"))["customer_id"] == "ada"
    event = event_of(track(userId=absent, anonymousId="anon"))
    assert (event["customer_id"], event["anonymous_id"]) == ("anon", "anon")
    assert "user_id" not in event
    assert errors_of(track(userId=absent)) == {"customer_id": ["Missing: a userId or an anonymousId."]}


def test_the_customer_of_an_alias_may_be_the_previous_id() -> None:
    event = event_of({"type": "alias", "previousId": "anon", "anonymousId": "other"})
    assert (event["customer_id"], event["previous_id"], event["anonymous_id"]) == ("anon", "anon", "other")
    assert event_of({"type": "alias", "previousId": "anon", "userId": "ada"})["customer_id"] == "ada"
    assert errors_of({"type": "alias", "anonymousId": "a"}) == {"customer_id": ["Missing: a userId or a previousId."]}


@pytest.mark.parametrize(("number", "text"), [(42, "42"), (0, "0"), (1.5, "1.5"), (2**70, str(2**70))])
def test_numbers_become_texts(number: float, text: str) -> None:
    event = event_of(track(userId=number, groupId=number, messageId=number))
    assert (event["customer_id"], event["user_id"], event["group_id"], event["event_id"]) == (text,) * 4


@pytest.mark.parametrize("odd", [True, False, {}, [], {"id": 1}, ["ada"]])
def test_an_id_that_is_neither_text_nor_number_is_refused(odd: Any) -> None:
    assert "user_id" in errors_of(track(userId=odd, anonymousId="anon"))


def test_the_id_in_a_header_is_for_messages_without_one() -> None:
    envelope = Envelope(NOW, anonymous_id="of-the-header")
    assert event_of(track(), envelope=envelope)["anonymous_id"] == "of-the-header"
    assert event_of(track(anonymousId="own"), envelope=envelope)["anonymous_id"] == "own"


def test_a_message_id_that_is_too_long_becomes_its_digest() -> None:
    assert event_of(track(messageId="x" * 128))["event_id"] == "x" * 128
    event_id = event_of(track(messageId="x" * 129))["event_id"]
    assert event_id == f"sha256:{hashlib.sha256(b'x' * 129).hexdigest()}"
    assert event_of(track(messageId="x" * 129))["event_id"] == event_id
    assert event_of(track(messageId="x" * 130))["event_id"] != event_id


@pytest.mark.parametrize("missing", [None, "", " "])
def test_a_missing_id_is_left_for_the_api_to_generate(missing: Any) -> None:
    assert "event_id" not in event_of(track(messageId=missing))


# ── Other fields ──


def test_properties_traits_and_context_are_kept_as_they_were_sent() -> None:
    parts = {name: {"a": [1, None, {"b": "c"}]} for name in ("properties", "traits", "context")}
    assert event_of(track(**parts)).items() >= parts.items()


def test_an_identify_without_traits_uses_those_of_its_context() -> None:
    context = {"traits": {"plan": "pro"}}
    nothing: list[dict[str, Any]] = [{}, {"traits": None}, {"traits": {}}]
    for traits in nothing:
        event = event_of({"type": "identify", "userId": "ada", "context": context, **traits})
        assert (event["traits"], event["context"]) == ({"plan": "pro"}, context)
    assert event_of({"type": "identify", "userId": "ada", "context": context, "traits": {"a": 1}})["traits"] == {"a": 1}
    assert "traits" not in event_of(track(context=context))


def test_every_other_field_except_the_key_goes_to_extra() -> None:
    extra = {"channel": "web", "category": "Shop", "_metadata": {"x": 1}, "integrations": {"All": True}, "name": "n"}
    assert event_of(track(writeKey="secret", **extra))["extra"] == extra


@pytest.mark.parametrize("part", ["properties", "traits", "context"])
def test_properties_traits_and_context_must_be_objects(part: str) -> None:
    assert errors_of(track(**{part: "text"})) == {part: ["Must be a JSON object."]}


def test_a_message_that_is_no_object_is_refused() -> None:
    for message in (None, 1, "track", [track()]):
        assert errors_of(message) == ["Must be a JSON object."]


# ── Times ──


def at(minutes: float) -> str:
    return (NOW + timedelta(minutes=minutes)).isoformat()


@pytest.mark.parametrize(
    ("sent", "told"),
    [(0, -60), (-4.9, -60), (4.9, -60), (-5, -55), (5, -65), (-60, 0), (60, -120), (-525_600, 525_540)],
)
def test_a_clock_that_is_five_minutes_off_is_corrected(sent: float, told: float) -> None:
    event = event_of(track(timestamp=at(-60), sentAt=at(sent)))
    assert event["timestamp"] == NOW + timedelta(minutes=told)
    assert event["original_timestamp"] == NOW - timedelta(minutes=60)
    assert event["sent_at"] == NOW + timedelta(minutes=sent)


def test_a_retried_request_corrects_no_clock() -> None:
    envelope = Envelope(NOW, is_retry=True)
    assert event_of(track(timestamp=at(-60), sentAt=at(-30)), envelope=envelope)["timestamp"] == parse_timestamp(
        at(-60)
    )


def test_a_message_with_both_times_keeps_its_timestamp() -> None:
    event = event_of(track(timestamp=at(-60), originalTimestamp=at(-90), sentAt=at(-30)))
    assert event["timestamp"] == parse_timestamp(at(-60))
    assert event["original_timestamp"] == parse_timestamp(at(-90))


def test_the_original_timestamp_alone_is_the_time() -> None:
    event = event_of(track(originalTimestamp=at(-60), sentAt=at(-30)))
    assert event["timestamp"] == parse_timestamp(at(-30))


def test_the_time_of_sending_is_of_the_message_or_else_of_the_header() -> None:
    envelope = Envelope(NOW, sent_at=at(-10))
    assert event_of(track(timestamp=at(-60)), envelope=envelope)["timestamp"] == parse_timestamp(at(-50))
    assert event_of(track(sentAt=at(-20)), envelope=envelope)["sent_at"] == parse_timestamp(at(-20))


@pytest.mark.parametrize(
    "odd", ["yesterday", "2026-01-31", "2026-01-31T12:00:00", 1769860800, {"a": 1}, "2026-13-01T00:00:00Z"]
)
def test_a_malformed_time_stays_in_extra(odd: Any) -> None:
    event = event_of(track(timestamp=odd, sentAt=odd, originalTimestamp=odd))
    assert event["extra"] == {"timestamp": odd, "sentAt": odd, "originalTimestamp": odd}
    assert event.keys().isdisjoint({"timestamp", "original_timestamp", "sent_at"})


@pytest.mark.parametrize("offset", ["Z", "+00:00", "+0000", "+01:00", "+0100"])
def test_offsets_may_have_no_colon(offset: str) -> None:
    hours = 1 if "1" in offset else 0
    event = event_of(track(timestamp=f"2026-01-31T12:00:00.5{offset}"))
    assert event["timestamp"] == NOW + timedelta(hours=-hours, seconds=0.5)


@pytest.mark.parametrize("end", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
def test_a_correction_beyond_the_years_of_python_is_skipped(end: str) -> None:
    for sent in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"):
        assert event_of(track(timestamp=end, sentAt=sent))["original_timestamp"] == parse_timestamp(end)


# ── Batches ──


def test_fields_of_the_batch_apply_to_messages_without_them() -> None:
    batch = {
        "context": {"ip": "::1"},
        "integrations": {"All": False},
        "sentAt": at(0),
        "batch": [track(), track(context={"a": 1}, integrations={}, sentAt=at(1)), "odd"],
    }
    first, second, third = messages_in(batch)
    assert (first["context"], first["integrations"], first["sentAt"]) == ({"ip": "::1"}, {"All": False}, at(0))
    assert (second["context"], second["integrations"], second["sentAt"]) == ({"a": 1}, {}, at(1))
    assert third == "odd"


@pytest.mark.parametrize("batch", [{}, {"batch": None}, {"batch": {}}, {"batch": "x"}, {"batch": [{}] * 2501}])
def test_a_batch_without_a_list_of_messages_is_refused(batch: Message) -> None:
    with pytest.raises(InvalidEventError, match=r"^batch: "):
        messages_in(batch)


def test_the_conversion_does_not_change_the_message() -> None:
    message = track(timestamp=at(0), properties={"$a": 1}, channel="web")
    before = json.dumps(message)
    event_of(message)
    assert json.dumps(message) == before
