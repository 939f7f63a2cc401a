"""CloudEvents 1.0 over HTTP: binary, structured and batched mode."""

import base64
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

from api.protocols.messages import Message, as_text, event_id_of, missing, take_time, without_none
from common.errors import Fault, InvalidEventError
from common.event_json import parse_any_json

_JSON_TYPES = frozenset({"", "application/json", "text/json"})
_PREFIX = "ce-"
_OTHER_VERSION = Fault("choice", "A CloudEvent's specversion must be 1.0.")


def attributes_in(headers: Iterable[tuple[str, str]], content_type: str | None) -> Message:
    """The attributes of an event in binary mode, from the headers; empty in the other modes."""
    attributes: Message = {
        name[len(_PREFIX) :].lower(): unquote(value.encode("latin-1", "replace").decode(errors="replace"))
        for name, value in headers
        if name.lower().startswith(_PREFIX)
    }
    if attributes and content_type:
        attributes["datacontenttype"] = content_type
    return attributes


def data_of(body: bytes, media_type: str) -> Message:
    """The data of an event in binary mode: JSON, otherwise text or base64. Raises InvalidEventError."""
    if not body:
        return {}
    if media_type in _JSON_TYPES or media_type.endswith("+json"):
        return {"data": parse_any_json(body)[0]}
    try:
        return {"data": body.decode()}
    except UnicodeDecodeError:
        return {"data_base64": base64.b64encode(body).decode()}


def to_event(message: Message) -> dict[str, Any]:
    """Convert a CloudEvent to an event. Raises InvalidEventError if a required attribute is missing."""
    left = dict(message)
    if left.pop("specversion", None) != "1.0":
        raise InvalidEventError(_OTHER_VERSION)
    customer_id = as_text(left.pop("subject", None)) or as_text(left.get("source"))
    if customer_id is None:
        raise missing("customer_id", "a CloudEvent has a source.")
    event_name = as_text(left.pop("type", None))
    if event_name is None:
        raise missing("event_name", "a CloudEvent has a type.")
    data = left.pop("data", None)
    in_base64 = left.pop("data_base64", None)
    if data is not None and not isinstance(data, dict):
        data = {"data": data}
    if in_base64 is not None:
        data = {"data_base64": in_base64} | (data or {})
    return without_none(
        event_id=event_id_of(left.pop("id", None)),
        customer_id=customer_id,
        event_type="custom",
        event_name=event_name,
        properties=data,
        timestamp=take_time(left, "time"),
        extra=left or None,
    )
