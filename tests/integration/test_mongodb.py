"""The consumer's writer on a server that speaks MongoDB's protocol."""

import contextlib
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pymongo
import pytest
from pymongo.collection import Collection
from pymongo.errors import AutoReconnect, OperationFailure

from common.errors import IndexConflictError, StoreError
from common.settings import MongoSettings
from consumer import indexes as consumer_indexes
from consumer.writer import LETTERS, MongoWriter, Written
from ops.local.ports import free_port
from tests.contracts import WriterContract, document
from tests.servers import MongoServer
from tests.slow_builds import slow_builds
from tests.waiting import eventually


@pytest.fixture
def settings(mongo: MongoServer) -> MongoSettings:
    return mongo.settings()


@pytest.fixture
def events(settings: MongoSettings) -> Iterator[Collection[dict[str, Any]]]:
    with pymongo.MongoClient[dict[str, Any]](settings.uri, tz_aware=True) as client:
        yield client[settings.database][settings.collection]


@pytest.fixture
def writer(settings: MongoSettings) -> Iterator[MongoWriter]:
    writer = MongoWriter(settings)
    writer.ensure_indexes()
    writer.complete_indexes()
    yield writer
    writer.close()


class TestMongoWriter(WriterContract):
    @pytest.fixture
    def stored(self, events: Collection[dict[str, Any]]) -> Callable[[], dict[str, Any]]:
        return lambda: {found["event_id"]: found for found in events.find()}

    @pytest.fixture
    def letters(self, events: Collection[dict[str, Any]]) -> Callable[[], list[bytes]]:
        def read() -> list[bytes]:
            contents: dict[str, bytes] = defaultdict(bytes)
            for piece in events.database[events.name + LETTERS].find().sort({"letter": 1, "piece": 1}):
                contents[piece["letter"]] += piece["content"]
            return list(contents.values())

        return read


def test_stores_the_fields_unchanged_with_the_time_of_processing(
    writer: MongoWriter, events: Collection[dict[str, Any]]
) -> None:
    sent = document("a", properties={"n": 2**63 - 1, "f": 0.1, "b": True, "a.b": "x\0"}, context={"ip": "::1"})
    writer.write([sent])
    found = events.find_one() or {}
    assert found.pop("processed_at").tzinfo is not None
    del found["_id"]
    assert found == sent


def test_creates_the_indexes(writer: MongoWriter, events: Collection[dict[str, Any]]) -> None:
    indexes = events.index_information()
    assert indexes["event_id_1"]["unique"]
    assert indexes.keys() == {
        "_id_",
        "event_id_1",
        "customer_id_1_timestamp_-1",
        "event_type_1_timestamp_-1",
        "event_name_1_timestamp_-1",
        "kafka.partition_1_kafka.offset_1",
    }


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (
            "event_name_1_timestamp_-1",
            {"event_name": "Order Completed", "timestamp": {"$gte": datetime(2026, 1, 1, tzinfo=UTC)}},
        ),
        ("kafka.partition_1_kafka.offset_1", {"kafka.partition": 0, "kafka.offset": {"$gte": 0, "$lt": 9}}),
    ],
)
def test_a_partial_index_has_only_the_events_with_its_field(
    writer: MongoWriter, events: Collection[dict[str, Any]], name: str, wanted: dict[str, Any]
) -> None:
    named = document("a", event_name="Order Completed", kafka={"partition": 0, "offset": 7})
    writer.write([named, document("b"), document("c")])
    found = events.find(wanted)
    assert [event["event_id"] for event in found] == ["a"]
    plan = found.explain()["queryPlanner"]["winningPlan"]
    assert (plan["stage"], plan["inputStage"]["indexName"]) == ("FETCH", name)
    assert "partialFilterExpression" in events.index_information()[name]


def test_a_collection_of_the_first_version_gets_the_missing_indexes(
    settings: MongoSettings, events: Collection[dict[str, Any]]
) -> None:
    events.create_index("event_id", unique=True)
    events.insert_many([document("a"), document("b")])
    ensure_indexes(settings)
    assert len(events.index_information()) == 6
    with contextlib.closing(MongoWriter(settings)) as writer:
        assert writer.write([document("a"), document("c")]) == Written(1, 1)


