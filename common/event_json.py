"""Events as JSON: decodes requests and Kafka's records, and encodes events for Kafka.

The common case is fast: decoders generated from the schemas. Only events that these do not accept go to the schemas.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

import msgspec
from marshmallow import Schema, ValidationError

from common.errors import Fault, InvalidEventError
from common.events import (
    MAX_BATCH_EVENTS,
    VOUCHED,
    BatchSchema,
    EventSchema,
    Loaded,
    MappedEventSchema,
    NewerEventSchema,
    StoredEventSchema,
    format_timestamp,
)
from common.fast_decoder import fast_decoder
from common.json_values import MAX_INNER

MAX_INNER_OF_BATCH = MAX_BATCH_EVENTS * MAX_INNER
"""The limit for objects and arrays in a batch, counting all brackets: parsing them is expensive."""

_LONGEST_SHOWN = 80
_CROWD = Fault("length", f"At most {MAX_INNER_OF_BATCH:,} objects and arrays in a batch, counting brackets in strings.")
# A larger batch is unusual.
_LARGE = 128 * 1024
_MOST_BRACKETS = 10_000
# Finds integers of at least twice as many digits. Python parses up to 640 digits, and raises ValueError for more.
_PIECE_OF_DIGITS = 300


class Batch(NamedTuple):
    """The events of a batch by index: the valid ones, and the faults of the invalid ones."""

    events: dict[int, dict[str, Any]]
    errors: dict[int, Any]


_BATCH = BatchSchema()
_EVENT = EventSchema()
_MAPPED = MappedEventSchema()
_STORED = NewerEventSchema()
_FAST_BATCH = fast_decoder(_BATCH, VOUCHED)
_FAST_EVENT = fast_decoder(_EVENT, VOUCHED)
_FAST_MAPPED = fast_decoder(_MAPPED, VOUCHED)
_FAST_STORED = fast_decoder(StoredEventSchema(), VOUCHED)


class _Split(msgspec.Struct):
    """A batch, with the raw bytes of each event, or of any other value."""

    events: list[msgspec.Raw]


class _SplitAny(msgspec.Struct):
    """The same, for a batch of any protocol."""

    events: list[msgspec.Raw] = []
    batch: list[msgspec.Raw] = []


_SPLIT = msgspec.json.Decoder(_Split)
_SPLIT_ANY = msgspec.json.Decoder(_SplitAny | list[msgspec.Raw])
_ANY = msgspec.json.Decoder()
_ENCODER = msgspec.json.Encoder()


def fast_event(body: bytes) -> dict[str, Any] | None:
    """As `load_event`, but None if the fast decoder does not accept it."""
    return _FAST_EVENT(body)


def fast_batch(body: bytes) -> list[dict[str, Any]] | None:
    """The events of a batch request's body; None if the fast decoder does not accept it."""
    batch = None if len(body) > _LARGE and brackets_in(body) > _MOST_BRACKETS else _FAST_BATCH(body)
    return None if batch is None else batch["events"]


def load_event(body: bytes) -> dict[str, Any]:
    """The event in a request's body, with `timestamp` (where given) as a datetime. Raises InvalidEventError."""
    return _FAST_EVENT(body) or _load(_EVENT, parse_json(body))


def load_batch(body: bytes) -> Batch:
    """The events of a batch request's body. Raises InvalidEventError if it is not a batch of 1 to 100 events."""
    fast = fast_batch(body)
    if fast is not None:
        return Batch(dict(enumerate(fast)), {})
    if brackets_in(body) > MAX_INNER_OF_BATCH:
        raise InvalidEventError(_CROWD)
    document = _with_loaded_events(body)
    try:
        events = _load(_BATCH, document)["events"]
    except InvalidEventError as error:
        wrong = error.errors.get("events")
        if not isinstance(wrong, dict) or len(error.errors) > 1:
            raise
        right = {
            index: event.event if isinstance(event, Loaded) else _load(_EVENT, event)
            for index, event in enumerate(document["events"])
            if index not in wrong
        }
        return Batch(right, wrong)
    return Batch(dict(enumerate(events)), {})


def brackets_in(body: bytes) -> int:
    """The number of opening brackets: many small objects are expensive to parse, and usually over the limit."""
    return body.count(b"{") + body.count(b"[")


def fast_mapped(event: bytes) -> dict[str, Any] | None:
    """As `load_mapped`, but None if the fast decoder does not accept it."""
    return _FAST_MAPPED(event)


def load_mapped(event: bytes) -> dict[str, Any]:
    """The JSON event that the API converted from another protocol's message. Raises InvalidEventError.

    It may have fields that clients may not send: `extra`, `original_timestamp`, `sent_at`.
    """
    return _FAST_MAPPED(event) or _load(_MAPPED, parse_json(event))


def invalid_batch(errors: Mapping[int, Any]) -> InvalidEventError:
    """The exception for a batch with these errors by index: at least one, the lowest first."""
    return invalid({"events": dict(errors)})


def invalid(errors: Any) -> InvalidEventError:
    """The exception for these errors: marshmallow's messages, at least one."""
    return InvalidEventError(first_fault(errors), errors if isinstance(errors, dict) else {})


