"""What the protocols share: keys, ids as texts, times, and what a request says for all of its messages."""

import base64
import binascii
import hashlib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from api.auth import secret_sent
from common.errors import Fault, InvalidEventError
from common.events import MAX_EVENT_ID_LENGTH, parse_timestamp

Message = dict[str, Any]
"""One call of an SDK, in its protocol's form."""

LEAST_SKEW = timedelta(minutes=5)
"""A smaller difference comes from the network, not from the clock."""

_NO_COLON_IN_OFFSET = re.compile(r"(?<=[+-]\d\d)(?=\d\d\Z)")


@dataclass(frozen=True, slots=True)
class Envelope:
    """A request's data beside its messages. `sent_at` and `anonymous_id` apply to messages that lack them."""

    received_at: datetime
    sent_at: str | None = None
    anonymous_id: str | None = None
    is_retry: bool = False

    @classmethod
    def of(
        cls, received_at: datetime, sent_at: str | None, anonymous_id: str | None, tries: Iterable[str | None]
    ) -> "Envelope":
        """From a request's headers: `anonymous_id` in base64, `tries` wherever an SDK says how often it has tried."""
        return cls(
            received_at=received_at,
            sent_at=sent_at,
            anonymous_id=_from_base64(anonymous_id or ""),
            is_retry=any(count not in {None, "", "0"} for count in tries),
        )


def secret_in_head(authorization: str | None, api_key: str | None, in_query: str | None) -> str | None:
    """The write key, from the places of a request's head where an SDK may put it."""
    scheme, _, credentials = (authorization or "").partition(" ")
    as_user = (_from_base64(credentials.strip()) or "").partition(":")[0] if scheme.lower() == "basic" else None
    return secret_sent(authorization, api_key, as_user or in_query)


def secret_in_body(document: Any) -> str | None:
    """The write key, from the message or batch itself."""
    secret = document.get("writeKey") if isinstance(document, dict) else None
    return secret if isinstance(secret, str) else None


def as_text(value: Any) -> Any:
    """An id or a name: numbers become strings, blank and non-finite values None. The schema refuses other types."""
    if isinstance(value, str):
        return value if value.strip() else None
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        return str(value)
    return None if type(value) is float else value


def event_id_of(sent: Any) -> Any:
    """The event's id; None if the API must generate one. A digest replaces an id that is too long."""
    event_id = as_text(sent)
    if isinstance(event_id, str) and len(event_id) > MAX_EVENT_ID_LENGTH:
        return f"sha256:{hashlib.sha256(event_id.encode(errors='surrogatepass')).hexdigest()}"
    return event_id


def missing(name: str, what: str) -> InvalidEventError:
    """The error for a message without the source of the event's field `name`."""
    fault = Fault("required", f"Missing: {what}")
    return InvalidEventError(f"{name}: {fault}", {name: [fault]})


def take_time(message: Message, name: str) -> datetime | None:
    """The time in a field, removed from the message; a value that is not a time stays there."""
    found = _time(message.get(name))
    if found is not None or message.get(name) in (None, ""):
        message.pop(name, None)
    return found


def times_of(message: Message, envelope: Envelope) -> dict[str, datetime]:
    """The event's times, removed from the message and corrected for a wrong clock of the client."""
    timestamp = take_time(message, "timestamp")
    original = take_time(message, "originalTimestamp")
    sent = take_time(message, "sentAt") or _time(envelope.sent_at)
    told = timestamp or original
    if told and not (timestamp and original) and sent and not envelope.is_retry:
        told = _corrected(told, envelope.received_at - sent)
    times = {"timestamp": told, "original_timestamp": original or timestamp, "sent_at": sent}
    return {name: time for name, time in times.items() if time}


def without_none(**fields: Any) -> dict[str, Any]:
    """Only the fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def _from_base64(text: str) -> Any:
    try:
        return as_text(base64.b64decode(text, validate=True).decode())
    except (binascii.Error, ValueError):
        return None


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
        # Some clients write +0100.
        return parse_timestamp(_NO_COLON_IN_OFFSET.sub(":", text))
    except ValueError:
        return None
