"""The event: its fields, their rules and limits (marshmallow schemas), and its form as JSON in Kafka.

The API validates with `EventSchema` what clients send; the consumer reads back with `StoredEventSchema` what the
API wrote. What either could not store later (MongoDB's and Kafka's limits) is refused here. The common case takes the
fast way: decoders made from these schemas, which are asked themselves only for what those do not take.
"""

import itertools
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, NoReturn

import msgspec
from marshmallow import INCLUDE, RAISE, Schema, ValidationError, fields, validate, validates_schema

from common.errors import InvalidEventError
from common.fast_decoder import FastDecoder, Vouched

EVENT_TYPES = ("page_view", "click", "purchase", "add_to_cart", "search", "custom")
MAX_EVENT_BYTES = 64 * 1024
MAX_BATCH_BYTES = 1024 * 1024
MAX_BATCH_EVENTS = 100
MAX_PROPERTIES = 50

_RFC_3339 = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(?:\.\d+)?(?:[Zz]|[+-]\d{2}:\d{2})",
    re.ASCII,
)
_FIELD_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_INT64 = range(-(2**63), 2**63)


def parse_timestamp(text: str) -> datetime:
    """An RFC 3339 time with an offset, as UTC; digits after the microseconds are cut off. Raises ValueError."""
    if _RFC_3339.fullmatch(text) is None:
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
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValidationError("Holds half a character (a lone surrogate).")


def _storable_key(key: str) -> None:
    if key.startswith("$"):
        raise ValidationError("Must not begin with '$'.")
    if "\0" in key:
        raise ValidationError("Must not hold a NUL character.")


def _not_blank(text: str) -> None:
    if not text.strip():
        raise ValidationError("Must not be blank.")


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

    def __init__(self) -> None:
        key = fields.String(validate=[validate.Length(1, 256), _storable_key, _storable_text])
        limit = validate.Length(max=MAX_PROPERTIES, error=f"At most {MAX_PROPERTIES} properties.")
        super().__init__(keys=key, values=Scalar(), validate=limit)

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> dict[str, Any]:
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

    error_messages = {"type": "Must be a JSON object."}  # noqa: RUF012, as marshmallow has it


class ContextSchema(ObjectSchema):
    """Where the event came from."""

    class Meta:
        unknown = RAISE

    device = fields.String(validate=_storable_text)
    session_id = fields.String(validate=_storable_text)
    ip = fields.String(validate=_storable_text)
    user_agent = fields.String(validate=_storable_text)


class EventSchema(ObjectSchema):
    """What a client sends. An unknown field is refused: dropping it in silence would lose data."""

    class Meta:
        unknown = RAISE

    customer_id = fields.String(required=True, validate=[validate.Length(1, 256), _not_blank, _storable_text])
    event_type = fields.String(required=True, validate=validate.OneOf(EVENT_TYPES))
    event_id = fields.String(validate=_EVENT_ID_RULES)
    timestamp = Timestamp()
    properties = Properties()
    context = fields.Nested(ContextSchema)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """An event that the fast decoder has taken, in its place in a batch."""

    event: dict[str, Any]


