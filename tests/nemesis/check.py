"""The comparison at the end: accepted = in Kafka, in order = stored once = exported once, and no answer was a fault."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pyarrow.parquet as pq
import requests

from common.errors import PulseError
from common.kafka import KafkaError, KafkaReader, group_offsets
from tests.arrived import in_kafka
from tests.nemesis.history import History, Sent
from tests.nemesis.scene import Scene

EXPORT_SECONDS = 3600
"""The limit for the last export, and for a comparison: SecantusDB is slow with many events."""
STILL_SECONDS = 120.0
"""After N seconds without progress, the wait is over."""


def drain(scene: Scene, count: int) -> Iterator[str]:
    """Wait until N events are stored, the journals empty, and all records committed; yields the rest on a timeout."""
    left: tuple[object, ...] = ()
    changed_at = time.monotonic()
    while time.monotonic() - changed_at < STILL_SECONDS:
        now = _left(scene, count)
        if now == (0, 0, 0):
            return
        if now != left:
            left, changed_at = now, time.monotonic()
        scene.restart_dead()
        time.sleep(1)
    stored, waiting, lag = left
    yield f"after {STILL_SECONDS:g} s without progress: {stored} events not stored, {waiting} in journals, lag {lag}"


def _left(scene: Scene, count: int) -> tuple[object, ...]:
    stored = scene.stored(patience=60)
    try:
        waiting: object = scene.in_journals()
        environ = scene.pipeline.environ
        offsets = group_offsets(scene.pipeline.kafka, scene.pipeline.kafka.topic, environ["KAFKA_GROUP_ID"])
        lag: object = sum(one.end - (one.committed or 0) for one in offsets.values())
    except (requests.RequestException, PulseError, KafkaError) as error:
        waiting = lag = type(error).__name__
    return None if stored is None else max(0, count - stored), waiting, lag


def faults(scene: Scene, history: History, since: datetime) -> Iterator[str]:
    """A line for each fault. Stops the consumers, and exports the remaining events."""
    yield from history.faults
    yield from scene.findings
    yield from _stored(scene, history.accepted)
    yield from _in_order(scene, history.accepted)
    with closing(KafkaReader(scene.pipeline.kafka, scene.pipeline.kafka.dlq_topic)) as reader:
        if letters := list(reader.read()):
            yield f"{len(letters)} dead letters, the first with {letters[0].headers}"
    for name in ("consumer-1", "consumer-2"):
        # The consumer commits all stored events when it stops.
        scene.parts[name].terminate()
        if not scene.parts[name].end(60):
            yield f"{name} did not stop within 60 s"
    yield from _exported(scene, history.accepted, since)
    for name, log in scene.logs():
        if "Traceback" in log:
            yield f"{name}'s log has a traceback: {log[log.index('Traceback') :][:2000]}"


def _stored(scene: Scene, accepted: dict[str, Sent]) -> Iterator[str]:
    with scene.pipeline.events() as events:
        found = list(events.find({}, {"event_id": 1, "customer_id": 1, "properties.number": 1}))
    yield from compared("stored", Counter(one["event_id"] for one in found), accepted)
    for one in found:
        sent = accepted.get(one["event_id"])
        if sent and (one["customer_id"], one["properties"]["number"]) != (sent.customer, sent.number):
            yield f"{one['event_id']} is stored with the contents of another event"


def compared(place: str, found: Counter[str], accepted: dict[str, Sent]) -> Iterator[str]:
    """A line for each fault of the ids found in a place."""
    missing = sorted(accepted.keys() - found.keys())
    unknown = sorted(found.keys() - accepted.keys())
    twice = [event_id for event_id, times in found.items() if times > 1]
    for ids, what in (
        (missing, f"accepted and not {place}"),
        (twice, f"{place} more than once"),
        (unknown, f"{place} and never accepted"),
    ):
        if ids:
            yield f"{len(ids)} events are {what}: {', '.join(ids[:5])}"


def _in_order(scene: Scene, accepted: dict[str, Sent]) -> Iterator[str]:
    try:
        arrived = in_kafka(scene.pipeline.kafka, len(accepted))
    except AssertionError as error:
        yield str(error)
        return
    yield from out_of_order(arrived, accepted)


def out_of_order(arrived: dict[str, list[int]], accepted: dict[str, Sent]) -> Iterator[str]:
    """A line for each event out of order; an API keeps the order of a customer's events on one connection. `arrived`:
    for each customer, the numbers of the events in order of first arrival.
    """
    connections = {(sent.customer, sent.number): sent.connection for sent in accepted.values()}
    for customer, numbers in arrived.items():
        last: dict[int, int] = {}
        for number in numbers:
            connection = connections.get((customer, number), 0)
            if number < last.get(connection, -1):
                yield f"{customer}: event {number} came after {last[connection]} of the same connection {connection}"
            last[connection] = number


def _exported(scene: Scene, accepted: dict[str, Sent], since: datetime) -> Iterator[str]:
    # The last exporter may still run.
    scene.parts["exporter"].end(120)
    yield from _run(scene, "last-export", "ops.export", "run", says="")
    found: Counter[str] = Counter()
    for file in scene.files.glob("events/*/*.parquet"):
        found.update(pq.ParquetFile(file).read(["event_id"])["event_id"].to_pylist())
    yield from compared("exported", found, accepted)
    day = since.date()
    while day <= datetime.now(UTC).date():
        yield from _run(scene, f"reconcile-{day}", "ops.reconcile", "--day", f"{day}", says="Nothing is missing.")
        day += timedelta(days=1)


def _run(scene: Scene, name: str, *command: str, says: str) -> Iterator[str]:
    process = scene.exporter(name, *command)
    process.start()
    assert process.child is not None
    if process.child.wait(EXPORT_SECONDS) != 0 or says not in process.output():
        yield f"{' '.join(command)} exited with {process.child.returncode}: {process.output()[-2000:]}"
