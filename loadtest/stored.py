"""Counts a tool's events in MongoDB, and waits until all are stored."""

import contextlib
import time
from collections import Counter, defaultdict, deque
from datetime import UTC
from typing import Any

from bson.codec_options import CodecOptions
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import PyMongoError

from common.settings import MongoSettings
from loadtest.client import Event, chunks, progress

Events = Collection[dict[str, Any]]

PATIENCE = 60.0  # seconds without one more event stored, after which the wait is over
POLL_INTERVAL = 0.5  # seconds, at least, between two rounds of counting
COUNTED = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}]"  # no rate, which would be that of the counting
WINDOW = 1000  # events per count: the local database counts these in 0.1 s, and all in over 2 s


def connect(settings: MongoSettings) -> Events:
    """The collection of the events; its times are aware, in UTC. Does not block."""
    client: MongoClient[dict[str, Any]] = MongoClient(
        settings.uri,
        connect=False,  # otherwise mongodb+srv would query the DNS here
        serverSelectionTimeoutMS=5_000,
        connectTimeoutMS=5_000,
        socketTimeoutMS=60_000,
    )
    aware: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True, tzinfo=UTC)
    return client[settings.database].get_collection(settings.collection, codec_options=aware)


def stored_by_type(collection: Events, events: list[Event]) -> Counter[str]:
    """The number of these events in MongoDB, by type. They must be sorted by event_id, without others in between.

    Raises PyMongoError.
    """
    ids = {"$gte": events[0]["event_id"], "$lte": events[-1]["event_id"]}
    groups = collection.aggregate(
        [{"$match": {"event_id": ids}}, {"$group": {"_id": "$event_type", "count": {"$sum": 1}}}]
    )
    return Counter({group["_id"]: group["count"] for group in groups})


def interrupted(accepted: int, collection: Events | None, events: list[Event]) -> str:
    """The progress of a tool that Ctrl-C ended. `collection` is None if MongoDB cannot be read."""
    try:
        stored = "an unknown number" if collection is None else f"{stored_by_type(collection, events).total():,}"
    except PyMongoError:
        stored = "an unknown number"
    return f"Interrupted: {accepted:,} of {len(events):,} events were accepted, and {stored} are stored so far."


def wait_until_stored(collection: Events, events: list[Event]) -> Counter[str]:
    """Wait until MongoDB has all events, or no new ones for `PATIENCE` seconds; returns their number, by type.

    It counts one window after the other, repeatedly, since consumers read each partition at its own pace. The first
    round has no pauses, so the bar soon shows the real state. A restart of MongoDB is no error.
    """
    print("Waiting until all of them are stored")
    pending = deque(chunks(events, WINDOW))
    stored: defaultdict[str, Counter[str]] = defaultdict(Counter)
    last_progress = time.monotonic()
    with progress(len(events), "stored", COUNTED) as bar:
        while pending and time.monotonic() - last_progress < PATIENCE:
            begun = time.monotonic()
            window = pending[0]
            seen = window[0]["event_id"] in stored
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
                if seen:
                    # Spare a database that counts slowly.
                    time.sleep(max(POLL_INTERVAL / len(pending), 4 * (time.monotonic() - begun)))
    return sum(stored.values(), Counter())
