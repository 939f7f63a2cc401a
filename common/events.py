"""The event: its fields, their rules and limits (marshmallow schemas).

The API validates with `EventSchema` what clients send; the consumer reads back with `NewerEventSchema` what the API
wrote. What either could not store later (MongoDB's and Kafka's limits) is refused here.
"""

import itertools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Self

import msgspec
from marshmallow import INCLUDE, RAISE, Schema, ValidationError, fields, validate, validates_schema

from common.fast_decoder import Vouched

EVENT_TYPES = ("page_view", "click", "purchase", "add_to_cart", "search", "custom")
MAX_EVENT_BYTES = 64 * 1024
MAX_BATCH_BYTES = 1024 * 1024
MAX_BATCH_EVENTS = 100
MAX_PROPERTIES = 50
MAX_FIELDS = 32
MAX_KEY_LENGTH = 256
NO_IDS = ("undefined", "null", "NaN", "[object Object]")
"""What a program makes of an id that it does not have: the second event of that id would be taken for the first."""

RFC_3339 = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt ](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d+)?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)
RULES = (
    "required",
    "type",
    "length",
    "choice",
    "blank",
    "format",
    "storable",
    "unknown",
    "size",
    "json",
    "other",
)
"""Which kinds of rule can be broken."""
_FIELD_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_INT64 = range(-(2**63), 2**63)


class Fault(str):
    """What to tell a client of a broken rule, and which kind of rule (`RULES`) that is. A message for marshmallow."""

    __slots__ = ("rule",)
    rule: str

    def __new__(cls, rule: str, message: str) -> Self:
        """`message` may have places to `format`, as marshmallow's messages have."""
        fault = super().__new__(cls, message)
        fault.rule = rule
        return fault

    def format(self, *args: object, **kwargs: object) -> Self:
        """As that of a str; the rule stays."""
        return type(self)(self.rule, super().format(*args, **kwargs))


def parse_timestamp(text: str) -> datetime:
    """An RFC 3339 time with an offset, as UTC; digits after the microseconds are cut off. Raises ValueError."""
    if RFC_3339.fullmatch(text) is None:
        raise ValueError(text)
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except OverflowError:
        # The offset moves it out of the years 1 to 9999.
        raise ValueError(text) from None


def format_timestamp(moment: datetime) -> str:
    """A time in UTC, as RFC 3339 with microseconds."""
    return moment.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def _storable_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValidationError(Fault("storable", "Holds half a character (a lone surrogate).")) from None


def _storable_key(key: str) -> None:
    if key.startswith("$"):
        raise ValidationError(Fault("storable", "Must not begin with '$'."))
    if "\0" in key:
        raise ValidationError(Fault("storable", "Must not hold a NUL character."))


def _not_blank(text: str) -> None:
    if not text.strip():
        raise ValidationError(Fault("blank", "Must not be blank."))


def _length(least: int | None, most: int, message: str = "Length must be between {min} and {max}.") -> validate.Length:
    return validate.Length(least, most, error=Fault("length", message))


def _is_an_id(text: str) -> None:
    if text in NO_IDS:
        raise ValidationError(Fault("format", f"Must not be {text!r}: give each event an id of its own, or none."))


_NOT_BLANK = r"[^\s\x1c-\x1f\x85]"
_OBJECT = Fault("type", "Must be a JSON object.")


def _messages(**own: Fault) -> dict[str, Any]:
    """A field's own messages, beside those of every field."""
    missing = Fault("required", "Missing data for required field.")
    return {"required": missing, "null": Fault("type", "Field may not be null."), **own}


class Text(fields.String):
    """A string."""

    default_error_messages = _messages(invalid=Fault("type", "Must be a string."))


class Timestamp(fields.Field[datetime]):
    """An RFC 3339 text, loaded as a datetime in UTC."""

    default_error_messages = _messages(
        invalid=Fault("format", "Not an RFC 3339 time with an offset, such as 2026-01-31T12:00:00Z.")
    )

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> datetime:
        del attr, data, kwargs
        try:
            return parse_timestamp(value)
        except (TypeError, ValueError):
            raise self.make_error("invalid") from None


class Scalar(fields.Field[str | int | float | bool]):
    """A string, number or boolean, exactly as it was sent."""

    default_error_messages = _messages(
        invalid=Fault("type", "Must be a string, a number or a boolean."),
        integer=Fault("storable", "Integers must fit into 64 bits."),
        float=Fault("storable", "Must be a finite number."),
    )

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> str | int | float | bool:
        del attr, data, kwargs
        if isinstance(value, str):
            _storable_text(value)
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise self.make_error("float")
        elif not isinstance(value, int):
            raise self.make_error("invalid")
        elif value not in _INT64:
            raise self.make_error("integer")
        scalar: str | int | float | bool = value
        return scalar


