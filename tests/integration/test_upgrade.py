"""During an upgrade, API and consumer have different versions, and each stores the events of the other.

The other version is the first one, from this repository's history.
"""

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from common.kafka import KafkaSender, ReceivedRecord, Record
from tests import ROOT
from tests.apps import build_app, take_accepted
from tests.fakes import FakeBroker
from tests.integration.test_dlq import bury, command
from tests.servers import KafkaServer, MongoServer, Pipeline
from tests.waiting import eventually

FIRST_VERSION = "9ea956aa05f9"
ACCEPT = """
import sys
from datetime import UTC, datetime
from api.intake import accept_event
for line in sys.stdin:
    print(accept_event(line.encode(), datetime.now(UTC)).value.decode())
"""
LEAST = {"customer_id": "alice", "event_type": "click"}
OLD_EVENTS: list[dict[str, Any]] = [
    {**LEAST, "event_id": "old-1"},
    {
        **LEAST,
        "event_id": "old-2",
        "timestamp": "2026-01-31T12:00:00.000001Z",
        "properties": {"text": "ä\u2028", "int": 2**63 - 1, "float": 1.0, "yes": True, "a.b": "dot"},
        "context": {"device": "phone", "session_id": "s", "ip": "192.0.2.7", "user_agent": "x"},
    },
]
NEW_FLAT_EVENTS: list[dict[str, Any]] = [
    {**LEAST, "event_id": "new-1"},
    {
        **LEAST,
        "event_id": "new-2",
        "event_name": "Order Completed",
        "user_id": "alice",
        "anonymous_id": "a-7f3c",
        "previous_id": "a-7f3b",
        "group_id": "acme",
        "timestamp": "2026-01-31T12:00:00Z",
        "properties": {"price": 12.75},
        "context": {"device": "phone", "locale": "de"},
        "traits": {"plan": "pro"},
    },
]


@pytest.fixture(scope="module")
def first_version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the first version; skips if its commit is missing, as in a shallow clone."""
    archive = subprocess.run(["git", "archive", FIRST_VERSION], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip(f"the first version's commit is missing: {archive.stderr.decode(errors='replace').strip()}")
    folder = tmp_path_factory.mktemp("first-version")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def old_records(first_version: Path) -> list[Record]:
    """The records that the first version's API writes for its clients' events."""
    lines = "".join(json.dumps(event) + "\n" for event in OLD_EVENTS)
    done = subprocess.run(
        [sys.executable, "-c", ACCEPT], cwd=first_version, input=lines, capture_output=True, text=True, check=True
    )
    return [Record(b"alice", value.encode()) for value in done.stdout.split("\n") if value]


@pytest.fixture
def pipeline(kafka: KafkaServer, mongo: MongoServer, tmp_path: Path) -> Iterator[Pipeline]:
    """A pipeline, not started, of which the tests use only the consumer."""
    pipeline = Pipeline(kafka, mongo, tmp_path)
    yield pipeline
    pipeline.kill()


def send(pipeline: Pipeline, topic: str, records: list[Record]) -> None:
    with closing(KafkaSender(pipeline.kafka, topic)) as sender:
        assert sender.send(records) == [None] * len(records)


def stored_without_times(pipeline: Pipeline, *ours: str) -> list[dict[str, Any]]:
    """The stored events in the order of their ids, without the added fields."""
    added = {"_id", "received_at", "processed_at", "timestamp", *ours}
    documents = sorted(pipeline.documents(), key=lambda document: str(document["event_id"]))
    return [{name: value for name, value in document.items() if name not in added} for document in documents]


def without_times(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in event.items() if name != "timestamp"} for event in events]


def test_events_that_the_first_version_accepted_are_stored(pipeline: Pipeline, old_records: list[Record]) -> None:
    pipeline.consumer.start()
    send(pipeline, pipeline.kafka.topic, old_records)
    pipeline.wait_until_stored(len(OLD_EVENTS))
    assert stored_without_times(pipeline, "kafka") == without_times(OLD_EVENTS)
    assert all(document["kafka"]["offset"] >= 0 for document in pipeline.documents())


def test_replayed_dead_letters_of_the_first_version_are_stored(pipeline: Pipeline, old_records: list[Record]) -> None:
    bury(pipeline.kafka, [ReceivedRecord(0, n, 0, record.key, record.value) for n, record in enumerate(old_records)])
    pipeline.consumer.start()
    assert command(pipeline.kafka, "replay").returncode == 0
    pipeline.wait_until_stored(len(OLD_EVENTS))
    assert stored_without_times(pipeline, "kafka") == without_times(OLD_EVENTS)


def test_the_first_version_stores_flat_events_of_this_version(
    pipeline: Pipeline, first_version: Path, tmp_path: Path
) -> None:
    app = build_app(FakeBroker())
    for event in NEW_FLAT_EVENTS:
        assert app.test_client().post("/api/v1/track", json=event).status_code == 202
    send(pipeline, pipeline.kafka.topic, [event.record for event in take_accepted(app)])
    log = (tmp_path / "first-version.log").open("wb")
    with (
        log,
        subprocess.Popen(
            [sys.executable, "-m", "consumer"], cwd=first_version, env=pipeline.consumer.env, stdout=log, stderr=log
        ) as consumer,
    ):
        try:
            pipeline.wait_until_stored(len(NEW_FLAT_EVENTS))
        finally:
            consumer.kill()
    assert stored_without_times(pipeline, "protocol") == without_times(NEW_FLAT_EVENTS)


def test_nested_events_are_dead_letters_of_the_first_version_until_this_consumer_replays_them(
    pipeline: Pipeline, first_version: Path, tmp_path: Path
) -> None:
    app = build_app(FakeBroker())
    event = {**LEAST, "event_id": "nested", "properties": {"products": [{"sku": "mug-blue", "price": 12.75}]}}
    assert app.test_client().post("/api/v1/track", json=event).status_code == 202
    flat = {**LEAST, "event_id": "flat"}
    app.test_client().post("/api/v1/track", json=flat)
    send(pipeline, pipeline.kafka.topic, [event.record for event in take_accepted(app)])
    log = tmp_path / "first-version.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-m", "consumer"],
            cwd=first_version,
            env=pipeline.consumer.env,
            stdout=output,
            stderr=output,
        ) as consumer,
    ):
        try:
            eventually(lambda: "dead letters sent" in log.read_text(), 60, what="a dead letter of the first version")
        finally:
            consumer.terminate()
    pipeline.consumer.start()
    assert command(pipeline.kafka, "replay").returncode == 0
    pipeline.wait_until_stored(2)
    assert stored_without_times(pipeline, "protocol", "kafka") == [flat, event]