class _EventOfBatch(fields.Nested):
    """An event, or what the fast decoder has made of it."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        return value.event if isinstance(value, _Loaded) else super()._deserialize(value, *args, **kwargs)


class BatchSchema(ObjectSchema):
    """The body of a batch."""

    error_messages = {"type": 'Must be a JSON object such as {"events": […]}.'}  # noqa: RUF012, as above

    class Meta:
        unknown = RAISE

    events = fields.List(
        _EventOfBatch(EventSchema),
        required=True,
        validate=validate.Length(1, MAX_BATCH_EVENTS, error="Must hold 1 to {max} events."),
    )


class StoredEventSchema(EventSchema):
    """What the API writes to Kafka."""

    event_id = fields.String(required=True, validate=_EVENT_ID_RULES)
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


_BATCH = BatchSchema()
_EVENT = EventSchema()
_STORED = NewerEventSchema()

_VOUCHED = Vouched(
    values={Scalar: str | Annotated[int, msgspec.Meta(ge=_INT64[0], le=_INT64[-1])] | float | bool},
    parsers={Timestamp: parse_timestamp},
    same={Properties: fields.Dict, _EventOfBatch: fields.Nested},
    implied=[_storable_text],
)
_FAST_BATCH = FastDecoder(_BATCH, _VOUCHED)
_FAST_EVENT = FastDecoder(_EVENT, _VOUCHED)
_FAST_STORED = FastDecoder(StoredEventSchema(), _VOUCHED)


class _Split(msgspec.Struct):
    """A batch in pieces, each the bytes of an event, or of anything else."""

    events: list[msgspec.Raw]


_SPLIT = msgspec.json.Decoder(_Split)


def load_event(body: bytes) -> dict[str, Any]:
    """The event in a request's body, with `timestamp` (where given) as a datetime. Raises InvalidEventError."""
    return _FAST_EVENT(body) or _load(_EVENT, parse_json(body))


def load_batch(body: bytes) -> list[dict[str, Any]]:
    """The events of a batch request's body. Raises InvalidEventError when any is wrong, with the errors of all."""
    batch = _FAST_BATCH(body) or _load(_BATCH, _with_loaded_events(body))
    events: list[dict[str, Any]] = batch["events"]
    return events


def _with_loaded_events(body: bytes) -> Any:
    """The document in a batch request's body; what the fast decoder takes is loaded already. Raises InvalidEventError.

    So that one bad event does not make the others slow.
    """
    document = parse_json(body)
    try:
        pieces = _SPLIT.decode(body).events
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return document
    loaded = map(_FAST_EVENT, pieces)
    document["events"] = [
        event if fast is None else _Loaded(fast) for event, fast in zip(document["events"], loaded, strict=True)
    ]
    return document


def encode(event: Mapping[str, Any]) -> bytes:
    """An event as Kafka has it: compact JSON in UTF-8, times as RFC 3339 in UTC."""
    plain = {name: format_timestamp(value) if isinstance(value, datetime) else value for name, value in event.items()}
    return json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def decode(value: bytes | None) -> dict[str, Any]:
    """The event in a record's value, its times as datetimes. Raises InvalidEventError."""
    if value is None:
        raise InvalidEventError("The record has no value.")
    return _FAST_STORED(value) or _load(_STORED, parse_json(value))


def parse_json(body: bytes) -> Any:
    """Strict JSON: one document in UTF-8 and nothing after it, no NaN. Raises InvalidEventError."""
    if not body:
        raise InvalidEventError("The body is empty.")
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise InvalidEventError("The body is not valid UTF-8.") from None
    except RecursionError:
        raise InvalidEventError("The body is nested too deeply.") from None
    except json.JSONDecodeError as error:
        raise InvalidEventError(f"The body is not valid JSON: {error}") from None
    except ValueError:
        raise InvalidEventError("The body holds an integer of more digits than can be read.") from None


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidEventError(f"The body is not valid JSON: {name} is not a number.")


def _load(schema: Schema, document: Any) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = schema.load(document)
    except ValidationError as error:
        messages = error.normalized_messages()  # type: ignore[no-untyped-call]
        raise InvalidEventError(_first_fault(messages), messages) from None
    return loaded


def _first_fault(messages: Mapping[Any, Any]) -> str:
    """One line naming the first fault, such as `events[1].event_type: Must be one of: …`."""
    path = ""
    found: Any = messages
    while isinstance(found, dict):
        step, found = next(iter(found.items()))
        if isinstance(step, int):
            path += f"[{step}]"
        elif step != "_schema":
            path += f".{step}" if path else step
    text = found[0] if isinstance(found, list) else found
    return f"{path}: {text}" if path else text