def split_batch(body: bytes) -> list[bytes]:
    """The raw events, or messages, of a batch request's body; empty if it cannot be split."""
    try:
        batch = _SPLIT_ANY.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    return [bytes(piece) for piece in (batch if isinstance(batch, list) else batch.events or batch.batch)]


def _with_loaded_events(body: bytes) -> Any:
    """The document in a batch request's body, with the valid plain events already loaded. Raises InvalidEventError.

    So one invalid event does not slow down the others.
    """
    document = parse_json(body)
    events = document.get("events") if isinstance(document, dict) else None
    if not isinstance(events, list) or len(events) > MAX_BATCH_EVENTS:
        return document
    try:
        pieces = _SPLIT.decode(body).events
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return document
    loaded = [None if brackets_in(piece) > MAX_INNER else _FAST_EVENT(piece) for piece in map(bytes, pieces)]
    document["events"] = [event if fast is None else Loaded(fast) for event, fast in zip(events, loaded, strict=True)]
    return document


def encode(event: Mapping[str, Any]) -> bytes:
    """Encode an event for Kafka: compact JSON in UTF-8, times (which must be in UTC) as RFC 3339.

    Raises ValueError for values that JSON does not have: NaN, infinities, lone surrogates.
    """
    encoded = _ENCODER.encode(event)
    if b"null" in encoded:
        # msgspec writes NaN as null, but also None, and a string may contain the word.
        json.dumps(event, allow_nan=False, default=format_timestamp)
    return encoded


def decode(value: bytes | None) -> dict[str, Any]:
    """The event in a record's value, its times as datetimes. Raises InvalidEventError."""
    if value is None:
        raise InvalidEventError(Fault("json", "The record has no value."))
    return _FAST_STORED(value) or _load(_STORED, parse_json(value))


def parse_json(body: bytes) -> Any:
    """Strict JSON: one document in UTF-8 and nothing after it, no NaN. Raises InvalidEventError."""
    return _parse(body, _refuse_constant, _shortened)


def parse_any_json(body: bytes) -> tuple[Any, bool]:
    """Lenient JSON: NaN, infinities, lone surrogates, integers of any length. Raises InvalidEventError.

    Also returns whether it may have such values.
    """
    try:
        return _ANY.decode(body), False
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _parse(body, float, _any_integer), True


def _parse(body: bytes, constant: Callable[[str], Any], many_digits: Callable[[str], Any]) -> Any:
    """`constant` converts NaN and the infinities, `many_digits` all integers if one has hundreds of digits."""
    if not body:
        raise InvalidEventError(Fault("json", "The body is empty."))
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidEventError(Fault("json", "The body is not valid UTF-8.")) from None
    if text.startswith("\ufeff"):
        raise InvalidEventError(Fault("json", "The body begins with a byte order mark: send it without one."))
    pieces = (body[at : at + _PIECE_OF_DIGITS] for at in range(0, len(body), _PIECE_OF_DIGITS))
    # So that the error can name the event with too many digits.
    parse_int = many_digits if any(map(bytes.isdigit, pieces)) else None
    try:
        return json.loads(text, parse_constant=constant, parse_int=parse_int)
    except RecursionError:
        raise InvalidEventError(Fault("json", "The body is nested too deeply.")) from None
    except json.JSONDecodeError as error:
        raise InvalidEventError(Fault("json", f"The body is not valid JSON: {error}")) from None


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidEventError(Fault("json", f"The body is not valid JSON: {name} is not a number."))


def _shortened(digits: str) -> int:
    """An integer; one far beyond 64 bits may become a different one, still beyond 64 bits."""
    return int(digits[:40])


def _any_integer(digits: str) -> int | float:
    """An integer; one beyond the range of floats may become an infinity."""
    return int(digits) if len(digits) < _PIECE_OF_DIGITS else float(digits)


def _load(schema: Schema, document: Any) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = schema.load(document)
    except ValidationError as error:
        messages = _plain(error.messages, document)
        raise InvalidEventError(first_fault(messages), messages if isinstance(messages, dict) else {}) from None
    return loaded


def _plain(messages: Any, sent: Any) -> Any:
    """marshmallow's messages without its key `_schema`, which it uses for a value that should be an object."""
    if not isinstance(messages, dict):
        return messages
    if isinstance(sent, dict):
        return {name: _plain(found, sent.get(name)) for name, found in messages.items()}
    if "_schema" in messages:
        return messages["_schema"]
    return {index: _plain(found, sent[index]) for index, found in messages.items()}


def fault_lines(messages: Any) -> Iterator[str]:
    """A line for each fault, such as `events[1].event_type: Must be one of: …`. `messages` are marshmallow's."""
    yield from _lines("", messages)


def _lines(path: str, found: Any) -> Iterator[str]:
    if not isinstance(found, dict):
        yield from (f"{path}: {fault}" if path else fault for fault in found)
        return
    for step, inner in found.items():
        deeper = f"[{step}]" if isinstance(step, int) else f".{_readable(step)}" if path else _readable(step)
        yield from _lines(path + deeper, inner)


def first_fault(messages: Any) -> str:
    """The first line of `fault_lines`."""
    return next(fault_lines(messages))


def _readable(name: str) -> str:
    """A client's name for a field, made printable and short."""
    shown = name[: _LONGEST_SHOWN + 1]
    shown = shown if shown.isprintable() else ascii(shown)[1:-1]
    return shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}…"
