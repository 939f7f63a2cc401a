"""The events of the benchmarks: those of shoppers, as requests and as records."""

import itertools
import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Any

from api.intake import Receipt, accept_batch
from common.event_json import encode
from common.kafka import Record
from loadtest.bench.load import request
from loadtest.client import Event, chunks
from loadtest.journeys import generated_journeys

_DISTINCT_EVENTS = 20_000
_TYPES = ("page_view", "click", "purchase", "add_to_cart", "search", "custom")
_FIELDS = ("customer_id", "event_type", "timestamp", "context")


def batches(size: int, events: int, customers: int | None = None, wrong: float = 0.0) -> Iterator[bytes]:
    """Requests of `size` events each, for a total number of events; single events go to their own route.

    `customers`: the number of customers, in equal shares; None for those of the shoppers. `wrong`: the share of
    requests with an invalid event.
    """
    rng = random.Random(2)
    path = "/api/v1/track" if size == 1 else "/api/v1/track/batch"
    for chunk in itertools.islice(chunks(itertools.cycle(shoppers()), size), events // size):
        sent = chunk
        if customers is not None:
            sent = [event | {"customer_id": f"customer-{rng.randrange(customers):07}"} for event in chunk]
        if rng.random() < wrong:
            sent = [*sent[:-1], sent[-1] | {"event_type": "viewed"}]
        yield request(path, encode(sent[0] if size == 1 else {"events": sent}))


def records(count: int) -> list[Record]:
    """Some of the events as records of the first version's API, since its consumer reads no others fast."""
    receipt = Receipt(datetime.now(UTC))
    return [
        Record(accepted.record.key, _without_protocol(accepted.value))
        for chunk in chunks(shoppers()[:count], 100)
        for accepted in accept_batch(encode({"events": chunk}), receipt)
    ]


def _without_protocol(value: bytes) -> bytes:
    event = json.loads(value)
    del event["protocol"]
    return encode(event)


def purchases(items: int) -> list[Event]:
    """Two hundred purchases of N line items each."""
    journeys = generated_journeys(_DISTINCT_EVENTS, "bench", datetime.now(UTC), random.Random(3))
    of_products = (event for journey in journeys for event in journey if event["event_type"] == "purchase")
    found = (event for event in of_products if len(event["properties"]["products"]) == items)
    return list(itertools.islice(found, 200))


@cache
def shoppers() -> list[dict[str, Any]]:
    """Events without ids, so each is a new event whenever it is sent.

    They are as flat as those of the first version, since the other sides accept no others.
    """
    journeys = generated_journeys(_DISTINCT_EVENTS, "bench", datetime.now(UTC), random.Random(1))
    found = (_flat(event) for journey in journeys for event in journey if event["event_type"] in _TYPES)
    return list(itertools.islice(found, _DISTINCT_EVENTS))


def _flat(event: Event) -> Event:
    values = event["properties"].items()
    properties = {name: value for name, value in values if not isinstance(value, list)}
    return {**{name: event[name] for name in _FIELDS}, "properties": properties}
