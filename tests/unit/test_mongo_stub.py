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
    assert stub.upserts == 1001


def test_its_list_of_forgotten_customers_is_empty(stub: Server) -> None:
    with MongoClient[dict[str, object]](f"mongodb://{stub.address}", timeoutMS=10_000) as client:
        assert read_list(forgotten_documents(client["pulse"]["events"]), ForgottenList()) == ForgottenList()
