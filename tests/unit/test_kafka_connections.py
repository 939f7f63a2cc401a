"""What connecting to Kafka makes of names and errors."""

import dataclasses

import pytest

from common.addresses import Address
from common.kafka import KafkaError, admin, connect_admin, reachable
from tests.servers import kafka_settings

UNSPEAKABLE = dataclasses.replace(kafka_settings("kafka:9092", "topic"), brokers=(Address("a..b", 9092),))


def test_a_name_that_no_resolver_takes_is_not_reachable() -> None:
    assert not reachable(UNSPEAKABLE)


def test_a_name_that_no_resolver_takes_is_an_error_of_kafkas() -> None:
    with pytest.raises(KafkaError):
        connect_admin(UNSPEAKABLE)


def test_a_fault_of_the_clients_is_not_taken_for_one_of_the_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(**_: object) -> None:
        raise ValueError("something else")

    monkeypatch.setattr(admin, "KafkaAdminClient", stumble)
    with pytest.raises(ValueError, match="something else"):
        connect_admin(kafka_settings("kafka:9092", "topic"))
