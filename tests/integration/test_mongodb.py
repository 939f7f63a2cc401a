"""The MongoDB side on a server that speaks its protocol."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pymongo
import pytest
from pymongo.collection import Collection

from common.errors import StoreError
from common.settings import MongoSettings
from consumer.writer import MongoWriter
from ops.local.ports import free_port
from tests.contracts import WriterContract, document
from tests.servers import MongoServer
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
    yield writer
    writer.close()


class TestMongoWriter(WriterContract):
    @pytest.fixture
    def stored(self, events: Collection[dict[str, Any]]) -> Callable[[], dict[str, Any]]:
        return lambda: {found["event_id"]: found for found in events.find()}


def test_stores_the_fields_as_they_are_and_when_it_did(writer: MongoWriter, events: Collection[dict[str, Any]]) -> None:
    sent = document("a", properties={"n": 2**63 - 1, "f": 0.1, "b": True, "a.b": "x\0"}, context={"ip": "::1"})
    writer.write([sent])
    found = events.find_one() or {}
    assert found.pop("processed_at").tzinfo is not None
    del found["_id"]
    assert found == sent


def test_creates_the_indexes(writer: MongoWriter, events: Collection[dict[str, Any]]) -> None:
    indexes = events.index_information()
    assert indexes["event_id_1"]["unique"]
    assert indexes.keys() == {"_id_", "event_id_1", "customer_id_1_timestamp_-1", "event_type_1_timestamp_-1"}


def test_creating_the_indexes_again_changes_nothing(writer: MongoWriter) -> None:
    writer.ensure_indexes()


def test_a_write_to_a_database_that_is_away_fails_within_its_time() -> None:
    writer = MongoWriter(MongoSettings(f"mongodb://127.0.0.1:{free_port()}", "test", "events", None))
    started = time.monotonic()
    with pytest.raises(StoreError, match=r"^MongoDB did not confirm a write: .*Connection refused"):
        writer.write([document("a")])
    assert time.monotonic() - started < 20
    writer.close()


def test_a_document_that_mongodb_refuses_is_no_duplicate(
    writer: MongoWriter, events: Collection[dict[str, Any]]
) -> None:
    # Another unique index: its violation has the same code as a duplicate event, and is none.
    events.create_index("customer_id", unique=True)
    written = writer.write([document("a"), document("b"), document("c", customer_id="ben")])
    assert (written.stored, written.duplicates, set(written.refused)) == (2, 0, {1})
    assert str(written.refused[1]).endswith("(code 11000)")


def test_a_server_that_went_is_not_available(mongo: MongoServer, tmp_path: Path) -> None:
    server = MongoServer(tmp_path)
    server.start()
    writer = MongoWriter(server.settings())
    writer.write([document("a")])
    server.kill()
    with pytest.raises(StoreError):
        writer.write([document("b")])
    assert not writer.available()
    server.start()
    eventually(writer.available, what="the driver noticing")
    assert writer.write([document("b")]).stored == 1
    writer.close()
    server.kill()


@pytest.mark.parametrize(("before", "after"), [(None, 30), (30, 60), (30, None)])
def test_the_ttl_index_follows_the_setting(mongo: MongoServer, before: int | None, after: int | None) -> None:
    plain = mongo.settings()
    for days in (before, after):
        writer = MongoWriter(replace(plain, ttl_days=days))
        writer.ensure_indexes()
        writer.close()
    with pymongo.MongoClient[dict[str, Any]](plain.uri) as client:
        index = client[plain.database][plain.collection].index_information().get("timestamp_1", {})
    assert index.get("expireAfterSeconds") == (after and after * 86_400)
