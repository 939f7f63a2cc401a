"""The checks of existing topics that need more than one broker, with a fake client."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from common.errors import TopicError
from common.kafka import KafkaError
from common.settings import LogSettings, TopicSettings
from common.topics import Topic, ensure_topics, wanted_topics
from tests.servers import kafka_settings

REPLICAS = 3


class Admin:
    """An admin client of a cluster of three brokers, whose topics all have the same settings."""

    def __init__(self, config: dict[str, str] | None) -> None:
        """`config` is None if the broker does not return settings."""
        self._config = config

    def list_topics(self) -> list[str]:
        return ["events", "events.dlq", "events.refused"]

    def describe_topics(self, names: list[str]) -> list[dict[str, Any]]:
        return [{"partitions": [{"replicas": range(REPLICAS)}] * 3}]

    def describe_configs(self, resources: list[Any]) -> list[Any]:
        if self._config is None:
            raise KafkaError("no such request")
        rows: list[Any] = [(name, value, False, 1, False, []) for name, value in self._config.items()]
        return [SimpleNamespace(resources=[(0, None, 2, resources[0].name, rows)])]


def topics(replication_factor: int = REPLICAS) -> list[Topic]:
    settings = TopicSettings(LogSettings("info", "text"), kafka_settings("kafka:9092", "events"), 3, replication_factor)
    return wanted_topics(settings)


@pytest.mark.parametrize(
    ("replicas_in_sync", "consequence"), [("1", "can be lost with it"), ("4", "acknowledges nothing")]
)
def test_too_few_or_too_many_replicas_in_sync_lose_or_stop_events(
    replicas_in_sync: str, consequence: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(TopicError, match=f"events has min.insync.replicas={replicas_in_sync}: .*--fix.*events.dlq has"):
        ensure_topics(Admin({"min.insync.replicas": replicas_in_sync}), topics())
    assert consequence in caplog.text


def test_as_many_replicas_in_sync_as_replicas_cause_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    ensure_topics(Admin({"min.insync.replicas": "3"}), topics())
    assert [(record.levelno, record.message) for record in caplog.records] == [
        (logging.WARNING, "the topic differs: while one of its brokers is down, nothing can be sent")
    ] * 3


@pytest.mark.parametrize("replication_factor", [1, 3])
def test_two_of_three_replicas_in_sync_is_right(replication_factor: int, caplog: pytest.LogCaptureFixture) -> None:
    ensure_topics(Admin({"min.insync.replicas": "2"}), topics(replication_factor))
    assert not caplog.records


def test_a_broker_that_does_not_return_settings_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    ensure_topics(Admin(None), topics())
    assert [record.message for record in caplog.records] == ["the settings of the topic are not checked"] * 3
