"""What the protocols share: ids as texts, times, and what a request says for all of its messages."""

import hashlib
import math
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from common.errors import Fault, InvalidEventError
from common.events import MAX_EVENT_ID_LENGTH, parse_timestamp

Message = dict[str, Any]
"""What an SDK sends of one call, as its protocol has it."""

LEAST_SKEW = timedelta(minutes=5)
"""Less than that is the way of the request, not the clock."""

_NO_COLON_IN_OFFSET = re.compile(r"(?<=[+-]\d\d)(?=\d\d\Z)")


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a request says beside its messages. `sent_at` and `anonymous_id` hold for messages that lack them."""

    received_at: datetime
    sent_at: str | None = None
    anonymous_id: str | None = None
    is_retry: bool = False


def as_text(value: Any) -> Any:
    """An id or a name: numbers become texts; None for what is no id. The schema says what is wrong with all else."""
    if isinstance(value, str):
        return value if value.strip() else None
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        return str(value)
    return None if type(value) is float else value


def event_id_of(sent: Any) -> Any:
    """The event's id; None if one has to be made. An id that is too long is told by its digest."""
    event_id = as_text(sent)
    if isinstance(event_id, str) and len(event_id) > MAX_EVENT_ID_LENGTH:
        return f"sha256:{hashlib.sha256(event_id.encode(errors='surrogatepass')).hexdigest()}"
    return event_id


def missing(name: str, what: str) -> InvalidEventError:
    """What to raise when a message lacks what the event's field `name` is made of."""
    fault = Fault("required", f"Missing: {what}")
    return InvalidEventError(f"{name}: {fault}", {name: [fault]})


def take_time(message: Message, name: str) -> datetime | None:
    """The time in a field, which is taken out of the message; what is no time stays there."""
    found = _time(message.get(name))
    if found is not None or message.get(name) in (None, ""):
        message.pop(name, None)
    return found


def times_of(message: Message, envelope: Envelope) -> dict[str, datetime]:
    """The event's times, which are taken out of the message; a client's clock that is wrong is corrected."""
    timestamp = take_time(message, "timestamp")
    original = take_time(message, "originalTimestamp")
    sent = take_time(message, "sentAt") or _time(envelope.sent_at)
    told = timestamp or original
    if told and not (timestamp and original) and sent and not envelope.is_retry:
        told = _corrected(told, envelope.received_at - sent)
    times = {"timestamp": told, "original_timestamp": original or timestamp, "sent_at": sent}
    return {name: time for name, time in times.items() if time}


def without_none(**fields: Any) -> dict[str, Any]:
    """Only the fields that there are."""
    return {name: value for name, value in fields.items() if value is not None}


def _corrected(told: datetime, skew: timedelta) -> datetime:
    if abs(skew) < LEAST_SKEW:
        return told
    try:
        return told + skew
    except OverflowError:
        return told


def _time(text: Any) -> datetime | None:
    if not isinstance(text, str):
        return None
    try:
        # Some write +0100.
        return parse_timestamp(_NO_COLON_IN_OFFSET.sub(":", text))
    except ValueError:
        return None
