"""`make seed`: sends shoppers' journeys to the API and prints the accepted events.

`python -m loadtest.seed [--customers N] [--sdk segment] [--url URL]`
"""

import argparse
import itertools
import random
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime

from common.errors import PulseError
from common.events import EVENT_TYPES
from common.settings import load_api_address
from loadtest import client
from loadtest.client import Event, base_url, run, whole_number
from loadtest.journeys import generated_journeys, named_journeys

SEED = 20  # the same shoppers in every run; only ids and times differ


def main() -> int:
    """Returns 0 if every event was accepted, otherwise 1. Raises PulseError."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.seed", description="Send sample shoppers to the API.")
    parser.add_argument(
        "--customers", type=whole_number(0), default=0, metavar="N", help="generated ones, in addition to the three"
    )
    parser.add_argument("--sdk", choices=("segment",), help="send with this SDK instead of to the native routes")
    own = load_api_address().url
    parser.add_argument("--url", type=base_url, default=own, help="of the API (%(default)s)")
    arguments = parser.parse_args()

    origin = (f"seed-{uuid.uuid4().hex[:12]}", datetime.now(UTC), random.Random(SEED))
    named = list(named_journeys(*origin))
    journeys = itertools.chain(named, generated_journeys(arguments.customers, *origin))

    sent: Counter[str] = Counter()
    accepted: Counter[str] = Counter()
    begun = time.monotonic()
    send = _by_segment() if arguments.sdk else client.send
    for batch, ids in send(arguments.url, itertools.chain.from_iterable(journeys)):
        sent.update(event["event_type"] for event in batch)
        accepted.update(event["event_type"] for event in batch if event["event_id"] in ids)
    seconds = time.monotonic() - begun

    for events in named:
        print(f"{events[-1]['customer_id']:<12}{len(events):>7} events, {outcome(events)}")
    others = sent.total() - sum(map(len, named))
    if others:
        print(f"{arguments.customers:,} generated customers: {others:,} events")
    print(f"\n{'type':<12}{'accepted':>10}")
    for event_type in filter(sent.__getitem__, EVENT_TYPES):
        print(f"{event_type:<12}{accepted[event_type]:>10,}")
    print(f"{accepted.total():,} of {sent.total():,} events accepted in {seconds:.1f} s. See them: make tail")
    return 0 if accepted == sent else 1


def outcome(events: list[Event]) -> str:
    """The end of a customer's journey, in a few words."""
    for event in events:
        if event.get("event_name") == "Order Completed":
            order = event["properties"]
            items = sum(product["quantity"] for product in order["products"])
            return f"bought {items} for {order['total']:.2f} {order['currency']}"
    left = [event["properties"]["name"] for event in events if event.get("event_name") == "Product Added"]
    return f"left in the cart: {', '.join(left)}" if left else "only looked"


def _by_segment() -> Callable[[str, Iterable[Event]], Iterator[tuple[list[Event], set[str]]]]:
    """The function that sends with Segment's SDK. Raises PulseError if the SDK, which is optional, is not installed."""
    try:
        from loadtest import segment_client  # noqa: PLC0415
    except ImportError as error:
        raise PulseError("Segment's SDK is not installed: `make seed SDK=segment` installs it.") from error
    return segment_client.send


if __name__ == "__main__":
    sys.exit(run(main))
