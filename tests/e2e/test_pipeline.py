"""From HTTP to MongoDB with real processes, which are stopped and started again under load."""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

import pytest
import requests

from common.events import EVENT_TYPES
from common.kafka import KafkaSource, ReceivedRecord
from tests.clients import Client
from tests.contracts import Recorder, fresh_name, poll_until
from tests.servers import KafkaServer, MongoServer, Pipeline
from tests.waiting import eventually

CUSTOMERS = [f"customer-{number}" for number in range(4)]
EVENTS_EACH = 500


class Run(NamedTuple):
    """A pipeline that has stored all events of its clients, and the exit codes of its first processes."""

    pipeline: Pipeline
    sent: dict[str, dict[str, Any]]
    exit_codes: list[int]


@pytest.fixture(scope="module")
def run(kafka: KafkaServer, mongo: MongoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    pipeline = Pipeline(kafka, mongo, tmp_path_factory.mktemp("pipeline"))
    pipeline.start()
    clients = [Client(pipeline.url, customer, EVENTS_EACH) for customer in CUSTOMERS]
    for client in clients:
        client.start()
    eventually(lambda: sum(client.accepted for client in clients) > 600, what="600 events accepted")
    exit_codes = [pipeline.api.stop(), pipeline.consumer.stop()]
    pipeline.start()
    for client in clients:
        client.join(60)
    sent = {event["event_id"]: event for client in clients for event in client.events}
    pipeline.wait_until_stored(len(sent))
    yield Run(pipeline, sent, exit_codes)
    pipeline.kill()


@pytest.fixture(scope="module")
def records(run: Run) -> list[ReceivedRecord]:
    """The records in Kafka, which has each event at least once."""
    source = KafkaSource(run.pipeline.kafka, fresh_name("reader"))
    source.connect()
    source.subscribe(Recorder())
    records = poll_until(source, len(run.sent))
    while more := source.poll(1.0):
        records += more
    source.close()
    return records


def test_sigterm_ends_the_processes_cleanly(run: Run) -> None:
    assert run.exit_codes == [0, 0]


def test_each_event_is_stored_exactly_once(run: Run) -> None:
    stored = [document["event_id"] for document in run.pipeline.documents()]
    assert sorted(stored) == sorted(run.sent)


def test_events_are_stored_as_they_were_sent(run: Run) -> None:
    for document in run.pipeline.documents():
        sent = run.sent[document["event_id"]]
        for name in ("customer_id", "event_type", "properties", "context"):
            assert document[name] == sent[name]
        # BSON dates have milliseconds, like the client's times.
        assert document["timestamp"] == datetime.fromisoformat(sent["timestamp"])


def test_each_document_has_its_times_of_receipt_and_processing(run: Run) -> None:
    assert all(document["received_at"] <= document["processed_at"] for document in run.pipeline.documents())


def test_a_customers_events_reach_kafka_in_the_order_of_sending(run: Run, records: list[ReceivedRecord]) -> None:
    for customer in CUSTOMERS:
        numbers = [
            json.loads(record.value or b"")["properties"]["number"]
            for record in records
            if record.key == customer.encode()
        ]
        assert list(dict.fromkeys(numbers)) == list(range(EVENTS_EACH))


def test_a_customers_events_are_in_one_partition(run: Run, records: list[ReceivedRecord]) -> None:
    places = {(record.key, record.partition) for record in records}
    assert len(places) == len(CUSTOMERS)


def test_health_is_ok_when_all_parts_work(run: Run) -> None:
    assert requests.get(f"{run.pipeline.url}/health", timeout=5).json()["status"] == "ok"


def test_metrics_are_summed_over_the_workers(run: Run) -> None:
    """All workers answer the same."""
    answers = {
        line
        for _ in range(10)
        for line in requests.get(f"{run.pipeline.url}/metrics", timeout=5).text.splitlines()
        if line.startswith("pulse_api_events_accepted_total")
    }
    assert len(answers) == len(EVENT_TYPES)


def test_no_event_waits_when_all_are_stored(run: Run) -> None:
    assert "pulse_api_queue_depth 0.0" in requests.get(f"{run.pipeline.url}/metrics", timeout=5).text


def test_the_logs_have_no_contents(run: Run) -> None:
    logs = run.pipeline.api.output() + run.pipeline.consumer.output()
    assert "customer-" not in logs


def test_the_logs_have_one_json_object_per_line(run: Run) -> None:
    logs = run.pipeline.api.output() + run.pipeline.consumer.output()
    assert all(json.loads(line)["message"] for line in logs.splitlines())
