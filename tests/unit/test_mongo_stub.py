"""The stub of MongoDB answers the consumer's writer as a database without events."""

import threading
from collections.abc import Iterator

import pytest
from pymongo import MongoClient

from common.settings import MongoSettings
from consumer.forgotten import ForgottenList, forgotten_documents, read_list
from consumer.writer import MongoWriter, Written
from loadtest.bench.mongo_stub import Server


@pytest.fixture
def stub() -> Iterator[Server]:
    with Server(0) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield server
        server.shutdown()


def test_every_event_counts_as_new(stub: Server) -> None:
    writer = MongoWriter(MongoSettings(f"mongodb://{stub.address}", "pulse", "events", 1))
    writer.ensure_indexes()
    assert writer.write([{"event_id": str(number)} for number in range(1000)]) == Written(1000, 0)
    assert writer.write([{"event_id": "0"}]) == Written(1, 0)
    writer.close()
    assert stub.inserts == 1001


def test_on_request_an_event_is_stored_once() -> None:
    with Server(0, once=True) as stub:
        threading.Thread(target=stub.serve_forever, kwargs={"poll_interval": 0.01}).start()
        writer = MongoWriter(MongoSettings(f"mongodb://{stub.address}", "pulse", "events", 1))
        assert writer.write([{"event_id": str(number % 600)} for number in range(1000)]) == Written(600, 400)
        assert writer.write([{"event_id": "0"}, {"event_id": "new"}]) == Written(1, 1)
        writer.close()
        stub.shutdown()
    assert stub.inserts == 601


def test_its_list_of_forgotten_customers_is_empty(stub: Server) -> None:
    with MongoClient[dict[str, object]](f"mongodb://{stub.address}", timeoutMS=10_000) as client:
        assert read_list(forgotten_documents(client["pulse"]["events"]), ForgottenList()) == ForgottenList()
