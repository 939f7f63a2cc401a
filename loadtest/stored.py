"""What MongoDB holds of the events that a tool has sent; waits until it is all of them."""

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
COUNTED = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}]"  # no rate: it would be that of the counting
WINDOW = 1000  # events counted at a time: the local database takes 0.1 s to count these, and over 2 s to count all


def connect(settings: MongoSettings) -> Events:
    """The collection of the events; its times are aware, in UTC. Does not block."""
    client: MongoClient[dict[str, Any]] = MongoClient(
        settings.uri,
        connect=False,  # else mongodb+srv would ask the DNS here
        serverSelectionTimeoutMS=5_000,
        connectTimeoutMS=5_000,
        socketTimeoutMS=60_000,
    )
    aware: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True, tzinfo=UTC)
    return client[settings.database].get_collection(settings.collection, codec_options=aware)


def stored_by_type(collection: Events, events: list[Event]) -> Counter[str]:
    """How many of these events MongoDB holds, by type. They are sorted by event_id, and no others lie between.

    Raises PyMongoError.
    """
    ids = {"$gte": events[0]["event_id"], "$lte": events[-1]["event_id"]}
    groups = collection.aggregate(
        [{"$match": {"event_id": ids}}, {"$group": {"_id": "$event_type", "count": {"$sum": 1}}}]
    )
    return Counter({group["_id"]: group["count"] for group in groups})


def interrupted(accepted: int, collection: Events | None, events: list[Event]) -> str:
    """How far a tool got that Ctrl-C ends. None for `collection`: MongoDB cannot be read."""
    try:
        stored = "an unknown number" if collection is None else f"{stored_by_type(collection, events).total():,}"
    except PyMongoError:
        stored = "an unknown number"
    return f"Interrupted: {accepted:,} of {len(events):,} events were accepted, and {stored} are stored so far."


def wait_until_stored(collection: Events, events: list[Event]) -> Counter[str]:
    """Waits until all events are in MongoDB, or none has arrived for `PATIENCE`; returns how many it holds, by type.

    Looks at one window after the other, over and over: partitions are consumed at their own pace, so that any window
    may be the next to make progress. The first round has no pauses, so that the bar soon shows what is true. A MongoDB
    that restarts meanwhile is no progress, nothing worse.
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
                    # A database that is slow to count has better things to do.
                    time.sleep(max(POLL_INTERVAL / len(pending), 4 * (time.monotonic() - begun)))
    return sum(stored.values(), Counter())
