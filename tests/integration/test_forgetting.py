"""Forgetting on a server that speaks MongoDB's protocol: the consumer's list, the tool, and its command."""

import json
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pymongo
import pytest
from click.testing import CliRunner, Result

from common.event_json import encode
from common.kafka import KafkaReader, KafkaSender, ReceivedRecord, Record
from consumer import customer_data
from consumer.customer_data import CustomerData
from consumer.forget import Stores, cli
from consumer.forgetting import Forgetting, kept_in_kafka
from consumer.forgotten import Documents, MongoForgotten
from consumer.writer import LETTERS, MongoWriter
from tests.contracts import document, fresh_name
from tests.servers import KafkaServer, MongoServer

BEFORE = datetime(2026, 1, 31, 12, tzinfo=UTC)
LATER = datetime.max.replace(tzinfo=UTC)


@pytest.fixture
def writer(mongo: MongoServer) -> Iterator[MongoWriter]:
    writer = MongoWriter(mongo.settings())
    writer.ensure_indexes()
    yield writer
    writer.close()


@pytest.fixture
def events(writer: MongoWriter) -> Documents:
    return writer.events


@pytest.fixture
def forgetting(events: Documents) -> Forgetting:
    return Forgetting(events, sleep=lambda _: None, clock=iter(range(0, 10_000, 2)).__next__)


def forget(forgetting: Forgetting, *ids: str) -> None:
    forgetting.begin(ids)
    customers = forgetting.unfinished()
    forgetting.delete(customers)
    forgetting.wait()
    forgetting.finish(customers, [])


def now() -> datetime:
    return datetime.now(UTC)


def test_only_events_received_before_the_forgetting_are_left_out(events: Documents, forgetting: Forgetting) -> None:
    forget(forgetting, "alice")
    ours = [document("a"), document("b", customer_id="ben"), document("c", received_at=now() + timedelta(seconds=1))]
    assert MongoForgotten(events).leave_out(ours) == {0}


@pytest.mark.parametrize("name", ["customer_id", "user_id", "anonymous_id", "previous_id"])
def test_a_customer_is_found_by_each_id_of_an_event(
    writer: MongoWriter, events: Documents, forgetting: Forgetting, name: str
) -> None:
    ours = {"customer_id": "x", name: "alice"}
    writer.write([document("a", **ours), document("b", customer_id="ben", group_id="alice")])
    forget(forgetting, "alice")
    assert [event["event_id"] for event in events.find()] == ["b"]
    assert MongoForgotten(events).leave_out([document("a", **ours)]) == {0}


def test_events_that_an_earlier_attempt_has_stored_are_deleted(
    writer: MongoWriter, events: Documents, forgetting: Forgetting
) -> None:
    forget(forgetting, "alice")
    writer.write([document("a"), document("b", customer_id="ben")])
    # Another customer's event `b` is stored under the id of alice's event.
    assert MongoForgotten(events).leave_out([document("a"), document("b")]) == {0, 1}
    assert [event["event_id"] for event in events.find()] == ["b"]


def test_a_consumer_learns_of_a_forgetting_within_a_second(events: Documents, forgetting: Forgetting) -> None:
    seconds = 0.0
    forgotten = MongoForgotten(events, clock=lambda: seconds)
    assert forgotten.leave_out([document("a")]) == set()
    forget(forgetting, "alice")
    assert forgotten.leave_out([document("a")]) == set()
    seconds = 1.0
    assert forgotten.leave_out([document("a")]) == {0}


def test_a_customer_can_be_forgotten_again(writer: MongoWriter, events: Documents, forgetting: Forgetting) -> None:
    forget(forgetting, "alice")
    # A running consumer learns of the second forgetting, too.
    forgotten = MongoForgotten(events)
    event = document("a", received_at=now())
    assert forgotten.leave_out([event]) == set()
    time.sleep(1.1)
    forget(forgetting, "alice")
    assert forgotten.leave_out([event]) == {0}