def test_the_indexes_of_a_small_collection_are_one_line_in_the_log(
    settings: MongoSettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="consumer.indexes")
    ensure_indexes(settings)
    assert [record.message for record in caplog.records] == ["made the missing indexes"]
    ensure_indexes(settings)
    assert len(caplog.records) == 1


def test_each_index_of_a_large_collection_is_logged_when_it_begins(
    settings: MongoSettings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_indexes, "_MANY_DOCUMENTS", -1)
    caplog.set_level(logging.INFO, logger="consumer.indexes")
    ensure_indexes(settings)
    assert [record.message for record in caplog.records].count("making an index") == 5


def test_creating_the_indexes_again_changes_nothing(writer: MongoWriter, events: Collection[dict[str, Any]]) -> None:
    before = events.index_information()
    writer.ensure_indexes()
    writer.complete_indexes()
    assert events.index_information() == before


def test_events_are_stored_while_indexes_are_built(mongo: MongoServer) -> None:
    with slow_builds(mongo) as database:
        database.held = {"customer_id_1_timestamp_-1"}
        with contextlib.closing(MongoWriter(replace(mongo.settings(), uri=database.uri))) as writer:
            writer.ensure_indexes()
            building = threading.Thread(target=writer.complete_indexes)
            building.start()
            eventually(lambda: database.asked_for("customer_id_1_timestamp_-1"), what="the build")
            assert writer.write([document("a"), document("b")]) == Written(2, 0)
            assert writer.write([document("a")]) == Written(0, 1)
            database.released.set()
            building.join(30)
            assert not building.is_alive()


def test_the_build_of_an_index_may_take_days(mongo: MongoServer) -> None:
    """MongoDB aborts a build that takes longer than the client's timeout, so a large collection would never get it."""
    with slow_builds(mongo) as database:
        ensure_indexes(replace(mongo.settings(), uri=database.uri, ttl_days=30))
        assert len(database.builds) == 6
        days = [command["maxTimeMS"] / 1000 / 86_400 for command in database.builds]
        assert min(days) > 6


def test_a_consumer_waits_for_the_index_on_the_id_that_another_has_begun(mongo: MongoServer) -> None:
    """MongoDB lists an unfinished index like a finished one. Without it, each upsert would scan the collection."""
    with slow_builds(mongo) as database:
        settings = replace(mongo.settings(), uri=database.uri)
        ensure_indexes(settings)
        ensure_indexes(settings)
        assert database.asked_for("event_id_1") == 2
        assert database.asked_for("customer_id_1_timestamp_-1") == 1


def test_a_write_to_an_unreachable_database_fails_within_its_timeout() -> None:
    writer = MongoWriter(MongoSettings(f"mongodb://127.0.0.1:{free_port()}", "test", "events", None))
    started = time.monotonic()
    with pytest.raises(StoreError, match=r"^MongoDB did not confirm a write: .*Connection refused"):
        writer.write([document("a")])
    assert time.monotonic() - started < 20
    writer.close()


def test_a_refused_document_does_not_count_as_a_duplicate(
    writer: MongoWriter, events: Collection[dict[str, Any]]
) -> None:
    # A violation of this unique index has the code of a duplicate event, but is none.
    events.create_index("customer_id", unique=True)
    written = writer.write([document("a"), document("b"), document("c", customer_id="ben")])
    assert (written.stored, written.duplicates, set(written.refused)) == (2, 0, {1})
    assert str(written.refused[1]).endswith("(code 11000)")


def test_a_killed_server_is_not_available(mongo: MongoServer, tmp_path: Path) -> None:
    server = MongoServer(tmp_path)
    server.start()
    writer = MongoWriter(server.settings())
    writer.write([document("a")])
    server.kill()
    with pytest.raises(StoreError):
        writer.write([document("b")])
    assert not writer.available()
    server.start()
    eventually(writer.available, what="the driver to notice")
    assert writer.write([document("b")]).stored == 1
    writer.close()
    server.kill()


