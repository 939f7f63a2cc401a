"""The event: its fields, their rules and limits (marshmallow schemas).

The API validates clients' events with `EventSchema`; the consumer validates the API's records with `NewerEventSchema`.
Both refuse values that Kafka or MongoDB could not store.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from marshmallow import INCLUDE, RAISE, Schema, ValidationError, fields, validate, validates_schema

from common import json_values
from common.errors import Fault
from common.fast_decoder import Vouched
from common.json_values import HALF_CHARACTER, Judge, is_storable

EVENT_TYPES = (
    "page_view",
    "click",
    "purchase",
    "add_to_cart",
    "search",
    "custom",
    "screen",
    "identify",
    "group",
    "alias",
)
MAX_EVENT_BYTES = 64 * 1024
MAX_BATCH_BYTES = 1024 * 1024
MAX_BATCH_EVENTS = 100
MAX_FIELDS = 32
MAX_EVENT_ID_LENGTH = 128
DOCUMENTED_CONTEXT = {
    "device": "Such as phone, or an object that says more.",
    "session_id": "The visit of the event.",
    "ip": "The client's address.",
    "user_agent": "The browser's User-Agent.",
}
"""The documented keys of `context`; it accepts any others."""
NO_IDS = ("undefined", "null", "NaN", "[object Object]")
"""Strings that programs produce from a missing id: a second event with that id would count as a duplicate."""

RFC_3339 = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt ](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d+)?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)
_LONGEST_PLAIN_TIME = len("2026-01-31T12:00:00.123456Z")
_convert = msgspec.convert
_FIELD_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


def parse_timestamp(text: str) -> datetime:
    """An RFC 3339 time with an offset, as UTC; digits after the microseconds are cut off. Raises ValueError."""
    if len(text) <= _LONGEST_PLAIN_TIME and text[-1:] == "Z":
        # The fast path, for nearly all timestamps.
        try:
            moment: datetime = _convert(text, datetime)
        except msgspec.ValidationError:
            raise ValueError(text) from None
        return moment
    if RFC_3339.fullmatch(text) is None:
        raise ValueError(text)
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except OverflowError:
        # The offset moves it beyond the years 1 to 9999.
        raise ValueError(text) from None


def format_timestamp(moment: datetime) -> str:
    """A time in UTC, as RFC 3339 with microseconds."""
    return moment.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def _storable_text(text: str) -> None:
    if not is_storable(text):
        raise ValidationError(HALF_CHARACTER)


def _not_blank(text: str) -> None:
    if not text.strip():
        raise ValidationError(Fault("blank", "Must not be blank."))


def _length(least: int | None, most: int, message: str = "Length must be between {min} and {max}.") -> validate.Length:
    return validate.Length(least, most, error=Fault("length", message))


def _is_an_id(text: str) -> None:
    _not_blank(text)
    if text in NO_IDS:
        raise ValidationError(Fault("format", f"Must not be {text!r}: give each event an id of its own, or none."))


_NOT_BLANK = r"[^\s\x1c-\x1f\x85]"
_OBJECT = Fault("type", "Must be a JSON object.")


def _messages(**own: Fault) -> dict[str, Any]:
    """A field's own messages, plus those of every field."""
    missing = Fault("required", "Missing data for required field.")
    return {"required": missing, "null": Fault("type", "Field may not be null."), **own}


class Text(fields.String):
    """A string."""

    default_error_messages = _messages(invalid=Fault("type", "Must be a string."))


class Timestamp(fields.Field[datetime]):
    """An RFC 3339 string, loaded as a datetime in UTC."""

    default_error_messages = _messages(
        invalid=Fault("format", "Not an RFC 3339 time with an offset, such as 2026-01-31T12:00:00Z.")
    )

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> datetime:
        del attr, data, kwargs
        try:
            return parse_timestamp(value)
        except (TypeError, ValueError):
            raise self.make_error("invalid") from None


class JsonObject(fields.Field[dict[str, Any]]):
    """An object of any JSON values, exactly as it was sent; its schema checks its contents."""

    default_error_messages = _messages(invalid=_OBJECT)

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> dict[str, Any]:
        del attr, data, kwargs
        if not isinstance(value, dict):
            raise self.make_error("invalid")
        return value


_EVENT_ID_RULES: list[Callable[[str], object]] = [_length(1, MAX_EVENT_ID_LENGTH), _storable_text]


class Object(fields.Nested):
    """An object of fields."""

    default_error_messages = _messages(type=_OBJECT)


class ObjectSchema(Schema):
    """A JSON object."""

    error_messages = {"type": _OBJECT, "unknown": Fault("unknown", "Unknown field.")}  # noqa: RUF012, as marshmallow has it

    def load(self, data: Any, **kwargs: Any) -> Any:
        """Check the number of fields first: a long list of unknown fields is useless."""
        if self.unknown == RAISE and isinstance(data, dict) and len(data) > MAX_FIELDS:
            raise ValidationError(Fault("length", f"At most {MAX_FIELDS} fields: all else goes into properties."))
        return super().load(data, **kwargs)

    @validates_schema(skip_on_field_errors=False)
    def look_into_objects(self, data: Mapping[str, Any], **_: Any) -> None:
        """Check all objects together: they share a limit of keys."""
        judge = Judge()
        objects = [name for name, field in self.fields.items() if isinstance(field, JsonObject) and name in data]
        faults = {name: found for name in objects if (found := judge.faults_of(data[name]))}
        if faults:
            raise ValidationError(faults)


