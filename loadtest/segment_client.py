"""Sends events with Segment's SDK for Python, as a server does: `make seed SDK=segment`."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from segment.analytics.client import Client

from common.errors import PulseError
from common.events import MAX_BATCH_EVENTS
from common.settings import own_write_key
from loadtest.client import Event, check_ready, chunks

NO_KEY = "none"  # the SDK requires a key; an API without keys accepts any


def send(url: str, events: Iterable[Event]) -> Iterator[tuple[list[Event], set[str]]]:
    """Like `loadtest.client.send`; blocks as long as the SDK retries, about three minutes per batch."""
    check_ready(url)
    faults: list[Exception] = []
    client = Client(own_write_key() or NO_KEY, host=url, on_error=lambda error, _: faults.append(error))
    try:
        for batch in chunks(events, MAX_BATCH_EVENTS):
            for event in batch:
                _call(client, event)
            client.flush()
            if faults:
                raise PulseError(f"The API at {url} did not take a batch: {faults[0]}")
            yield batch, {event["event_id"] for event in batch}
    finally:
        client.join()


def _call(client: Client, event: Event) -> None:
    """Make the call from which the API makes the same event."""
    sent: dict[str, Any] = {
        "user_id": event.get("user_id", None if "anonymous_id" in event else event["customer_id"]),
        "anonymous_id": event.get("anonymous_id"),
        # A copy, since the SDK changes it.
        "context": {**event["context"]},
        "timestamp": datetime.fromisoformat(event["timestamp"]),
        "message_id": event["event_id"],
    }
    match event["event_type"]:
        case "identify":
            client.identify(traits=event["traits"], **sent)
        case "page_view":
            client.page(name=event.get("event_name"), properties=event["properties"], **sent)
        case _:
            client.track(event=event["event_name"], properties=event["properties"], **sent)
