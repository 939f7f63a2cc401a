"""The fast decoders and the schemas give the same result and value for every body; the list of supported schemas.

HYPOTHESIS_EXAMPLES sets more examples than 1,000.
"""

import json
import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from marshmallow import Schema, ValidationError, fields, post_load, validate

from common import event_json, events, json_values
from common.errors import InvalidEventError, SchemaError
from common.event_json import Batch, decode, load_batch, load_event, load_mapped
from common.events import StoredEventSchema
from common.fast_decoder import FastDecoder, Vouched, fast_decoder
from loadtest.journeys import generated_journeys
from tests import sent
from tests.odd_json import Writer

# ── Soundness ──


def outcome(load: Callable[[bytes], Any], body: bytes) -> tuple[str, ...]:
    """The result of a load. Its repr distinguishes 1, 1.0 and True, 0.0 and -0.0, and the order of keys."""
    try:
        taken = load(body)
    except InvalidEventError as error:
        return ("wrong", str(error), repr(error.errors))
    return ("wrong" if isinstance(taken, Batch) and taken.errors else "right", repr(taken))


def by_the_schema(load: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """The same function without the fast decoders."""

    def load_slowly(body: bytes) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("_FAST_EVENT", "_FAST_BATCH", "_FAST_MAPPED", "_FAST_STORED"):
                patch.setattr(event_json, name, lambda _: None)
            patch.setattr(event_json, "_with_loaded_events", event_json.parse_json)
            return load(body)

    return load_slowly


def check_soundness(load: Callable[[bytes], Any], fast: FastDecoder, write: Callable[[Writer], str]) -> None:
    """Decoder and schema agree on every document, and the decoder accepts enough of them for a meaningful test."""
    seen: Counter[str] = Counter()

    @settings(max_examples=max(1000, settings().max_examples))
    @given(st.randoms(use_true_random=True))
    def check(rng: random.Random) -> None:
        writer = Writer(rng)
        body = writer.bytes_of(write(writer))
        found = outcome(load, body)
        assert found == outcome(by_the_schema(load), body), body
        seen[found[0]] += 1
        seen["fast"] += fast(body) is not None

    check()
    assert seen["fast"] > 0.9 * seen["right"] > 0.2 * seen["wrong"]


def test_an_event_is_accepted_or_refused_as_by_the_schema() -> None:
    check_soundness(load_event, event_json._FAST_EVENT, Writer.event)


def test_a_record_is_accepted_or_refused_as_by_the_schema() -> None:
    check_soundness(decode, event_json._FAST_STORED, Writer.record)


def test_an_event_of_another_protocol_is_accepted_or_refused_as_by_the_schema() -> None:
    check_soundness(load_mapped, event_json._FAST_MAPPED, Writer.mapped)


def test_a_batch_is_accepted_or_refused_as_by_the_schema() -> None:
    check_soundness(load_batch, event_json._FAST_BATCH, Writer.batch)


@pytest.mark.parametrize("first", [b'"\xff"', b"{}", b"1e400", b'"\\ud800"', b"01", b"9" * 5000])
def test_the_last_of_two_lists_of_events_counts_and_both_must_be_json(first: bytes) -> None:
    body = b'{"events":[' + first + b'],"events":[{"customer_id":"a","event_type":"click"},{}]}'
    assert outcome(load_batch, body) == outcome(by_the_schema(load_batch), body)


def test_decoder_and_schema_agree_on_blank_texts() -> None:
    for code in range(0x110000):
        if not 0xD800 <= code < 0xE000 and chr(code).isspace():
            body = json.dumps({"customer_id": chr(code), "event_type": "click"}).encode()
            assert event_json._FAST_EVENT(body) is None


# ── Completeness: a decoder that accepts nothing would be sound, too ──

moments = st.datetimes(min_value=datetime(1000, 1, 1), timezones=st.just(UTC)).map(datetime.isoformat)  # noqa: DTZ001
valid_texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=128)
shallow_objects = sent.right_objects.filter(lambda value: sent.levels(value) <= json_values.SHALLOW_LEVELS)
valid_events = st.fixed_dictionaries(
    {"customer_id": valid_texts.filter(str.strip), "event_type": st.sampled_from(events.EVENT_TYPES)},
    optional={
        "event_id": valid_texts.filter(lambda text: text.strip() and text not in events.NO_IDS),
        "timestamp": moments,
        "event_name": valid_texts.filter(str.strip),
        **dict.fromkeys(("anonymous_id", "user_id", "previous_id", "group_id"), valid_texts),
        **dict.fromkeys(("properties", "context", "traits"), shallow_objects),
    },
)


FIRST_FOUND = settings(phases=[Phase.generate], database=None)


