"""What the consumer costs when the database costs nothing: events a second and CPU time an event.

`python -m loadtest.bench.consumer_cost [--events N] [--rounds N]`. A real Apache Kafka, the consumer as a process of
its own (batches of 500, commits and metrics on), and a stub of MongoDB. Each round reads the same topic anew.
"""

import argparse
import itertools
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import psutil
from pymongo import MongoClient
from tqdm import tqdm

from common.errors import PulseError
from common.events import encode, parse_timestamp
from common.kafka import KafkaSender, Record
from common.retry import Backoff
from common.settings import KafkaSettings, LogSettings, TopicSettings
from common.topics import ensure_topics, wait_for_admin, wanted_topics
from loadtest.client import chunks, run
from loadtest.journeys import generated_journeys
from ops.local import kafka, ports

TARGET_MICROSECONDS = 25.0
TARGET_EVENTS_A_SECOND = 40_000
PATIENCE = 300.0  # seconds for one round


class Round(NamedTuple):
    """What one run of the consumer took."""

    events_a_second: float
    microseconds: float  # of CPU an event
    stub_microseconds: float
    megabytes: float  # of memory, at the end


def main() -> int:
    """Prints a line a round and the medians; returns 0 when these are within the targets, else 1."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.consumer_cost", description="The consumer's cost.")
    parser.add_argument("--events", type=int, default=200_000, help="events in the topic (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="how often to read them (%(default)s)")
    parser.add_argument("--batch", type=int, default=500, help="CONSUMER_BATCH_SIZE (%(default)s)")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="pulse-bench-") as folder, _broker(Path(folder)) as broker:
        _fill(broker, arguments.events)
        rounds = []
        for number in range(arguments.rounds):
            done = _round(broker, f"round-{number}", arguments.events, arguments.batch)
            rounds.append(done)
            print(
                f"round {number + 1}: {done.events_a_second:8,.0f} events/s, {done.microseconds:5.1f} us of CPU each"
                f", {done.stub_microseconds:.1f} us of the stub's, {done.megabytes:.0f} MB",
                flush=True,
            )
    rate = statistics.median(done.events_a_second for done in rounds)
    cost = statistics.median(done.microseconds for done in rounds)
    print(f"median:  {rate:8,.0f} events/s, {cost:5.1f} us of CPU each")
    print(f"target:  {TARGET_EVENTS_A_SECOND:8,} events/s, {TARGET_MICROSECONDS:5.1f} us")
    return 0 if rate >= TARGET_EVENTS_A_SECOND and cost <= TARGET_MICROSECONDS else 1


@contextmanager
def _broker(folder: Path) -> Iterator[KafkaSettings]:
    """Kafka, with the topics; its data goes with the folder."""
    kafka.check_java()
    port = ports.free_port()
    command = kafka.prepare(folder / "kafka", port, kafka.jars(Path("var/kafka/libs")))
    settings = KafkaSettings((f"127.0.0.1:{port}",), "bench", "bench.dlq", "PLAINTEXT", None, None, None, None)
    with (
        (folder / "kafka.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as child,  # noqa: S603, our own command
    ):
        try:
            admin = wait_for_admin(settings, patience=60, backoff=Backoff(most=0.5))
            ensure_topics(admin, wanted_topics(TopicSettings(LogSettings("info", "text"), settings, 3, 1)))
            admin.close()
            yield settings
        finally:
            child.terminate()


def _fill(settings: KafkaSettings, count: int) -> None:
    """Shoppers' events, as the API would write them."""
    now = datetime.now(UTC)
    journeys = generated_journeys(count, "bench", now, random.Random(1))
    sent = itertools.islice(itertools.chain.from_iterable(journeys), count)
    events = ({**event, "timestamp": parse_timestamp(event["timestamp"]), "received_at": now} for event in sent)
    sender = KafkaSender(settings, settings.topic)
    with tqdm(total=count, desc="filling the topic", unit=" events", file=sys.stderr) as bar:
        for chunk in chunks(events, 2000):
            results = sender.send([Record(event["customer_id"].encode(), encode(event)) for event in chunk])
            failed = [error for error in results if error is not None]
            if failed:
                raise PulseError(f"Kafka did not take the events: {failed[0]!r}")
            bar.update(len(chunk))
    sender.close()


def _round(settings: KafkaSettings, group: str, events: int, batch: int) -> Round:
    port, metrics_port = ports.free_port(), ports.free_port()
    environ = os.environ | {
        "KAFKA_BROKERS": settings.brokers[0],
        "KAFKA_TOPIC": settings.topic,
        "KAFKA_DLQ_TOPIC": settings.dlq_topic,
        "KAFKA_GROUP_ID": group,
        "MONGO_URI": f"mongodb://127.0.0.1:{port}",
        "METRICS_ADDR": f"127.0.0.1:{metrics_port}",
        "CONSUMER_BATCH_SIZE": str(batch),
    }
    with (
        _process([sys.executable, "-m", "loadtest.bench.mongo_stub", str(port)], environ) as stub,
        _process([sys.executable, "-m", "consumer"], environ) as consumer,
        MongoClient[dict[str, object]](f"mongodb://127.0.0.1:{port}", timeoutMS=60_000) as client,
    ):
        stored = client["pulse"]["events"].estimated_document_count
        # From the first batch on: what it takes to start is no cost of an event.
        first = _wait_for(1, stored, consumer)
        begun, cpu, stub_cpu = time.monotonic(), _cpu_seconds(consumer), _cpu_seconds(stub)
        measured = _wait_for(events, stored, consumer) - first
        seconds = time.monotonic() - begun
        return Round(
            measured / seconds,
            (_cpu_seconds(consumer) - cpu) / measured * 1e6,
            (_cpu_seconds(stub) - stub_cpu) / measured * 1e6,
            consumer.memory_info().rss / 1e6,
        )


@contextmanager
def _process(command: list[str], environ: dict[str, str]) -> Iterator[psutil.Process]:
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, env=environ, stdout=quiet, stderr=quiet) as child:  # noqa: S603, our own command
        try:
            yield psutil.Process(child.pid)
        finally:
            child.terminate()


def _wait_for(count: int, stored: Callable[[], int], consumer: psutil.Process) -> int:
    """Blocks until so many events are stored; returns how many."""
    deadline = time.monotonic() + PATIENCE
    while (found := stored()) < count:
        if time.monotonic() > deadline or consumer.status() == psutil.STATUS_ZOMBIE:
            raise PulseError(f"The consumer stored {found:,} of {count:,} events and then no more.")
        time.sleep(0.02)
    return found


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


if __name__ == "__main__":
    sys.exit(run(main))
