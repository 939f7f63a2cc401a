"""Intake: from a body to events that are ready for Kafka."""

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from api.intake import Receipt, accept_batch, accept_event, accept_mapped, accept_partial_batch
from common.errors import InvalidEventError
from common.event_json import decode, load_mapped
from common.events import MAX_EVENT_BYTES

NOW = datetime(2026, 1, 31, 12, 0, 0, 5, tzinfo=UTC)
RECEIPT = Receipt(NOW)
LEAST = {"customer_id": "alice", "event_type": "click"}


def body(**fields: Any) -> bytes:
    return json.dumps({**LEAST, **fields}).encode()


def test_an_event_without_an_id_gets_one() -> None:
    assert re.fullmatch(r"evt_[0-9a-f-]{36}", accept_event(body(), RECEIPT).event_id)


def test_an_id_of_the_client_is_kept() -> None:
    assert accept_event(body(event_id="mine"), RECEIPT).event_id == "mine"


def test_the_time_of_receipt_stands_in_for_a_missing_timestamp() -> None:
    event = decode(accept_event(body(), RECEIPT).value)
    assert (event["timestamp"], event["received_at"]) == (NOW, NOW)


def test_a_timestamp_of_the_client_is_kept() -> None:
    event = decode(accept_event(body(timestamp="2020-01-01T00:00:00.000001Z"), RECEIPT).value)
    assert event["timestamp"] == datetime(2020, 1, 1, 0, 0, 0, 1, tzinfo=UTC)


def test_the_customer_is_the_kafka_key() -> None:
    assert accept_event(body(customer_id="zoë"), RECEIPT).key == "zoë".encode()


def test_a_batch_keeps_its_order() -> None:
    raw = json.dumps({"events": [{**LEAST, "event_id": str(n)} for n in range(100)]}).encode()
    assert [event.event_id for event in accept_batch(raw, RECEIPT)] == [str(n) for n in range(100)]


def test_an_event_of_a_batch_that_is_too_large_is_named() -> None:
    large = {**LEAST, "properties": {"text": "x" * MAX_EVENT_BYTES}}
    with pytest.raises(InvalidEventError) as raised:
        accept_batch(json.dumps({"events": [LEAST, large]}).encode(), RECEIPT)
    assert str(raised.value) == "events[1]: Larger than 65536 bytes."
    assert raised.value.errors == {"events": {1: ["Larger than 65536 bytes."]}}


def test_every_fault_of_a_batch_is_named() -> None:
    large = {**LEAST, "properties": {"text": "x" * MAX_EVENT_BYTES}}
    with pytest.raises(InvalidEventError) as raised:
        accept_batch(json.dumps({"events": [large, LEAST, 5]}).encode(), RECEIPT)
    assert list(raised.value.errors["events"]) == [0, 2]


def test_a_partial_batch_accepts_the_valid_events() -> None:
    batch = accept_partial_batch(json.dumps({"events": [5, {**LEAST, "event_id": "mine"}]}).encode(), RECEIPT)
    assert {index: event.event_id for index, event in batch.accepted.items()} == {1: "mine"}
    assert batch.errors == {0: ["Must be a JSON object."]}


def test_a_partial_batch_without_a_valid_event_is_refused() -> None:
    with pytest.raises(InvalidEventError, match=r"^events\[0\]: Must be a JSON object\.$"):
        accept_partial_batch(b'{"events": [5]}', RECEIPT)


def test_a_record_is_not_much_larger_than_its_event() -> None:
    text = "x" * (MAX_EVENT_BYTES - len(body(properties={"text": ""})))
    accepted = accept_event(
        json.dumps({**LEAST, "properties": {"text": text}}, separators=(",", ":")).encode(), RECEIPT
    )
    assert len(accepted.value) < MAX_EVENT_BYTES + 256


def test_an_event_that_grows_when_encoded_is_refused() -> None:
    # 1e15 becomes 1000000000000000.0.
    fields = ",".join(f'"{n}":1e15' for n in range(49))
    head = '{"customer_id":"a","event_type":"click","properties":{"x":"'
    padding = "x" * (MAX_EVENT_BYTES - len(head) - len(fields) - 5)
    raw = f'{head}{padding}",{fields}}}}}'.encode()
    assert len(raw) <= MAX_EVENT_BYTES
    with pytest.raises(InvalidEventError, match="Larger than"):
        accept_event(raw, RECEIPT)


# ── Fields that the API adds ──


def test_an_event_has_its_protocol_and_the_name_of_its_key() -> None:
    event = decode(accept_event(body(), Receipt(NOW, "web")).value)
    assert (event["protocol"], event["source"]) == ("pulse", "web")


def test_without_keys_an_event_has_no_source() -> None:
    assert "source" not in decode(accept_event(body(), RECEIPT).value)


MAPPED = {
    **LEAST,
    "event_id": "m-1",
    "event_name": "Order Completed",
    "timestamp": "2026-01-31T11:59:58Z",
    "original_timestamp": "2026-01-31T10:59:58.5Z",
    "sent_at": "2026-01-31T11:00:00+00:00",
    "extra": {"integrations": {"All": True}, "channel": None, "of": [{"a": 1}]},
}


def test_an_event_of_another_protocol_may_have_fields_that_clients_may_not_send() -> None:
    (accepted,) = accept_mapped([load_mapped(json.dumps(MAPPED).encode())], Receipt(NOW, "web", "segment"))
    event = decode(accepted.value)
    assert event["extra"] == MAPPED["extra"]
    assert event["original_timestamp"] == datetime(2026, 1, 31, 10, 59, 58, 500_000, tzinfo=UTC)
    assert event["sent_at"] == datetime(2026, 1, 31, 11, tzinfo=UTC)
    assert (event["protocol"], event["source"], event["received_at"]) == ("segment", "web", NOW)


@pytest.mark.parametrize(
    ("fields", "errors"),
    [
        ({"extra": {"a": [{"$b": 1}]}}, {"extra": {"a": {0: {"$b": ["Must not begin with '$'."]}}}}),
        ({"source": "web", "protocol": "pulse"}, {"source": ["Unknown field."], "protocol": ["Unknown field."]}),
    ],
)
def test_an_event_of_another_protocol_must_obey_the_same_rules(fields: dict[str, Any], errors: dict[str, Any]) -> None:
    with pytest.raises(InvalidEventError) as raised:
        load_mapped(json.dumps({**MAPPED, **fields}).encode())
    assert raised.value.errors == errors