def test_the_record_of_a_finished_forgetting_has_no_id(
    writer: MongoWriter, events: Documents, forgetting: Forgetting
) -> None:
    writer.write([document("a"), document("b")])
    forgetting.begin(["alice"])
    assert forgetting.unfinished().keys() == {"alice"}
    forget(forgetting, "alice")
    record = forgetting.record_of("alice") or {}
    assert (record["state"], record["events"]) == ("done", 2)
    assert "alice" not in str(list(events.database[f"{events.name}.forgotten"].find()))
    assert forgetting.unfinished() == {}


@pytest.mark.parametrize(
    ("key", "value", "gone"),
    [
        (b"alice", b"no event", True),
        (b"ben", json.dumps({"user_id": "alice"}).encode(), True),
        (b"ben", b"alice", False),
        (b"alice", json.dumps({"received_at": "2100-01-01T00:00:00Z"}).encode(), False),
        (None, None, False),
    ],
)
def test_a_letter_is_deleted_by_its_key_or_the_ids_in_it(
    writer: MongoWriter, forgetting: Forgetting, key: bytes | None, value: bytes | None, *, gone: bool
) -> None:
    events = writer.events
    parts = {name: part and b64encode(part).decode() for name, part in (("key", key), ("value", value))}
    writer.keep_letter("events-0-7@1000", json.dumps({**parts, "headers": []}).encode())
    forget(forgetting, "alice")
    assert events.database[events.name + LETTERS].count_documents({}) == (not gone)
    record = ReceivedRecord(0, 7, 1000, key, value)
    assert MongoForgotten(events).leave_out_records([record]) == ({0} if gone else set())


def test_an_incomplete_letter_is_deleted_by_its_key(
    writer: MongoWriter, events: Documents, forgetting: Forgetting
) -> None:
    writer.keep_letter("events-0-7@1000", b'{"key": "YWxpY2U=", "value": "half')
    forget(forgetting, "alice")
    assert events.database[events.name + LETTERS].count_documents({}) == 0


def test_other_ids_in_deleted_events_are_reported_and_their_other_events_stay(
    writer: MongoWriter, events: Documents, forgetting: Forgetting
) -> None:
    writer.write([document("a", anonymous_id="x"), document("b", customer_id="x", anonymous_id="x")])
    forgetting.begin(["alice"])
    found = forgetting.delete(forgetting.unfinished())
    assert (found.events, found.beside) == ({"alice": 1}, {"x": 1})
    assert [event["event_id"] for event in events.find()] == ["b"]


