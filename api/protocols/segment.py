"""Segment's protocol, which RudderStack's SDKs speak too: track, page, screen, identify, group and alias."""

from typing import Any

from api.protocols.messages import Envelope, Message, as_text, event_id_of, missing, times_of, without_none
from api.protocols.paths import MAX_MESSAGES
from common.errors import Fault, InvalidEventError

CALLS = {
    "track": "custom",
    "page": "page_view",
    "screen": "screen",
    "identify": "identify",
    "group": "group",
    "alias": "alias",
}
"""The calls of an SDK, with their event types."""
PATHS = {f"/v1/{name}": call for call in CALLS for name in (call, call[0])}
"""The call that comes at each path; analytics.js has one letter for it."""
_TYPES = CALLS | {"click": "click"}
"""The types of messages in a batch, which include clicks from our snippet."""

_TYPES_OF_NAMES = {
    "Order Completed": "purchase",
    "Product Added": "add_to_cart",
    "Products Searched": "search",
    "Product Clicked": "click",
    "Promotion Clicked": "click",
}
_NAMED_BY = {"track": "event", "click": "event", "page": "name", "screen": "name"}
_SHARED = ("context", "integrations", "sentAt")
_NO_BATCH = Fault("type", "Must be an array of messages.")
_TOO_MANY = Fault("length", f"At most {MAX_MESSAGES:,} messages.")
_UNKNOWN_CALL = Fault("choice", f"A message's type must be one of: {', '.join(CALLS)}.")


def messages_in(batch: Message) -> list[Any]:
    """The messages of a batch, with the batch's shared fields where they lack them. Raises InvalidEventError."""
    messages = batch.get("batch")
    if not isinstance(messages, list):
        raise InvalidEventError(f"batch: {_NO_BATCH}", {"batch": [_NO_BATCH]})
    if len(messages) > MAX_MESSAGES:
        raise InvalidEventError(f"batch: {_TOO_MANY}", {"batch": [_TOO_MANY]})
    shared = {name: batch[name] for name in _SHARED if batch.get(name) is not None}
    return [_with_shared(message, shared) if isinstance(message, dict) else message for message in messages]


def to_event(message: Message, call: str | None, envelope: Envelope) -> dict[str, Any]:
    """Convert a message to an event. Raises InvalidEventError if a required field is missing.

    `call`: its kind, from the path; None if the message has its own type.
    """
    # All fields that remain in it at the end become `extra`.
    left = dict(message)
    left.pop("writeKey", None)
    if call is None:
        call = left.get("type")
        if not isinstance(call, str) or call not in _TYPES:
            raise InvalidEventError(f"event_type: {_UNKNOWN_CALL}", {"event_type": [_UNKNOWN_CALL]})
    if left.get("type") in (call, None):
        left.pop("type", None)

    event_id = event_id_of(left.pop("messageId", None))
    user_id = as_text(left.pop("userId", None))
    anonymous_id = as_text(left.pop("anonymousId", None)) or envelope.anonymous_id
    previous_id = as_text(left.pop("previousId", None))
    customer_id = user_id or (previous_id if call == "alias" else anonymous_id)
    if customer_id is None:
        needed = "a userId or a previousId." if call == "alias" else "a userId or an anonymousId."
        raise missing("customer_id", needed)

    event_name = as_text(left.pop(_NAMED_BY[call], None)) if call in _NAMED_BY else None
    if call in ("track", "click") and event_name is None:
        raise missing("event_name", f"a {call} has an event.")

    context = left.pop("context", None)
    traits = left.pop("traits", None)
    if call == "identify" and not traits and isinstance(context, dict):
        traits = context.get("traits", traits)
    return without_none(
        event_id=event_id,
        customer_id=customer_id,
        user_id=user_id,
        anonymous_id=anonymous_id,
        previous_id=previous_id,
        group_id=as_text(left.pop("groupId", None)),
        event_type=_type_of(call, event_name),
        event_name=event_name,
        properties=left.pop("properties", None),
        traits=traits,
        context=context,
        **times_of(left, envelope),
        extra=left or None,
    )


def _type_of(call: str, event_name: Any) -> str:
    of_name = _TYPES_OF_NAMES.get(event_name) if call == "track" and isinstance(event_name, str) else None
    return of_name or _TYPES[call]


def _with_shared(message: Message, shared: Message) -> Message:
    missing_ones = {name: value for name, value in shared.items() if message.get(name) is None}
    return {**message, **missing_ones} if missing_ones else message
