"""The cost of an index: the time of an upsert with and without it, alternating in one run.

`python -m loadtest.index_cost`. Needs MongoDB at `MONGO_URI`, where it creates and drops a database of its own.
"""

import random
import statistics
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain, count, islice
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from common.errors import PulseError
from common.settings import MongoSettings, load_local_settings
from consumer.indexes import EVENT_ID, INDEXES, Index
from consumer.writer import MongoWriter
from loadtest.client import run
from loadtest.journeys import generated_journeys

ROUNDS = 30
BATCH = 100  # events in a write
ALL = "all of them"


def main() -> int:
    """Print a line for each index, and one for all of them; returns 0. Raises PulseError."""
    others = [index for index in INDEXES if index != EVENT_ID]
    sides = {EVENT_ID.name: [], **{index.name: [index] for index in others}, ALL: others}
    mongo, database = load_local_settings().mongo, f"pulse_index_cost_{uuid.uuid4().hex[:8]}"
    with MongoClient[dict[str, Any]](mongo.uri, serverSelectionTimeoutMS=5_000) as client:
        try:
            taken = _rounds({name: _side(client, mongo, database, name, extra) for name, extra in sides.items()})
        except PyMongoError as error:
            raise PulseError(f"MongoDB is not reachable ({str(error).split(' (', 1)[0]}).") from error
        finally:
            client.drop_database(database)
    alone = taken.pop(EVENT_ID.name)
    print(f"an upsert, {BATCH} in a write, median of {ROUNDS} rounds: {statistics.median(alone) * 1e6:,.0f} us with")
    print(f"{EVENT_ID.name} alone, and with it:")
    for name, seconds in taken.items():
        ratios = [with_it / without for with_it, without in zip(seconds, alone, strict=True)]
        print(f"{name:<34}{statistics.median(seconds) * 1e6:>8,.0f} us {statistics.median(ratios) - 1:>+8.0%}")
    return 0


def _side(
    client: MongoClient[dict[str, Any]], mongo: MongoSettings, database: str, name: str, extra: list[Index]
) -> MongoWriter:
    """A consumer's writer, whose collection has these indexes in addition to the one on event_id."""
    collection = name.replace(" ", "_")
    for index in (EVENT_ID, *extra):
        client[database][collection].create_index(index.key, **index.options)
    return MongoWriter(MongoSettings(mongo.uri, database, collection, None))


def _rounds(sides: dict[str, MongoWriter]) -> dict[str, list[float]]:
    """The seconds per upsert of each side. In each round, all sides write the same new events."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    events = _events()
    order = list(sides)
    for _ in range(ROUNDS):
        documents = list(islice(events, BATCH))
        random.shuffle(order)
        for name in order:
            begun = time.perf_counter()
            sides[name].write(documents)
            taken[name].append((time.perf_counter() - begun) / BATCH)
    for writer in sides.values():
        writer.close()
    return taken


def _events() -> Iterator[dict[str, Any]]:
    """Endless events of shoppers, as the consumer stores them, with random ids, like those of the API."""
    rng = random.Random(1)
    journeys = (generated_journeys(1_000, uuid.uuid4().hex, datetime.now(UTC), rng) for _ in count())
    for offset, event in enumerate(chain.from_iterable(chain.from_iterable(journeys))):
        now = datetime.now(UTC)
        kafka = {"partition": offset % 3, "offset": offset // 3}
        ours = {"event_id": f"evt_{uuid.UUID(int=rng.getrandbits(128))}", "timestamp": now, "received_at": now}
        yield {**event, **ours, "kafka": kafka}


if __name__ == "__main__":
    sys.exit(run(main))