def test_more_customers_are_deleted_than_fit_into_a_query(
    writer: MongoWriter, events: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(customer_data, "_MOST_IDS", 10)
    writer.write([document(str(number), customer_id=str(number)) for number in range(25)])
    found = CustomerData(events).delete({str(number): LATER for number in range(25)}, lambda _: None)
    assert found.events.total() == 25
    assert events.count_documents({}) == 0


class TestCommand:
    @pytest.fixture
    def stores(self, kafka: KafkaServer, events: Documents, forgetting: Forgetting) -> Stores:
        settings = kafka.create_topics(fresh_name("events"))
        return Stores(
            events,
            settings,
            lambda: KafkaReader(settings, settings.dlq_topic),
            lambda: kept_in_kafka(settings, now()),
            forgetting,
        )

    @staticmethod
    def run(stores: Stores, *arguments: str, stdin: str = "") -> Result:
        return CliRunner().invoke(cli, arguments, obj=stores, input=stdin)

    def test_it_forgets_and_reports_the_data_that_it_cannot_delete(self, stores: Stores, writer: MongoWriter) -> None:
        writer.write([document("a"), document("b", customer_id="ben"), document("c", anonymous_id="x")])
        result = self.run(stores, "alice")
        assert result.exit_code == 0, result.output
        assert "Forgotten: 1 customers. Deleted in MongoDB: 2 events and 0 dead letters." in result.output
        assert f"Kafka deletes their records in {stores.kafka.topic} by" in result.output
        assert "(after 7 days of retention and up to 7 days until" in result.output
        assert "(after 30 days of retention and up to 7 days until" in result.output
        assert "backups of MongoDB" in result.output
        assert "1 of these events also name x" in result.output
        assert [event["event_id"] for event in stores.events.find()] == ["b"]

    def test_it_continues_an_interrupted_run(self, stores: Stores, writer: MongoWriter) -> None:
        writer.write([document("a")])
        stores.forgetting.begin(["alice"])
        assert self.run(stores).exit_code == 0
        assert list(stores.events.find()) == []
        again = self.run(stores)
        assert again.exit_code == 2
        assert "there is no interrupted run" in again.output

    def test_it_forgets_without_kafka_and_reports_that(self, stores: Stores, writer: MongoWriter) -> None:
        def away() -> Any:
            raise OSError("away")

        writer.write([document("a")])
        result = self.run(Stores(stores.events, stores.kafka, stores.open_letters, away, stores.forgetting), "alice")
        assert result.exit_code == 0, result.output
        assert "Kafka did not tell how long" in result.output

    def test_it_shows_all_stored_data_of_a_customer(self, stores: Stores, writer: MongoWriter) -> None:
        writer.write([document("a", properties={"n": 2**63 - 1}), document("b", customer_id="ben")])
        writer.keep_letter("events-0-7@1000", b'{"key": "YWxpY2U=", "value": "aGFsZg==", "headers": []}')
        with closing(KafkaSender(stores.kafka, stores.kafka.dlq_topic)) as sender:
            sender.send([Record(b"alice", b"poison"), Record(b"ben", b"poison"), Record(b"x", encode(document("d")))])
        result = self.run(stores, "--show", "alice")
        assert result.exit_code == 0, result.output
        shown = [json.loads(line) for line in result.stdout.splitlines()]
        assert [next(iter(one)) for one in shown] == [
            "event",
            "dead_letter_in_MongoDB",
            "dead_letter_in_Kafka",
            "dead_letter_in_Kafka",
        ]
        assert shown[0]["event"]["properties"] == {"n": 2**63 - 1}
        assert shown[0]["event"]["received_at"] == "2026-01-31T12:00:00.000000Z"
        assert shown[1]["dead_letter_in_MongoDB"]["value"] == "half"
        assert "1 events and 1 dead letters in MongoDB, 2 dead letters in Kafka." in result.stderr
        assert stores.events.count_documents({}) == 2

    def test_a_dry_run_deletes_nothing(self, stores: Stores, writer: MongoWriter) -> None:
        writer.write([document("a"), document("b")])
        result = self.run(stores, "--dry-run", "-", stdin="alice\n\nben\n")
        assert "alice: 2 events and 0 dead letters" in result.output
        assert "ben: 0 events and 0 dead letters" in result.output
        assert stores.events.count_documents({}) == 2
        assert stores.forgetting.record_of("alice") is None

    def test_clocks_that_differ_are_refused(self, events: Documents, stores: Stores) -> None:
        wrong = Forgetting(events, now=lambda: now() + timedelta(hours=1))
        result = self.run(Stores(events, stores.kafka, stores.open_letters, stores.kept, wrong), "alice")
        assert result.exit_code == 1
        assert "set the clocks first" in result.output
        assert wrong.unfinished() == {}

    def test_the_error_about_an_unreachable_mongodb_is_one_line(self, stores: Stores) -> None:
        client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(
            "mongodb://127.0.0.1:1", serverSelectionTimeoutMS=200
        )
        with client:
            events = client["test"]["events"]
            away = Stores(events, stores.kafka, stores.open_letters, stores.kept, Forgetting(events))
            result = self.run(away, "alice")
        assert result.exit_code == 1
        assert "Run the command again: it continues." in result.output