@pytest.mark.parametrize(("before", "after"), [(None, 30), (30, 60), (30, None)])
def test_the_ttl_index_follows_the_setting(
    settings: MongoSettings, events: Collection[dict[str, Any]], before: int | None, after: int | None
) -> None:
    for days in (before, after):
        ensure_indexes(replace(settings, ttl_days=days))
    index = events.index_information().get("received_at_1", {})
    assert index.get("expireAfterSeconds") == (after and after * 86_400)


@pytest.mark.parametrize("days", [30, None])
def test_a_ttl_index_on_the_clients_timestamp_is_dropped(
    settings: MongoSettings, events: Collection[dict[str, Any]], days: int | None
) -> None:
    """Under that index, MongoDB deleted late events within a minute."""
    events.create_index("timestamp", expireAfterSeconds=86_400)
    ensure_indexes(replace(settings, ttl_days=days))
    assert "timestamp_1" not in events.index_information()


def test_a_foreign_index_on_the_timestamp_stays(settings: MongoSettings, events: Collection[dict[str, Any]]) -> None:
    events.create_index("timestamp")
    ensure_indexes(replace(settings, ttl_days=30))
    assert "timestamp_1" in events.index_information()


def test_a_changed_ttl_needs_no_right_to_change_the_collection(
    settings: MongoSettings, events: Collection[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure_indexes(replace(settings, ttl_days=30))

    def refuse(*_: Any, **__: Any) -> None:
        raise OperationFailure("not authorized", 13)

    monkeypatch.setattr("pymongo.database.Database.command", refuse)
    ensure_indexes(replace(settings, ttl_days=60))
    assert events.index_information()["received_at_1"]["expireAfterSeconds"] == 60 * 86_400


def test_an_equal_index_with_another_name_is_used(settings: MongoSettings, events: Collection[dict[str, Any]]) -> None:
    events.create_index("event_id", unique=True, name="ids")
    ensure_indexes(settings)
    assert "event_id_1" not in events.index_information()


def plain_index_on_the_id(events: Collection[dict[str, Any]]) -> None:
    events.create_index("event_id")


def partial_index_on_the_id(events: Collection[dict[str, Any]]) -> None:
    some = {"customer_id": {"$gt": "m"}}
    events.create_index("event_id", unique=True, partialFilterExpression=some)


def name_that_is_taken(events: Collection[dict[str, Any]]) -> None:
    events.create_index("customer_id", name="event_id_1")


def documents_with_one_id(events: Collection[dict[str, Any]]) -> None:
    events.insert_many([document("a"), document("a")])


def received_at_without_expiry(events: Collection[dict[str, Any]]) -> None:
    events.create_index("received_at")


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (plain_index_on_the_id, "Index event_id_1 of {} is not unique, so events could be stored twice: drop it"),
        (partial_index_on_the_id, "Index event_id_1 of {} is unique for some of the events only"),
        (name_that_is_taken, "Index event_id_1 of {} has other fields than the consumer's: drop it, or"),
        (documents_with_one_id, "Index event_id_1 of {} cannot be made unique, since several documents"),
        (received_at_without_expiry, "Index received_at_1 of {} lets nothing expire: drop it, or leave"),
    ],
)
def test_the_error_names_a_conflicting_index_and_the_remedy(
    settings: MongoSettings,
    events: Collection[dict[str, Any]],
    prepare: Callable[[Collection[dict[str, Any]]], None],
    says: str,
) -> None:
    prepare(events)
    with pytest.raises(IndexConflictError) as raised:
        ensure_indexes(replace(settings, ttl_days=30))
    assert str(raised.value).startswith(says.format(f"{settings.database}.events"))


def test_a_failed_search_for_conflicting_ids_does_not_fail_the_write(
    writer: MongoWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise AutoReconnect("the primary changes")

    monkeypatch.setattr(Collection, "find", fail)
    writer.write([document("a")])
    assert writer.write([document("a", customer_id="ben"), document("b")]) == Written(1, 1)


def test_conflicting_ids_are_not_searched_when_all_events_are_new(
    writer: MongoWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Collection, "find")
    assert writer.write([document("a"), document("b")]) == Written(2, 0)


def ensure_indexes(settings: MongoSettings) -> None:
    """Create the indexes, as a consumer does at its start."""
    with contextlib.closing(MongoWriter(settings)) as writer:
        writer.ensure_indexes()
        writer.complete_indexes()
