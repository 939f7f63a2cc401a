"""Connections to Kafka: invalid host names, and errors of the client."""

import dataclasses

import pytest

from common.addresses import Address
from common.kafka import KafkaError, admin, connect_admin, reachable
from tests.servers import kafka_settings

UNRESOLVABLE = dataclasses.replace(kafka_settings("kafka:9092", "topic"), brokers=(Address("a..b", 9092),))


def test_a_name_that_no_resolver_accepts_is_not_reachable() -> None:
    assert not reachable(UNRESOLVABLE)


def test_a_name_that_no_resolver_accepts_raises_an_error_of_kafka() -> None:
    with pytest.raises(KafkaError):
        connect_admin(UNRESOLVABLE)


def test_a_programming_error_of_the_client_is_not_reported_as_a_connection_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stumble(**_: object) -> None:
        raise ValueError("something else")

    monkeypatch.setattr(admin, "KafkaAdminClient", stumble)
    with pytest.raises(ValueError, match="something else"):
        connect_admin(kafka_settings("kafka:9092", "topic"))
