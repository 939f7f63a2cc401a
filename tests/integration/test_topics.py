"""The topics command on a real broker."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.errors import TopicError
from common.kafka import NewTopic, TopicConfig, connect_admin, topic_config
from common.retry import Backoff
from common.topics import wait_for_admin
from ops.local.ports import free_port
from tests import ROOT
from tests.contracts import fresh_name
from tests.servers import KafkaServer, kafka_settings


class Command:
    """`python -m common.topics` with its own topic names."""

    def __init__(self, brokers: str) -> None:
        self.topic = fresh_name("topic")
        self.env = {
            **os.environ,
            "KAFKA_BROKERS": brokers,
            "KAFKA_TOPIC": self.topic,
            "KAFKA_DLQ_TOPIC": f"{self.topic}.dlq",
            "KAFKA_REFUSED_TOPIC": f"{self.topic}.refused",
            "LOG_FORMAT": "text",
        }

    def run(self, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "common.topics", *options],
            cwd=ROOT,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )


@pytest.fixture
def command(kafka: KafkaServer) -> Command:
    return Command(kafka.address)


def partitions(kafka: KafkaServer, topic: str) -> int:
    admin: Any = connect_admin(kafka.settings(topic))
    try:
        return len(admin.describe_topics([topic])[0]["partitions"])
    finally:
        admin.close()


def test_creates_the_events_topic_with_the_given_partitions(kafka: KafkaServer, command: Command) -> None:
    assert command.run(KAFKA_PARTITIONS="5").returncode == 0
    assert partitions(kafka, command.topic) == 5


def test_creates_the_dead_letter_topic_with_one_partition(kafka: KafkaServer, command: Command) -> None:
    assert command.run().returncode == 0
    assert partitions(kafka, f"{command.topic}.dlq") == 1


def test_accepts_existing_topics(command: Command) -> None:
    command.run()
    assert command.run().returncode == 0


def test_refuses_a_topic_with_too_few_partitions_and_says_what_to_do(command: Command) -> None:
    command.run(KAFKA_PARTITIONS="2")
    again = command.run(KAFKA_PARTITIONS="3")
    assert again.returncode == 1
    assert f"topics: Topic {command.topic} has 2 partitions and 1 replicas, not 3 and 1: change" in again.stderr


def test_first_prints_the_brokers_and_the_topics(command: Command) -> None:
    first = command.run().stderr.splitlines()[0]
    assert f"brokers={command.env['KAFKA_BROKERS']} topics={command.topic}, {command.topic}.dlq" in first


GOOD = {"retention.ms": "604800000", "min.insync.replicas": "1", "max.message.bytes": "1048588"}


def create(kafka: KafkaServer, topic: str, config: dict[str, str]) -> None:
    admin: Any = connect_admin(kafka.settings(topic))
    try:
        admin.create_topics([NewTopic(topic, 3, 1, topic_configs=config)])
    finally:
        admin.close()


def config(kafka: KafkaServer, topic: str) -> TopicConfig:
    admin: Any = connect_admin(kafka.settings(topic))
    try:
        return topic_config(admin, topic)
    finally:
        admin.close()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("cleanup.policy", "compact"),
        ("cleanup.policy", "compact,delete"),
        ("min.insync.replicas", "2"),
        ("max.message.bytes", "100000"),
    ],
)
def test_refuses_a_topic_that_loses_or_stops_events(
    kafka: KafkaServer, command: Command, setting: str, value: str
) -> None:
    create(kafka, command.topic, {**GOOD, setting: value})
    refused = command.run()
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1] == (
        f"topics: Topic {command.topic} has {setting}={value}: change that with `python -m common.topics --fix`."
    )
    assert "ERROR   common.topics: the topic differs: Kafka " in refused.stderr


@pytest.mark.parametrize(
    ("setting", "value", "wanted"),
    [
        ("retention.ms", "3600000", "604800000"),
        ("retention.bytes", "1000000", "-1"),
        ("compression.type", "gzip", "producer"),
        ("max.message.bytes", "1000000", "1048588"),
    ],
)
def test_warns_of_other_differences_and_continues(
    kafka: KafkaServer, command: Command, setting: str, value: str, wanted: str
) -> None:
    create(kafka, command.topic, {**GOOD, setting: value})
    run = command.run()
    assert run.returncode == 0
    (line,) = (line for line in run.stderr.splitlines() if line.startswith("WARNING"))
    assert line.endswith(f" topic={command.topic} setting={setting} is={value} should_be={wanted}")


@pytest.mark.parametrize(
    "setting", [{"retention.ms": "-1"}, {"retention.ms": "6048000000"}, {"max.message.bytes": "2000000"}]
)
def test_accepts_larger_values_than_its_own(kafka: KafkaServer, command: Command, setting: dict[str, str]) -> None:
    create(kafka, command.topic, {**GOOD, **setting})
    run = command.run()
    assert (run.returncode, "WARNING" in run.stderr) == (0, False)


def test_with_fix_it_changes_only_differing_settings(kafka: KafkaServer, command: Command) -> None:
    others = {"segment.bytes": "20000000", "max.message.bytes": "2000000"}
    create(kafka, command.topic, {**others, "cleanup.policy": "compact", "retention.ms": "3600000"})
    assert command.run("--fix").returncode == 0
    assert config(kafka, command.topic).own == {**others, "cleanup.policy": "delete", "retention.ms": "604800000"}
    again = command.run()
    assert (again.returncode, "differs" in again.stderr) == (0, False)


def test_accepts_the_topics_that_it_created(command: Command) -> None:
    command.run()
    assert "differs" not in command.run().stderr


def test_the_error_about_more_replicas_than_brokers_is_one_line(command: Command) -> None:
    refused = command.run(KAFKA_REPLICATION_FACTOR="3")
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith(
        "topics: Kafka refused: Unable to replicate the partition 3 time(s)"
    )
    assert "Traceback" not in refused.stderr


def test_the_error_about_an_unreachable_broker_is_one_line() -> None:
    away = kafka_settings(f"127.0.0.1:{free_port()}", "events")
    with pytest.raises(TopicError) as raised:
        wait_for_admin(away, patience=0, backoff=Backoff())
    assert str(raised.value) == (
        f"No broker answered at {away.broker_list} within 0 s: start Kafka, or fix KAFKA_BROKERS, "
        "KAFKA_SECURITY_PROTOCOL or the login."
    )


def test_a_wrong_setting_is_one_clear_line(tmp_path: Path) -> None:
    refused = Command(f"127.0.0.1:{free_port()}").run(KAFKA_PARTITIONS="none")
    assert refused.stderr == "topics: KAFKA_PARTITIONS=none is not allowed: give a whole number from 1 to 10000\n"
