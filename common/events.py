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
from typing import Annotated, Any, NamedTuple, NoReturn

import msgspec
from marshmallow import INCLUDE, RAISE, Schema, ValidationError, fields, validate, validates_schema

from common.errors import InvalidEventError
from common.fast_decoder import FastDecoder, Vouched

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
_LONGEST_SHOWN = 80


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
class _Loaded:
    """An event that the fast decoder has taken, in its place in a batch."""

    event: dict[str, Any]


class _EventOfBatch(fields.Nested):
    """An event, or what the fast decoder has made of it."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        return value.event if isinstance(value, _Loaded) else super()._deserialize(value, *args, **kwargs)


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


class Batch(NamedTuple):
    """The events of a batch by their index: those that are right, and the faults of those that are wrong."""

    events: dict[int, dict[str, Any]]
    errors: dict[int, Any]


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


_BATCH = BatchSchema()
_EVENT = EventSchema()
_STORED = NewerEventSchema()

_VOUCHED = Vouched(
    values={Scalar: str | Annotated[int, msgspec.Meta(ge=_INT64[0], le=_INT64[-1])] | float | bool},
    parsers={Timestamp: parse_timestamp},
    same={Text: fields.String, Properties: fields.Dict, Events: fields.List, _EventOfBatch: fields.Nested},
    implied=[_storable_text],
)
_FAST_BATCH = FastDecoder(_BATCH, _VOUCHED)
_FAST_EVENT = FastDecoder(_EVENT, _VOUCHED)
_FAST_STORED = FastDecoder(StoredEventSchema(), _VOUCHED)


class _Split(msgspec.Struct):
    """A batch in pieces, each the bytes of an event, or of anything else."""

    events: list[msgspec.Raw]


_SPLIT = msgspec.json.Decoder(_Split)
_ENCODER = msgspec.json.Encoder()


def load_event(body: bytes) -> dict[str, Any]:
    """The event in a request's body, with `timestamp` (where given) as a datetime. Raises InvalidEventError."""
    return _FAST_EVENT(body) or _load(_EVENT, parse_json(body))


def load_batch(body: bytes) -> Batch:
    """The events of a batch request's body. Raises InvalidEventError for a body that is no batch of 1 to 100 events."""
    batch = _FAST_BATCH(body)
    if batch is not None:
        return Batch(dict(enumerate(batch["events"])), {})
    document = _with_loaded_events(body)
    try:
        events = _load(_BATCH, document)["events"]
    except InvalidEventError as error:
        wrong = error.errors.get("events")
        if not isinstance(wrong, dict) or len(error.errors) > 1:
            raise
        right = {
            index: event.event if isinstance(event, _Loaded) else _load(_EVENT, event)
            for index, event in enumerate(document["events"])
            if index not in wrong
        }
        return Batch(right, wrong)
    return Batch(dict(enumerate(events)), {})


def invalid_batch(errors: Mapping[int, Any]) -> InvalidEventError:
    """What to raise for a batch with these errors by index: at least one, the lowest first."""
    messages = {"events": dict(errors)}
    return InvalidEventError(_first_fault(messages), messages)


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
    """An event as Kafka has it: compact JSON in UTF-8, times (which have to be in UTC) as RFC 3339.

    Raises ValueError for what is no JSON: NaN, infinities, lone surrogates.
    """
    encoded = _ENCODER.encode(event)
    if b"null" in encoded:
        # What msgspec makes of NaN, but also of None, and a text may hold the word.
        json.dumps(event, allow_nan=False, default=format_timestamp)
    return encoded


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
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidEventError("The body is not valid UTF-8.") from None
    if text.startswith("\ufeff"):
        raise InvalidEventError("The body begins with a byte order mark: send it without one.")
    try:
        try:
            return json.loads(text, parse_constant=_refuse_constant)
        except json.JSONDecodeError:
            raise
        except ValueError:
            # It has an integer of more digits than Python reads. The event that holds it shall be named.
            return json.loads(text, parse_constant=_refuse_constant, parse_int=_shortened)
    except RecursionError:
        raise InvalidEventError("The body is nested too deeply.") from None
    except json.JSONDecodeError as error:
        raise InvalidEventError(f"The body is not valid JSON: {error}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidEventError(f"The body is not valid JSON: {name} is not a number.")


def _shortened(digits: str) -> int:
    """An integer; one far beyond 64 bits may become another one beyond them."""
    return int(digits[:40])


def _load(schema: Schema, document: Any) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = schema.load(document)
    except ValidationError as error:
        messages = _plain(error.normalized_messages(), document)  # type: ignore[no-untyped-call]
        raise InvalidEventError(_first_fault(messages), messages if isinstance(messages, dict) else {}) from None
    return loaded


def _plain(messages: Any, sent: Any) -> Any:
    """marshmallow's messages without its word `_schema`, under which it tells of a value that should be an object."""
    if not isinstance(messages, dict):
        return messages
    if isinstance(sent, dict):
        return {name: _plain(found, sent.get(name)) for name, found in messages.items()}
    if "_schema" in messages:
        return messages["_schema"]
    return {index: _plain(found, sent[index]) for index, found in messages.items()}


def _first_fault(messages: Any) -> str:
    """One line naming the first fault, such as `events[1].event_type: Must be one of: …`."""
    path = ""
    found = messages
    while isinstance(found, dict):
        step, found = next(iter(found.items()))
        path += f"[{step}]" if isinstance(step, int) else f".{_readable(step)}" if path else _readable(step)
    return f"{path}: {found[0]}" if path else str(found[0])


def _readable(name: str) -> str:
    """A name that a client made up, fit for a line."""
    shown = name if name.isprintable() else ascii(name)[1:-1]
    return shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}…"