class Properties(fields.Dict):
    """An object of scalars, with one list of messages a key in its errors."""

    default_error_messages = _messages(invalid=_OBJECT)

    def __init__(self, **kwargs: Any) -> None:
        key = Text(
            validate=[_length(1, MAX_KEY_LENGTH), _storable_key, _storable_text],
            metadata={"pattern": r"^[^$\x00][^\x00]*$"},
        )
        limit = _length(None, MAX_PROPERTIES, "At most {max} properties.")
        super().__init__(keys=key, values=Scalar(), validate=limit, **kwargs)

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> dict[str, Any]:
        if isinstance(value, dict):
            # First of all, or each of a crowd of keys would be judged.
            self._validate(value)
        try:
            properties: dict[str, Any] = super()._deserialize(value, attr, data, **kwargs)  # type: ignore[no-untyped-call]
        except ValidationError as error:
            if not isinstance(error.messages, dict):
                raise
            # marshmallow tells a key's own errors from its value's: {"price": {"value": […]}}.
            flat = {key: list(itertools.chain(*found.values())) for key, found in error.messages.items()}
            raise ValidationError(flat) from None
        return properties


_EVENT_ID_RULES: list[Callable[[str], object]] = [_length(1, 128), _storable_text]


class Object(fields.Nested):
    """An object of fields."""

    default_error_messages = _messages(type=_OBJECT)


class ObjectSchema(Schema):
    """A JSON object."""

    error_messages = {"type": _OBJECT, "unknown": Fault("unknown", "Unknown field.")}  # noqa: RUF012, as marshmallow has it

    def load(self, data: Any, **kwargs: Any) -> Any:
        """Counted before it is looked at: a crowd of unknown fields is not worth a list of faults."""
        if self.unknown == RAISE and isinstance(data, dict) and len(data) > MAX_FIELDS:
            raise ValidationError(Fault("length", f"At most {MAX_FIELDS} fields: all else goes into properties."))
        return super().load(data, **kwargs)


class ContextSchema(ObjectSchema):
    """Where the event came from."""

    class Meta:
        unknown = RAISE

    device = Text(validate=_storable_text)
    session_id = Text(validate=_storable_text)
    ip = Text(validate=_storable_text)
    user_agent = Text(validate=_storable_text)


class EventSchema(ObjectSchema):
    """What a client sends. An unknown field is refused: dropping it in silence would lose data."""

    class Meta:
        unknown = RAISE

    customer_id = Text(
        required=True,
        validate=[_length(1, 256), _not_blank, _storable_text],
        metadata={
            "description": "Whose event; not blank. A customer's events stay in order.",
            "pattern": _NOT_BLANK,
        },
    )
    event_type = Text(
        required=True, validate=validate.OneOf(EVENT_TYPES, error=Fault("choice", "Must be one of: {choices}."))
    )
    event_id = Text(
        validate=[*_EVENT_ID_RULES, _not_blank, _is_an_id],
        metadata={
            "description": "Stored once, however often it is sent; made for you if missing.",
            "pattern": _NOT_BLANK,
            "not": {"enum": list(NO_IDS)},
        },
    )
    timestamp = Timestamp(
        metadata={"description": "RFC 3339 with an offset; the time of receipt if missing. Stored to the millisecond."}
    )
    properties = Properties(metadata={"description": "Whatever you want to know later."})
    context = Object(ContextSchema, metadata={"description": "Where the event came from."})


@dataclass(frozen=True, slots=True)
class Loaded:
    """An event that the fast decoder has taken, in its place in a batch."""

    event: dict[str, Any]


_MOST_FAULTS = 1_000
_NOT_LOOKED_AT = Fault("other", "Not looked at: mend the events before it first.")


def _count(messages: Any) -> int:
    """How many fields are at fault."""
    return sum(map(_count, messages.values())) if isinstance(messages, dict) else 1


class _EventOfBatch(Object):
    """An event, or what the fast decoder has made of it."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        return value.event if isinstance(value, Loaded) else super()._deserialize(value, *args, **kwargs)


class Events(fields.List[dict[str, Any]]):
    """The events of a batch: counted before they are looked at, and looked at while there are not too many faults."""

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


class StoredEventSchema(EventSchema):
    """What the API writes to Kafka, and wrote before it refused what it refuses now."""

    event_id = Text(required=True, validate=_EVENT_ID_RULES)
    timestamp = Timestamp(required=True)
    context = Properties()  # type: ignore[assignment]  # wider than what clients may send
    received_at = Timestamp(required=True)


class NewerEventSchema(StoredEventSchema):
    """What a newer API may write to Kafka: fields unknown here are kept, as far as MongoDB is sure to store them."""

    class Meta:
        unknown = INCLUDE

    @validates_schema
    def _refuse_what_cannot_be_stored(self, data: Mapping[str, Any], **_: Any) -> None:
        for name in data.keys() - self.fields.keys():
            if not _FIELD_NAME.fullmatch(name):
                raise ValidationError(Fault("storable", "Not a field's name."), name)
            value = data[name]
            field: fields.Field[Any] = Properties() if isinstance(value, dict) else Scalar()
            try:
                field.deserialize(value)
            except ValidationError as error:
                raise ValidationError(error.messages, name) from None


VOUCHED = Vouched(
    values={Scalar: str | Annotated[int, msgspec.Meta(ge=_INT64[0], le=_INT64[-1])] | float | bool},
    parsers={Timestamp: parse_timestamp},
    same={
        Text: fields.String,
        Properties: fields.Dict,
        Events: fields.List,
        Object: fields.Nested,
        _EventOfBatch: fields.Nested,
    },
    implied=[_storable_text, ObjectSchema.load],
)
"""What the fast decoder may take for granted of the fields above."""
