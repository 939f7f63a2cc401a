"""Each event is in one file and in BigQuery once, if consumers and two exporters are killed at any moment.

EXPORT_KILLS sets more kills than the default.
"""

import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from common.event_json import encode
from common.kafka import KafkaSender, Record
from tests.cloud import Cloud
from tests.servers import KafkaServer, MongoServer, Pipeline, Process

KILLS = int(os.environ.get("EXPORT_KILLS", "3"))

pytestmark = pytest.mark.timeout(180 + 20 * KILLS)


class Scene:
    """The pipeline without its API, and exporters as processes."""

    def __init__(self, pipeline: Pipeline, folder: Path, cloud: Cloud) -> None:
        self.pipeline = pipeline
        self.cloud = cloud
        self.sender = KafkaSender(pipeline.kafka, pipeline.kafka.topic)
        self.produced: list[str] = []
        self.env = {
            **pipeline.environ,
            **cloud.env,
            "EXPORT_URL": cloud.bucket,
            "EXPORT_BIGQUERY_TABLE": "project.pulse.events",
            "EXPORT_MIN_AGE": "0s",
            "EXPORT_MAX_ROWS": "40",
        }
        self.exporters = [self.process(folder / f"exporter-{number}.log", "ops.export", "run") for number in range(2)]
        self.folder = folder

    def process(self, log: Path, module: str, *arguments: str) -> Process:
        return Process([sys.executable, "-m", module, *arguments], log, self.env)

    def run(self, module: str, *arguments: str) -> str:
        """Run a module to its end; returns its output."""
        process = self.process(self.folder / f"{module}-{len(list(self.folder.iterdir()))}.log", module, *arguments)
        process.start()
        assert process.child is not None
        assert process.child.wait(120) == 0, process.output()
        return process.output()

    def produce(self, count: int, *, again: int = 0) -> None:
        """Send N new events, and some earlier ones again."""
        numbers = range(len(self.produced), len(self.produced) + count)
        new = [f"event-{number}" for number in numbers]
        repeated = random.sample(self.produced, min(again, len(self.produced)))
        now = datetime.now(UTC)
        records = [
            Record(
                event_id.encode(),
                encode(
                    {
                        "event_id": event_id,
                        "customer_id": event_id,
                        "event_type": "click",
                        "properties": {"products": [{"price": 2**53 + 1}]},
                        "timestamp": now,
                        "received_at": now,
                    }
                ),
            )
            for event_id in new + repeated
        ]
        assert not any(self.sender.send(records))
        self.produced += new


@pytest.fixture
def scene(kafka: KafkaServer, mongo: MongoServer, cloud: Cloud, tmp_path: Path) -> Iterator[Scene]:
    pipeline = Pipeline(kafka, mongo, tmp_path)
    scene = Scene(pipeline, tmp_path, cloud)
    with closing(scene.sender):
        yield scene
    pipeline.kill()
    for exporter in scene.exporters:
        exporter.kill()


def test_each_event_is_exported_once_despite_kills(scene: Scene) -> None:
    scene.pipeline.consumer.start()
    scene.pipeline.wait_for_consumer()
    for exporter in scene.exporters:
        exporter.start()
    for number in range(KILLS):
        scene.produce(60, again=10)
        time.sleep(random.uniform(0.1, 2.5))
        exporter = scene.exporters[number % 2]
        exporter.kill()
        exporter.start()
        if number % 3 == 2:
            scene.pipeline.consumer.kill()
            scene.pipeline.consumer.start()
    scene.pipeline.wait_until_stored(len(scene.produced), timeout=120)
    for exporter in scene.exporters:
        assert exporter.child is not None
        exporter.child.wait(120)
    # The consumer commits all stored events when it stops.
    scene.pipeline.wait_for_consumer()
    scene.pipeline.consumer.stop()
    scene.run("ops.export", "run")

    print(f"{KILLS} kills of exporters, {KILLS // 3} of consumers: {len(scene.produced):,} events")  # noqa: T201, seen with -s
    assert Counter(row["event_id"] for row in scene.cloud.bigquery.rows) == Counter(scene.produced)
    assert {row["properties"] for row in scene.cloud.bigquery.rows} == {'{"products":[{"price":9007199254740993}]}'}
    said = scene.run("ops.reconcile", "--day", f"{datetime.now(UTC):%Y-%m-%d}")
    assert "Nothing is missing." in said
    assert "0 ranges planned" in scene.run("ops.export", "status")


@pytest.mark.long
def test_a_restored_day_is_stored_without_forgotten_customers_and_not_exported_again(scene: Scene) -> None:
    scene.pipeline.consumer.start()
    scene.pipeline.wait_for_consumer()
    scene.produce(20)
    scene.pipeline.wait_until_stored(20)
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    # The consumer commits all stored events when it stops.
    scene.pipeline.consumer.stop()
    scene.run("ops.export", "run")
    before = {document["event_id"]: document for document in scene.pipeline.documents()}
    with scene.pipeline.events() as events:
        events.delete_many({})
    process = scene.process(scene.folder / "missing.log", "ops.reconcile", "--day", day)
    process.start()
    assert process.child is not None
    process.child.wait(60)
    assert "20 are in files and no longer in MongoDB" in process.output()

    assert "20 events of" in scene.run("ops.restore", "--day", day)
    scene.pipeline.consumer.start()
    scene.pipeline.wait_until_stored(20)
    scene.pipeline.consumer.stop()
    after = {document["event_id"]: document for document in scene.pipeline.documents()}
    for documents in (before, after):
        for document in documents.values():
            del document["_id"], document["processed_at"]
    assert after == before
    scene.run("ops.export", "run")
    assert Counter(row["event_id"] for row in scene.cloud.bigquery.rows) == Counter(scene.produced)

    # Each event has its own customer. The files have the events of two forgotten customers; the restore skips them.
    said = scene.run("tests.faults.hurried", "consumer.forget", "event-1", "event-2")
    assert "`python -m ops.export run` deletes them there" in said
    scene.run("ops.restore", "--day", day)
    scene.pipeline.consumer.start()
    scene.pipeline.wait_for_consumer()
    scene.pipeline.consumer.stop()
    left = sorted(set(scene.produced) - {"event-1", "event-2"})
    assert sorted(document["event_id"] for document in scene.pipeline.documents()) == left
    assert "2 events deleted from" in scene.run("ops.export", "run")
    assert sorted(row["event_id"] for row in scene.cloud.bigquery.rows) == left
    said = scene.run("ops.reconcile", "--day", day)
    assert "18 in exported files" in said
    assert "Nothing is missing." in said
