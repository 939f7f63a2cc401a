"""The exporter on servers that speak the protocols of MongoDB, Cloud Storage, S3 and BigQuery."""

import io
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pyarrow.parquet as pq
import pymongo
import pytest
import requests
from moto.server import ThreadedMotoServer

from common import dead_letter_headers
from common.errors import ExportError
from common.event_json import encode
from common.kafka import GroupOffsets, KafkaSender, Record, group_offsets
from common.settings import MongoSettings
from consumer.forgetting import Forgetting
from ops.export import exporter
from ops.export.consumed import missing_event
from ops.export.destination import Destination
from ops.export.load import BigQuery
from ops.export.mongo import MongoStore
from ops.local.ports import free_port
from tests.cloud import Cloud
from tests.contracts import document, fresh_name
from tests.exports import ExportsContract, Silent, stored_event
from tests.servers import KafkaServer, MongoServer


@pytest.fixture
def settings(mongo: MongoServer) -> MongoSettings:
    return mongo.settings()


@pytest.fixture
def store(settings: MongoSettings) -> Iterator[MongoStore]:
    store = MongoStore(settings)
    store.ensure_index()
    yield store
    store.close()


@pytest.fixture
def put(settings: MongoSettings) -> Iterator[Callable[..., object]]:
    with pymongo.MongoClient[dict[str, Any]](settings.uri) as client:
        events = client[settings.database][settings.collection]
        yield lambda *places: events.insert_many([stored_event(*place) for place in places])


class TestMongoStore(ExportsContract):
    pass


def parts_of(store: MongoStore, cloud: Cloud, committed: int) -> exporter.Parts:
    """The parts of an exporter of a topic with one partition."""
    return exporter.Parts(
        topic="topic",
        store=store,
        destination=Destination(cloud.bucket),
        warehouse=BigQuery("project.pulse.events", sleep=lambda _: None),
        offsets=lambda: {0: GroupOffsets(0, committed, committed)},
        missing_event=lambda *_: None,
        max_rows=4,
        min_age=0.0,
    )


def put_ten(put: Callable[..., None]) -> None:
    put(*((number, (0, number), f"2026-01-{30 + number % 2}") for number in range(10)))


def test_loads_the_files_that_it_wrote_to_cloud_storage(
    store: MongoStore, put: Callable[..., None], cloud: Cloud
) -> None:
    put_ten(put)
    outcome = exporter.run(parts_of(store, cloud, 10), Silent())
    assert outcome.problems == []
    assert sorted(row["event_id"] for row in cloud.bigquery.rows) == [f"event-{number}" for number in range(10)]
    # One job per day.
    assert len(cloud.bigquery.jobs) == 2
    assert exporter.run(parts_of(store, cloud, 10), Silent()).problems == []
    assert len(cloud.bigquery.rows) == 10
    assert [one.first for one in store.in_state("topic", "loaded")] == [0, 4, 8]


def test_a_consumed_event_that_is_nowhere_counts_as_missing(
    kafka: KafkaServer, store: MongoStore, settings: MongoSettings
) -> None:
    topics = kafka.create_topics(fresh_name("events"))
    now = datetime.now(UTC)
    named = [document(name, customer_id="alice", received_at=now) for name in ("a", "b", "c")]
    with closing(KafkaSender(topics, topics.topic)) as sender:
        sender.send([Record(b"alice", b"no event"), *(Record(b"alice", encode(event)) for event in named)])
    (partition, at), *_ = [(number, at) for number, at in group_offsets(topics, topics.topic, "any").items() if at.end]
    assert missing_event(topics, store, partition, range(1)) is None
    assert missing_event(topics, store, partition, range(at.end)) == "a"

    # A dead letter does not count as missing.
    headers = [
        (dead_letter_headers.SOURCE_TOPIC, topics.topic.encode()),
        (dead_letter_headers.SOURCE_PARTITION, b"%d" % partition),
        (dead_letter_headers.SOURCE_OFFSET, b"1"),
    ]
    assert missing_event(topics, store, partition, range(2)) == "a"
    with closing(KafkaSender(topics, topics.dlq_topic)) as sender:
        sender.send([Record(b"alice", b"", tuple(headers))])
    assert missing_event(topics, store, partition, range(2)) is None
    with pymongo.MongoClient[dict[str, Any]](settings.uri) as client:
        events = client[settings.database][settings.collection]
        events.insert_one({"event_id": "c"})
        assert missing_event(topics, store, partition, range(at.end)) is None
        events.delete_many({})
        assert missing_event(topics, store, partition, range(at.end)) == "b"
        # Nor do events of a forgotten customer, and events older than the TTL.
        forgetting = Forgetting(events)
        forgetting.begin(["alice"])
        forgetting.delete(forgetting.unfinished())
        assert missing_event(topics, store, partition, range(at.end)) is None
        events.database[f"{events.name}.forgotten"].drop()
        assert missing_event(topics, store, partition, range(at.end)) == "b"
        events.create_index("received_at", expireAfterSeconds=0)
        assert missing_event(topics, store, partition, range(at.end)) is None


