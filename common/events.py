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
from typing import Annotated, Any

import msgspec
from marshmallow import INCLUDE, RAISE, Schema, ValidationError, fields, validate, validates_schema

from common.fast_decoder import Vouched

EVENT_TYPES = ("page_view", "click", "purchase", "add_to_cart", "search", "custom")
MAX_EVENT_BYTES = 64 * 1024
MAX_BATCH_BYTES = 1024 * 1024
MAX_BATCH_EVENTS = 100
MAX_PROPERTIES = 50
MAX_KEY_LENGTH = 256

RFC_3339 = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:[0-5]\d(?:\.\d+)?(?:[Zz]|[+-]\d{2}:\d{2})",
    re.ASCII,
)
_FIELD_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_INT64 = range(-(2**63), 2**63)


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
        raise ValidationError("Holds half a character (a lone surrogate).") from None


def _storable_key(key: str) -> None:
    if key.startswith("$"):
        raise ValidationError("Must not begin with '$'.")
    if "\0" in key:
        raise ValidationError("Must not hold a NUL character.")


def _not_blank(text: str) -> None:
    if not text.strip():
        raise ValidationError("Must not be blank.")


_OBJECT = "Must be a JSON object."


class Text(fields.String):
    """A string."""

    default_error_messages = {"invalid": "Must be a string."}  # noqa: RUF012, as marshmallow has it


class Timestamp(fields.Field[datetime]):
    """An RFC 3339 text, loaded as a datetime in UTC."""

    default_error_messages = {"invalid": "Not an RFC 3339 time with an offset, such as 2026-01-31T12:00:00Z."}  # noqa: RUF012, as marshmallow has it

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> datetime:
        del attr, data, kwargs
        try:
            return parse_timestamp(value)
        except (TypeError, ValueError):
            raise self.make_error("invalid") from None


class Scalar(fields.Field[str | int | float | bool]):
    """A string, number or boolean, exactly as it was sent."""

    default_error_messages = {  # noqa: RUF012, as marshmallow has it
        "invalid": "Must be a string, a number or a boolean.",
        "integer": "Integers must fit into 64 bits.",
        "float": "Must be a finite number.",
    }

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

    default_error_messages = {"invalid": _OBJECT}  # noqa: RUF012, as marshmallow has it

    def __init__(self, **kwargs: Any) -> None:
        key = Text(
            validate=[validate.Length(1, MAX_KEY_LENGTH), _storable_key, _storable_text],
            metadata={"pattern": r"^[^$\x00][^\x00]*$"},
        )
        limit = validate.Length(max=MAX_PROPERTIES, error=f"At most {MAX_PROPERTIES} properties.")
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


_EVENT_ID_RULES: list[Callable[[str], object]] = [validate.Length(1, 128), _storable_text]


class ObjectSchema(Schema):
    """A JSON object."""

    error_messages = {"type": _OBJECT}  # noqa: RUF012, as marshmallow has it


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
        validate=[validate.Length(1, 256), _not_blank, _storable_text],
        metadata={
            "description": "Whose event; not blank. A customer's events stay in order.",
            "pattern": r"[^\s\x1c-\x1f\x85]",
        },
    )
    event_type = Text(required=True, validate=validate.OneOf(EVENT_TYPES))
    event_id = Text(
        validate=_EVENT_ID_RULES,
        metadata={"description": "Stored once, however often it is sent; made for you if missing."},
    )
    timestamp = Timestamp(
        metadata={"description": "RFC 3339 with an offset; the time of receipt if missing. Stored to the millisecond."}
    )
    properties = Properties(metadata={"description": "Whatever you want to know later."})
    context = fields.Nested(ContextSchema, metadata={"description": "Where the event came from."})


@dataclass(frozen=True, slots=True)
class Loaded:
    """An event that the fast decoder has taken, in its place in a batch."""

    event: dict[str, Any]


class _EventOfBatch(fields.Nested):
    """An event, or what the fast decoder has made of it."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        return value.event if isinstance(value, Loaded) else super()._deserialize(value, *args, **kwargs)


class Events(fields.List[dict[str, Any]]):
    """The events of a batch, counted before they are looked at: a crowd of wrong ones is not worth a list of faults."""

    default_error_messages = {"invalid": "Must be an array of events."}  # noqa: RUF012, as marshmallow has it

    def __init__(self) -> None:
        limit = validate.Length(1, MAX_BATCH_EVENTS, error="Must hold {min} to {max} events.")
        super().__init__(_EventOfBatch(EventSchema), required=True, validate=limit)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> list[Any]:
        if isinstance(value, list):
            self._validate(value)
        events: list[Any] = super()._deserialize(value, attr, data, **kwargs)
        return events


class BatchSchema(ObjectSchema):
    """The body of a batch."""

    error_messages = {"type": 'Must be a JSON object such as {"events": […]}.'}  # noqa: RUF012, as above

    class Meta:
        unknown = RAISE

    events = Events()


class StoredEventSchema(EventSchema):
    """What the API writes to Kafka."""

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
                raise ValidationError("Not a field's name.", name)
            value = data[name]
            field: fields.Field[Any] = Properties() if isinstance(value, dict) else Scalar()
            try:
                field.deserialize(value)
            except ValidationError as error:
                raise ValidationError(error.messages, name) from None


VOUCHED = Vouched(
    values={Scalar: str | Annotated[int, msgspec.Meta(ge=_INT64[0], le=_INT64[-1])] | float | bool},
    parsers={Timestamp: parse_timestamp},
    same={Text: fields.String, Properties: fields.Dict, Events: fields.List, _EventOfBatch: fields.Nested},
    implied=[_storable_text],
)
"""What the fast decoder may take for granted of the fields above."""
