"""Events as bytes in a journal."""

import json
from datetime import UTC, datetime

from api.intake import Receipt, accept_event

_RECEIPT = Receipt(datetime(2026, 1, 31, 12, tzinfo=UTC))


def journalled(number: int, customer: str = "alice") -> bytes:
    """An accepted event with this number; always the same bytes."""
    sent = {"event_id": f"event-{number}", "customer_id": customer, "event_type": "click", "properties": {"n": number}}
    return accept_event(json.dumps(sent).encode(), _RECEIPT).value