def test_waits_for_a_slow_job_and_for_one_whose_answer_was_lost(
    store: MongoStore, put: Callable[..., None], cloud: Cloud
) -> None:
    put_ten(put)
    cloud.bigquery.asked_until_done = 3
    cloud.bigquery.lost_answers = 1
    assert exporter.run(parts_of(store, cloud, 10), Silent()).problems == []
    assert cloud.bigquery.submissions == 3
    assert len(cloud.bigquery.rows) == 10


def test_the_next_run_loads_the_files_of_a_failed_job(
    store: MongoStore, put: Callable[..., None], cloud: Cloud
) -> None:
    put_ten(put)
    cloud.bigquery.fails = 1
    outcome = exporter.run(parts_of(store, cloud, 10), Silent())
    assert len(outcome.problems) == 1
    assert "Quota exceeded" in outcome.problems[0]
    assert len(cloud.bigquery.rows) == 5
    assert exporter.run(parts_of(store, cloud, 10), Silent()).problems == []
    assert sorted(row["event_id"] for row in cloud.bigquery.rows) == [f"event-{number}" for number in range(10)]


def test_a_job_id_that_loads_other_files_is_an_error(store: MongoStore, put: Callable[..., None], cloud: Cloud) -> None:
    put_ten(put)
    parts = parts_of(store, cloud, 10)
    assert parts.warehouse is not None
    exporter.run(parts._replace(warehouse=None), Silent())
    other = Destination(f"{cloud.bucket}/events/day=2026-01-30")
    (day, path), *_ = [(file.day, file.path) for one in store.in_state("topic", "written") for file in one.files]
    assert other.url_of("x") != parts.destination.url_of("x")
    parts.warehouse.run("pulse-export-of-another", [parts.destination.url_of(path)])
    with pytest.raises(ExportError, match="loads other files"):
        parts.warehouse.run("pulse-export-of-another", [other.url_of(path)])
    assert day


def test_a_missing_table_is_an_error(cloud: Cloud) -> None:
    with pytest.raises(ExportError, match=r"project\.pulse\.missing cannot be used"):
        BigQuery("project.pulse.missing")


def test_a_missing_bucket_fails_only_this_run(store: MongoStore, put: Callable[..., None], cloud: Cloud) -> None:
    put_ten(put)
    parts = parts_of(store, cloud, 10)
    missing = parts._replace(destination=Destination("gs://no-such-bucket"))
    assert exporter.run(missing, Silent()).problems
    assert exporter.run(parts, Silent()).problems == []
    assert len(cloud.bigquery.rows) == 10


def test_finishes_the_forgetting_that_the_tool_began(
    store: MongoStore, settings: MongoSettings, put: Callable[..., None], cloud: Cloud
) -> None:
    put_ten(put)
    parts = parts_of(store, cloud, 10)
    exporter.run(parts, Silent())
    with pymongo.MongoClient[dict[str, Any]](settings.uri) as client:
        forgetting = Forgetting(client[settings.database][settings.collection], sleep=lambda _: None)
        forgetting.begin(["customer-1", "customer-2"])
        customers = forgetting.unfinished()
        forgetting.delete(customers)
        assert forgetting.finish(customers, [])
        assert (forgetting.record_of("customer-1") or {})["state"] == "in_exports"
        assert len(store.forgotten()) == 2

        outcome = exporter.run(parts, Silent())
        assert outcome.problems == []
        assert (outcome.forgotten.rows, outcome.forgotten.bigquery_rows) == (4, 4)
        left = sorted(f"event-{number}" for number in range(10) if number % 5 not in (1, 2))
        assert sorted(row["event_id"] for row in cloud.bigquery.rows) == left
        files = [file for one in store.all_ranges() for file in one.files]
        assert sum(len(pq.ParquetFile(io.BytesIO(cloud.read(f"{file.url}/{file.path}"))).read()) for file in files) == 6
        record = forgetting.record_of("customer-1") or {}
        assert (record["state"], "customer_id" in record) == ("done", False)
        assert exporter.run(parts, Silent()).forgotten.files == 0


def test_writes_to_s3(
    store: MongoStore, put: Callable[..., None], cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ThreadedMotoServer("127.0.0.1", free_port(), verbose=False)
    server.start()
    try:
        url = "http://{}:{}".format(*server.get_host_and_port())
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "some")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        requests.put(f"{url}/bucket", timeout=10).raise_for_status()
        put_ten(put)
        destination = Destination("s3://bucket/prefix")
        parts = parts_of(store, cloud, 10)._replace(destination=destination, warehouse=None)
        assert exporter.run(parts, Silent()).problems == []
        ids = []
        for one in store.in_state("topic", "written"):
            for file in one.files:
                with destination.open(file.path) as content:
                    ids += pq.ParquetFile(content).read()["event_id"].to_pylist()
        assert sorted(ids) == [f"event-{number}" for number in range(10)]
    finally:
        server.stop()
