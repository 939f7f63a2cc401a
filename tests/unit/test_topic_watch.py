"""The check of the two topics, without a broker."""

import pytest

from common import kafka
from common.kafka import KafkaError
from common.settings import KafkaSettings
from consumer.health import Health
from consumer.topic_watch import TopicWatch
from tests.servers import kafka_settings


class Admin:
    """An admin client that reports missing topics, or fails."""

    def __init__(self) -> None:
        self.missing: frozenset[str] = frozenset()
        self.error: Exception | None = None
        self.connected = 0

    def connect(self, settings: KafkaSettings) -> "Admin":
        self.connected += 1
        if self.error:
            raise self.error
        return self

    def answer(self, admin: "Admin", topics: list[str]) -> frozenset[str]:
        assert (admin, topics) == (self, ["events", "events.dlq"])
        if self.error:
            raise self.error
        return self.missing

    def close(self) -> None:
        pass


@pytest.fixture
def admin(monkeypatch: pytest.MonkeyPatch) -> Admin:
    admin = Admin()
    monkeypatch.setattr(kafka, "connect_admin", admin.connect)
    monkeypatch.setattr(kafka, "missing_topics", admin.answer)
    return admin


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def watch(admin: Admin, health: Health) -> TopicWatch:
    return TopicWatch(kafka_settings("127.0.0.1:9", "events"), health)


def status(health: Health, part: str) -> str:
    text: str = health.report()["checks"][part]["status"]
    return text


def test_logs_once_that_a_topic_is_missing_and_once_that_it_is_back(
    watch: TopicWatch, admin: Admin, caplog: pytest.LogCaptureFixture
) -> None:
    for missing in ({"events.dlq"}, {"events.dlq"}, set(), set()):
        admin.missing = frozenset(missing)
        watch.look()
    assert [(record.levelname, vars(record)["topic"]) for record in caplog.records] == [
        ("ERROR", "events.dlq"),
        ("WARNING", "events.dlq"),
    ]


def test_a_missing_topic_is_down_in_the_health(watch: TopicWatch, admin: Admin, health: Health) -> None:
    admin.missing = frozenset({"events.dlq"})
    watch.look()
    assert status(health, "dead_letters") == "down"
    assert not watch.events_missing


def test_the_state_stays_while_no_broker_answers(watch: TopicWatch, admin: Admin, health: Health) -> None:
    admin.missing = frozenset({"events"})
    watch.look()
    admin.error = KafkaError("away")
    watch.look()
    assert watch.events_missing


def test_no_topic_is_missing_before_the_first_answer(watch: TopicWatch, admin: Admin, health: Health) -> None:
    admin.error = KafkaError("away")
    watch.look()
    assert not watch.events_missing
    assert status(health, "dead_letters") == "not known yet"


def test_a_broken_connection_is_opened_again(watch: TopicWatch, admin: Admin) -> None:
    watch.look()
    watch.look()
    assert admin.connected == 1
    admin.error = ValueError("Invalid file object: None")
    watch.look()
    admin.error = None
    watch.look()
    assert admin.connected == 2
