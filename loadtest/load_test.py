"""`make load-test`: 20 users send 10,000 events in 100 batches; then a report and a chart show their places.

`python -m loadtest.load_test [--url URL] [--batches N] [--users N]`. The events have ids of their own, so the report
counts no other events. Each batch is sent once, without retries.
"""

import argparse
import random
import re
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from typing import Any

import gevent
import locust  # patches the standard library, so it must be the first import
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import STATE_RUNNING
from pymongo.errors import PyMongoError

from common.errors import PulseError
from common.events import MAX_BATCH_EVENTS
from common.kafka import KafkaError, KafkaReader
from common.settings import KafkaSettings, MongoSettings, is_set, load_local_settings
from loadtest import chart
from loadtest.client import Event, base_url, check_ready, progress, run, whole_number
from loadtest.locustfile import TRACK_BATCH, PulseUser, shoppers
from loadtest.report import Answer, Run, Unknown, lines
from loadtest.stored import PATIENCE, POLL_INTERVAL, Events, connect, interrupted, stored_by_type, wait_until_stored

Batch = list[Event]
SEED = 20  # the same shoppers in every run; only ids and times differ


def main() -> int:
    """Returns 0 if every event was accepted and no readable place lacks one, otherwise 1. Raises PulseError."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.load_test", description="Send events, and find all of them."
    )
    parser.add_argument(
        "--url", type=base_url, help="of an API elsewhere; by default the one of `make run` and `make up`"
    )
    parser.add_argument("--batches", type=whole_number(1), default=100, metavar="N", help="of 100 events (%(default)s)")
    parser.add_argument("--users", type=whole_number(1), default=20, metavar="N", help="concurrent users (%(default)s)")
    arguments = parser.parse_args()
    settings = load_local_settings()
    url = arguments.url or settings.api_address.url
    elsewhere = url != settings.api_address.url
    check_ready(url)

    origin = f"load-{uuid.uuid4().hex[:12]}"
    batches = _batches(origin, arguments.batches)
    events = [event for batch in batches for event in batch]
    mongodb = _mongodb(settings.mongo, events, elsewhere=elsewhere)
    kafka_ends = _kafka_ends(settings.kafka, elsewhere=elsewhere)

    result = Run(url, len(events), len(batches), arguments.users)
    print(f"Sending {result.events:,} events in {result.batches:,} batches with {result.users} users to {url}")
    begun, begun_at = time.monotonic(), time.time()
    try:
        accepted = _send(result, batches, begun_at)
        if isinstance(mongodb, Unknown):
            result.in_mongodb = mongodb
        else:
            if accepted:
                wait_until_stored(mongodb, accepted)
            result.seen_stored = time.monotonic() - begun
            result.in_mongodb = _in_mongodb(mongodb, events, begun_at)
        if isinstance(kafka_ends, Unknown):
            result.in_kafka = kafka_ends
        else:
            result.in_kafka = _in_kafka(settings.kafka, kafka_ends, origin, len(accepted), begun_at)
    except KeyboardInterrupt:
        readable = None if isinstance(mongodb, Unknown) else mongodb
        print(interrupted(result.accepted, readable, events), file=sys.stderr)
        print("All accepted events will be stored; another load test sends events of its own.", file=sys.stderr)
        return 130

    print("", *lines(result), sep="\n")
    picture = settings.data_dir / "load-test.png"
    chart.draw(result, picture)
    print(f"{'chart':<14}{picture}")
    if result.complete:
        return 0
    print("Some events did not arrive: see the logs of the API and the consumer.", file=sys.stderr)
    return 1


def _batches(origin: str, count: int) -> list[Batch]:
    """Batches of shoppers' events. The event_ids are sorted, and begin with `origin`."""
    events = enumerate(shoppers(origin, random.Random(SEED)), 1)
    numbered = ({**event, "event_id": f"{origin}-{number:09}"} for number, event in events)
    return [list(islice(numbered, MAX_BATCH_EVENTS)) for _ in range(count)]


# ── Sending ──