def _id(description: str) -> Text:
    return Text(validate=[_length(1, 256), _storable_text], metadata={"description": description})


class EventSchema(ObjectSchema):
    """A client's event. Refuses unknown fields, since dropping them silently would lose data."""

    class Meta:
        unknown = RAISE

    customer_id = Text(
        required=True,
        validate=[_length(1, 256), _not_blank, _storable_text],
        metadata={
            "description": "The customer; not blank. A customer's events stay in order.",
            "pattern": _NOT_BLANK,
        },
    )
    event_type = Text(
        required=True, validate=validate.OneOf(EVENT_TYPES, error=Fault("choice", "Must be one of: {choices}."))
    )
    event_id = Text(
        validate=[*_EVENT_ID_RULES, _is_an_id],
        metadata={
            "description": "Stored once, however often it is sent; generated if missing.",
            "pattern": _NOT_BLANK,
            "not": {"enum": list(NO_IDS)},
        },
    )
    timestamp = Timestamp(
        metadata={"description": "RFC 3339 with an offset; the time of receipt if missing. Stored to the millisecond."}
    )
    event_name = Text(
        validate=[_length(1, 200), _not_blank, _storable_text],
        metadata={"description": "Your name for the event, such as Order Completed; not blank.", "pattern": _NOT_BLANK},
    )
    anonymous_id = _id("The visitor before they sign in.")
    user_id = _id("The user, by your own id.")
    previous_id = _id("With alias: the customer's id until now.")
    group_id = _id("With group: the customer's company, team or account.")
    properties = JsonObject(metadata={"description": "Details of the event."})
    context = JsonObject(metadata={"description": "The origin of the event."})
    traits = JsonObject(metadata={"description": "Attributes of the customer, or with group of the group."})


@dataclass(frozen=True, slots=True)
class Loaded:
    """An event of a batch that the fast decoder has already loaded."""

    event: dict[str, Any]


_MOST_FAULTS = 1_000
_NOT_LOOKED_AT = Fault("other", "Not examined: fix the events before it first.")


def _count(messages: Any) -> int:
    """The number of faulty fields."""
    return sum(map(_count, messages.values())) if isinstance(messages, dict) else 1


class _EventOfBatch(Object):
    """An event, already loaded by the fast decoder or not."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        return value.event if isinstance(value, Loaded) else super()._deserialize(value, *args, **kwargs)


class Events(fields.List[dict[str, Any]]):
    """The events of a batch: checks their number first, then each event until there are too many faults."""

    default_error_messages = _messages(invalid=Fault("type", "Must be an array of events."))

    def __init__(self) -> None:
        limit = _length(1, MAX_BATCH_EVENTS, "Must hold {min} to {max} events.")
        super().__init__(_EventOfBatch(EventSchema), required=True, validate=limit)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> list[Any]:
        del attr, data
        if not isinstance(value, list):
            raise self.make_error("invalid")
        self._validate(value)
        events: list[Any] = []
        wrong: dict[int, Any] = {}
        faults = 0
        for index, event in enumerate(value):
            if faults > _MOST_FAULTS and not isinstance(event, Loaded):
                wrong[index] = [_NOT_LOOKED_AT]
                continue
            try:
                events.append(self.inner.deserialize(event, **kwargs))
            except ValidationError as error:
                wrong[index] = error.messages
                faults += _count(error.messages)
        if wrong:
            raise ValidationError(wrong)
        return events


class BatchSchema(ObjectSchema):
    """The body of a batch."""

    error_messages = {"type": Fault("type", 'Must be a JSON object such as {"events": […]}.')}  # noqa: RUF012, as above

    class Meta:
        unknown = RAISE

    events = Events()


class MappedEventSchema(EventSchema):
    """An event converted from another protocol's message, with fields that only the API may add."""

    extra = JsonObject()
    original_timestamp = Timestamp()
    sent_at = Timestamp()


class StoredEventSchema(MappedEventSchema):
    """An event in Kafka, also from an older API with fewer rules."""

    event_id = Text(required=True, validate=_EVENT_ID_RULES)
    timestamp = Timestamp(required=True)
    received_at = Timestamp(required=True)
    source = Text(validate=_storable_text)
    protocol = Text(validate=_storable_text)


class NewerEventSchema(StoredEventSchema):
    """An event from a newer API: keeps unknown fields if MongoDB can store them."""

    class Meta:
        unknown = INCLUDE

    @validates_schema
    def _refuse_what_cannot_be_stored(self, data: Mapping[str, Any], **_: Any) -> None:
        for name in data.keys() - self.fields.keys():
            if not _FIELD_NAME.fullmatch(name):
                raise ValidationError(Fault("storable", "Not a field's name."), name)
            if faults := Judge().faults_of(data[name]):
                raise ValidationError(faults, name)


VOUCHED = Vouched(
    checked={JsonObject: (json_values.SHALLOW_OBJECT, json_values.quick_check)},
    most=json_values.MAX_KEYS,
    parsers={Timestamp: parse_timestamp},
    same={Text: fields.String, Events: fields.List, Object: fields.Nested, _EventOfBatch: fields.Nested},
    implied=[_storable_text, ObjectSchema.load, ObjectSchema.look_into_objects],
)
"""The properties of the fields above on which the fast decoder relies."""
