"""Converts messages to events: maps them, repairs values that could not be stored, and validates the events."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from werkzeug.exceptions import RequestEntityTooLarge

from api.intake import TOO_LARGE
from api.protocols.mending import Mender
from api.protocols.messages import Message
from api.protocols.paths import MAX_SDK_BATCH_BYTES
from common import event_json
from common.errors import Fault, InvalidEventError
from common.event_json import invalid
from common.events import MAX_EVENT_BYTES

MAX_CONVERTED_BYTES = 2 * MAX_SDK_BATCH_BYTES
"""The limit for all events of a request together: each has the envelope's shared fields."""

_ENCODER = msgspec.json.Encoder()
_NO_MESSAGE = Fault("type", "Must be a JSON object.")
_TOO_DEEP = Fault("length", "Nested too deeply.")


class Converted(NamedTuple):
    """The events of a request, and the number of repairs in the valid ones, by kind."""

    batch: event_json.Batch
    mended: Counter[str]


def convert(messages: Sequence[Any], to_event: Callable[[Message], dict[str, Any]], *, odd: bool) -> Converted:
    """The events of the messages, by index, and the faults of the others.

    `odd`: whether they may have values that are not valid JSON (see `event_json.parse_any_json`). Raises
    RequestEntityTooLarge if the events become much larger than a request may be.
    """
    batch = event_json.Batch({}, {})
    mended: Counter[str] = Counter()
    size = 0
    for index, message in enumerate(messages):
        try:
            event, event_size, of_event = _load(message, to_event, odd=odd)
        except InvalidEventError as error:
            batch.errors[index] = error.errors or list(error.args)
        except RecursionError:
            batch.errors[index] = [_TOO_DEEP]
        else:
            batch.events[index] = event
            mended += of_event
            size += event_size
            if size > MAX_CONVERTED_BYTES:
                raise RequestEntityTooLarge(
                    f"The messages are more than {MAX_CONVERTED_BYTES} bytes, with the batch's shared fields in each."
                )
    return Converted(batch, mended)


def _load(
    message: Any, to_event: Callable[[Message], dict[str, Any]], *, odd: bool
) -> tuple[dict[str, Any], int, Counter[str]]:
    """The event, its size in JSON, and its repairs by kind. Raises InvalidEventError and RecursionError."""
    if not isinstance(message, dict):
        raise InvalidEventError(_NO_MESSAGE)
    mapped = to_event(message)
    mender = Mender()
    encoded, event = (b"", None) if odd else _as_it_is(mapped)
    if event is None:
        encoded = _ENCODER.encode({name: _mended(name, value, mender) for name, value in mapped.items()})
        event = event_json.load_mapped(encoded)
    if len(encoded) > MAX_EVENT_BYTES and _size(message) > MAX_EVENT_BYTES:
        raise InvalidEventError(TOO_LARGE)
    return event, len(encoded), mender.mended


def _as_it_is(mapped: dict[str, Any]) -> tuple[bytes, dict[str, Any] | None]:
    """The event in JSON, and as decoded by the fast decoder; None if it may need repairs."""
    try:
        encoded = _ENCODER.encode(mapped)
        return encoded, event_json.fast_mapped(encoded)
    except (ValueError, OverflowError):
        # For example an integer beyond 64 bits.
        return b"", None


def _mended(name: str, value: Any, mender: Mender) -> Any:
    try:
        return mender.mend(value)
    except InvalidEventError as error:
        raise invalid({name: list(error.args)}) from None


def _size(message: Message) -> int:
    """The size of a message as its client sent it."""
    return len(json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass"))