def _send(result: Run, batches: list[Batch], begun_at: float) -> list[Event]:
    """Send the batches and record the answers; returns the accepted events, in order.

    `begun_at`: seconds since the epoch. Blocks until each batch has an answer or a timeout.
    """
    accepted: list[int] = []

    def note(
        *, response: Any, response_time: float, start_time: float, exception: object, context: Any, **_: Any
    ) -> None:
        took, events = response_time / 1000, len(batches[context["batch"]])
        if response.status_code == 202:
            accepted.append(context["batch"])
            bar.update(events)
        else:
            result.refused[_reason(response, exception)] += events
            events = 0
        result.answers.append(Answer(start_time + took - begun_at, took, events))

    environment = Environment(user_classes=[_sender(iter(enumerate(batches)))], host=result.url)
    environment.events.request.add_listener(note)  # type: ignore[no-untyped-call]
    runner = environment.create_local_runner()
    with progress(result.events, "accepted") as bar:
        runner.start(result.users, spawn_rate=result.users)
        while runner.state != STATE_RUNNING or runner.user_count:
            time.sleep(POLL_INTERVAL / 10)
    runner.quit()
    return [event for number in sorted(accepted) for event in batches[number]]


def _sender(batches: Iterator[tuple[int, Batch]]) -> type[PulseUser]:
    """A user who sends batches until none are left. All users share the batches."""

    class Sender(PulseUser):
        @locust.task
        def send(self) -> None:
            number, batch = next(batches, (0, []))
            if not batch:
                raise StopUser
            self.client.post(TRACK_BATCH, json={"events": batch}, context={"batch": number})

    return Sender


def _reason(response: Any, exception: object) -> str:
    """The reason why a batch was not accepted, in one line."""
    if not response.status_code:
        return f"no answer ({exception})"
    try:
        message = response.json()["message"]
    except (ValueError, KeyError, TypeError):
        message = "no message; is this the Pulse API?"
    return f"HTTP {response.status_code}, {message}"


# ── Finding the events ──


def _mongodb(settings: MongoSettings, events: list[Event], *, elsewhere: bool) -> Events | Unknown:
    """The collection, if it can be read."""
    if elsewhere and not is_set("MONGO_URI"):
        return Unknown("MONGO_URI does not say where that API's MongoDB is")
    try:
        collection = connect(settings)
        stored_by_type(collection, events[:1])
    except PyMongoError as error:
        return Unknown(f"MongoDB is not reachable from here ({str(error).split(' (', 1)[0]})")
    return collection


def _in_mongodb(collection: Events, events: list[Event], begun_at: float) -> list[float]:
    """The times at which the consumer stored the events, in seconds since `begun_at`. Raises PulseError."""
    ids = {"$gte": events[0]["event_id"], "$lte": events[-1]["event_id"]}
    try:
        documents = collection.find({"event_id": ids}, {"processed_at": 1})
        return sorted(document["processed_at"].timestamp() - begun_at for document in documents)
    except PyMongoError as error:
        raise PulseError(f"MongoDB cannot be read any more ({str(error).split(' (', 1)[0]}): try again.") from error


def _kafka_ends(settings: KafkaSettings, *, elsewhere: bool) -> dict[int, int] | Unknown:
    """The current end of each partition of the topic, if Kafka can be read."""
    if elsewhere and not is_set("KAFKA_BROKERS"):
        return Unknown("KAFKA_BROKERS does not say where that API's Kafka is")
    try:
        with closing(KafkaReader(settings, settings.topic)) as reader:
            return reader.ends
    except (PulseError, KafkaError) as error:
        return Unknown(f"Kafka cannot be read from here ({error})")


def _in_kafka(settings: KafkaSettings, first: dict[int, int], origin: str, wanted: int, begun_at: float) -> list[float]:
    """The times at which the API's producer sent the events in Kafka, in seconds since `begun_at`.

    Reads from the offsets `first` until it has found `wanted` events, or no new one for `PATIENCE` seconds. A duplicate
    counts once. Raises PulseError.
    """
    event_id = re.compile(rb'"event_id": ?"(%b-[0-9]+)"' % origin.encode())
    found: dict[bytes, float] = {}
    last_progress = time.monotonic()
    while True:
        before = len(found)
        try:
            with closing(KafkaReader(settings, settings.topic)) as reader:
                for record in reader.read(first):
                    if match := event_id.search(record.value or b""):
                        found.setdefault(match[1], record.timestamp_ms / 1000 - begun_at)
                first = reader.ends
        except KafkaError as error:
            raise PulseError(f"Kafka cannot be read any more ({error}): try again.") from error
        if len(found) > before:
            last_progress = time.monotonic()
        if len(found) >= wanted or time.monotonic() - last_progress > PATIENCE:
            return sorted(found.values())
        time.sleep(POLL_INTERVAL)


if __name__ == "__main__":
    # Otherwise Ctrl-C would raise KeyboardInterrupt in the running user, and locust would print its trace.
    gevent.signal_handler(signal.SIGINT, gevent.kill, gevent.getcurrent(), KeyboardInterrupt)
    sys.exit(run(main))