@pytest.mark.parametrize("name", events.EventSchema().fields)
class TestEachField:
    """Otherwise no test here would try a new field."""

    def test_is_among_the_valid_events_of_this_file(self, name: str) -> None:
        find(valid_events, lambda event: name in event, settings=FIRST_FOUND)

    def test_is_among_the_events_of_sent(self, name: str) -> None:
        find(sent.events, lambda event: name in event, settings=FIRST_FOUND)

    def test_is_among_the_events_of_odd_json(self, name: str) -> None:
        rng = random.Random(1)
        assert f'"{name}"' in "".join(Writer(rng).event() for _ in range(100)), "add it to Writer.event and .record"


@given(valid_events, st.booleans())
def test_the_fast_decoder_accepts_every_valid_event(event: dict[str, Any], escaped: bool) -> None:
    body = json.dumps(event, ensure_ascii=escaped).encode()
    assert event_json._FAST_EVENT(body) == by_the_schema(load_event)(body)


def test_the_fast_decoders_accept_the_events_of_shoppers_in_api_and_consumer() -> None:
    journeys = list(generated_journeys(20, "run", datetime.now(UTC), random.Random(1)))
    assert all(event_json._FAST_BATCH(json.dumps({"events": journey}).encode()) is not None for journey in journeys)
    written = [{**event, "received_at": event["timestamp"]} for journey in journeys for event in journey]
    assert all(event_json._FAST_STORED(event_json.encode(event)) is not None for event in written)


def test_one_bad_event_does_not_send_its_batch_to_the_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[Any] = []
    load = fields.Nested._deserialize

    def deserialize(self: fields.Nested, value: Any, *args: Any, **kwargs: Any) -> Any:
        judged.append(value)
        return load(self, value, *args, **kwargs)

    monkeypatch.setattr(fields.Nested, "_deserialize", deserialize)
    good_one = {"customer_id": "a", "event_type": "click"}
    batch = load_batch(json.dumps({"events": [good_one, {"customer_id": "b"}, good_one]}).encode())
    assert (list(batch.events), list(batch.errors)) == ([0, 2], [1])
    assert judged == [{"customer_id": "b"}]


# ── The generator ──

NOTHING = Vouched(checked={}, most=0, parsers={}, same={}, implied=[])


def decoder(vouched: Vouched = NOTHING, **declared: fields.Field[Any]) -> FastDecoder:
    return fast_decoder(Schema.from_dict(dict(declared))(), vouched)


class Upper(fields.String):
    pass


def short(text: str) -> None:
    if len(text) > 1:
        raise ValidationError("Too long.")


class Hooked(Schema):
    name = fields.String()

    @post_load
    def change(self, data: Any, **_: Any) -> Any:
        return data


class Overridden(Schema):
    name = fields.String()

    def load(self, *args: Any, **kwargs: Any) -> Any:
        return super().load(*args, **kwargs)


@pytest.mark.parametrize(
    ("field", "fault"),
    [
        (fields.Integer(), "a Integer field"),
        (fields.Raw(), "a Raw field"),
        (Upper(), "a Upper field"),
        (fields.Nested(Hooked), "code of its own, change"),
        (fields.Nested(Overridden), "code of its own, load"),
        (fields.Nested(StoredEventSchema, many=True), "the option many"),
        (fields.String(load_default="x"), "the option load_default"),
        (fields.String(allow_none=True), "the option allow_none"),
        (fields.String(data_key="x"), "the option data_key"),
        (fields.String(attribute="x"), "the option attribute"),
        (fields.String(dump_only=True), "the option dump_only"),
        (fields.String(pre_load=str.strip), "the option pre_load"),
        (fields.String(post_load=str.strip), "the option post_load"),
        (fields.List(fields.Boolean()), "a Boolean field"),
        (fields.Dict(), "a Dict field"),
    ],
)
def test_an_unsupported_field_or_option_is_refused_by_name_at_start(field: fields.Field[Any], fault: str) -> None:
    with pytest.raises(SchemaError, match=r"^\w+\.here\b.* has .*" + fault):
        decoder(here=field)


def test_a_new_field_needs_no_second_declaration() -> None:
    tag = fields.String(validate=validate.Length(equal=2))
    decode = decoder(tags=fields.List(tag, validate=validate.Length(max=1)))
    assert decode(b'{"tags":["ab"]}') == {"tags": ["ab"]}
    assert decode(b'{"tags":["abc"]}') is decode(b'{"tags":["ab","ab"]}') is None


def test_an_unknown_validator_is_called() -> None:
    decode = decoder(name=fields.String(validate=short))
    assert (decode(b'{"name":"a"}'), decode(b'{"name":"ab"}')) == ({"name": "a"}, None)


def test_an_unknown_field_is_left_to_the_schema() -> None:
    assert decoder(name=fields.String())(b'{"other":1}') is None


def test_keys_are_checked_after_thousands_of_others() -> None:
    for number in range(10_000):
        for key, right in ((f"a{number}", True), (f"${number}", False)):
            event = {"customer_id": "a", "event_type": "click", "properties": {"of": [{key: ""}]}}
            assert (event_json._FAST_EVENT(json.dumps(event).encode()) is not None) is right
