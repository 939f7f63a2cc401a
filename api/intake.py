"""Turns a request's body into validated events with ids and times, ready for Kafka."""

import os
from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from common import event_json, events
from common.errors import Fault, InvalidEventError
from common.kafka import Record


class AcceptedEvent(NamedTuple):
    """An event that will reach Kafka."""

    event_id: str
    event_type: str
    key: bytes
    value: bytes

    @property
    def record(self) -> Record:
        """The record for Kafka."""
        return Record(self.key, self.value)


class AcceptedBatch(NamedTuple):
    """The events of a batch by index: the accepted ones, and the faults of the refused ones."""

    accepted: dict[int, AcceptedEvent]
    errors: dict[int, Any]


class Receipt(NamedTuple):
    """The API's fields for each event of a request: time of receipt (UTC), write key and protocol."""

    received_at: datetime
    source: str | None = None
    """The write key's name; None if the API requires no key."""
    protocol: str = "pulse"


def accept_event(body: bytes, receipt: Receipt) -> AcceptedEvent:
    """The single event of a request; raises InvalidEventError."""
    return _accept(event_json.load_event(body), receipt, _new_ids(1))


def accept_plain_event(body: bytes, receipt: Receipt) -> list[AcceptedEvent] | None:
    """The single event of a request if the fast decoder accepts it; None to leave it to `accept_event`."""
    event = event_json.fast_event(body)
    return None if event is None else _accept_plain([event], receipt)


def accept_plain_batch(body: bytes, receipt: Receipt) -> list[AcceptedEvent] | None:
    """All events of a request if the fast decoder accepts them; None to leave them to `accept_batch`."""
    events = event_json.fast_batch(body)
    return None if events is None else _accept_plain(events, receipt)


def accept_batch(body: bytes, receipt: Receipt) -> list[AcceptedEvent]:
    """All events of a request, in order; raises InvalidEventError, which names every invalid event."""
    batch = _accept_right_ones(event_json.load_batch(body), receipt)
    if batch.errors:
        raise event_json.invalid_batch(batch.errors)
    return list(batch.accepted.values())


def accept_partial_batch(body: bytes, receipt: Receipt) -> AcceptedBatch:
    """The valid events of a request; raises InvalidEventError if there are none."""
    batch = _accept_right_ones(event_json.load_batch(body), receipt)
    if not batch.accepted:
        raise event_json.invalid_batch(batch.errors)
    return batch


def accept_mapped(mapped: Collection[dict[str, Any]], receipt: Receipt) -> list[AcceptedEvent]:
    """The valid events that were converted from another protocol: see `event_json.load_mapped`.

    The protocol limits their size.
    """
    new_ids = _new_ids(len(mapped))
    return [_accepted(event, receipt, new_ids) for event in mapped]


def read_back(value: bytes) -> AcceptedEvent:
    """An accepted event from the bytes of its record."""
    event = _IDENTITY.decode(value)
    return AcceptedEvent(event.event_id, event.event_type, event.customer_id.encode(), value)


def received_at(value: bytes) -> datetime:
    """The time of receipt of an accepted event, from the bytes of its record."""
    return events.parse_timestamp(_TIME_OF_RECEIPT.decode(value).received_at)


class _Identity(msgspec.Struct):
    """The fields that are read back from an accepted event."""

    event_id: str
    event_type: str
    customer_id: str


class _TimeOfReceipt(msgspec.Struct):
    received_at: str


_IDENTITY = msgspec.json.Decoder(_Identity)
_TIME_OF_RECEIPT = msgspec.json.Decoder(_TimeOfReceipt)
TOO_LARGE = Fault("size", f"Larger than {events.MAX_EVENT_BYTES} bytes.")


def _accept_right_ones(batch: event_json.Batch, receipt: Receipt) -> AcceptedBatch:
    loaded, errors = batch
    accepted: dict[int, AcceptedEvent] = {}
    new_ids = _new_ids(len(loaded))
    for index, event in loaded.items():
        try:
            accepted[index] = _accept(event, receipt, new_ids)
        except InvalidEventError as error:
            errors[index] = list(error.args)
    return AcceptedBatch(accepted, dict(sorted(errors.items())))


def _accept_plain(loaded: list[dict[str, Any]], receipt: Receipt) -> list[AcceptedEvent] | None:
    new_ids = _new_ids(len(loaded))
    try:
        return [_accept(event, receipt, new_ids) for event in loaded]
    except InvalidEventError:
        return None


def _accept(event: dict[str, Any], receipt: Receipt, new_ids: Iterator[str]) -> AcceptedEvent:
    """Raises InvalidEventError if the event as sent is too large, in the encoding for Kafka."""
    accepted = _accepted(event, receipt, new_ids)
    if len(accepted.value) > events.MAX_EVENT_BYTES and len(event_json.encode(event)) > events.MAX_EVENT_BYTES:
        raise InvalidEventError(TOO_LARGE)
    return accepted


def _accepted(event: dict[str, Any], receipt: Receipt, new_ids: Iterator[str]) -> AcceptedEvent:
    event_id = event.get("event_id") or next(new_ids)
    received_at, source, protocol = receipt
    ours = {
        "event_id": event_id,
        "timestamp": event.get("timestamp", received_at),
        "received_at": received_at,
        "protocol": protocol,
    }
    if source is not None:
        ours["source"] = source
    value = event_json.encode(event | ours)
    return AcceptedEvent(event_id, event["event_type"], event["customer_id"].encode(), value)


def _new_ids(most: int) -> Iterator[str]:
    """Ids from UUIDs v4, with one system call for all of them, on first use."""
    digits = os.urandom(16 * most).hex()
    for n in range(0, 32 * most, 32):
        # The version is 4; the variant is the digit's lower two bits after a one and a zero.
        variant = "89ab"[int(digits[n + 16], 16) & 3]
        yield (
            f"evt_{digits[n : n + 8]}-{digits[n + 8 : n + 12]}-4{digits[n + 13 : n + 16]}"
            f"-{variant}{digits[n + 17 : n + 20]}-{digits[n + 20 : n + 32]}"
        )
