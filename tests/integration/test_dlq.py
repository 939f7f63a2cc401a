"""The dead letter tool as a command, on a real broker."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner, Result
from prometheus_client import CollectorRegistry

from common.dead_letter_headers import dead_letter_headers
from common.errors import InvalidEventError
from common.kafka import KafkaReader, KafkaSender, ReceivedRecord, Record, connect_admin
from common.metrics import ConsumerMetrics
from common.settings import KafkaSettings
from consumer.dead_letters import DeadLetter, DeadLetters
from consumer.dlq.__main__ import Topics, cli
from tests import ROOT
from tests.contracts import fresh_name
from tests.fakes import FakeWriter
from tests.servers import KafkaServer

LETTERS = [
    Record(b"alice", b'{"event_type":"login"}', (("trace", b"\xff\x00"),)),
    Record(b"\xff\xfe", b"\xff\x00\x80"),
    Record(b"empty", b""),
    Record(b"nothing", None),
    Record(None, b"without a key"),
    Record(b"bob", "ä€\n".encode()),
]


@pytest.fixture
def topics(kafka: KafkaServer) -> KafkaSettings:
    return kafka.create_topics(fresh_name("events"))


@pytest.fixture
def tool(topics: KafkaSettings) -> Topics:
    return Topics(
        topics.topic,
        topics.dlq_topic,
        lambda: KafkaReader(topics, topics.dlq_topic),
        lambda topic: KafkaSender(topics, topic),
    )


def run(tool: Topics, *arguments: str) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(cli, arguments, obj=tool)


def command(topics: KafkaSettings, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a process."""
    kafka = {"KAFKA_BROKERS": topics.broker_list, "KAFKA_TOPIC": topics.topic, "KAFKA_DLQ_TOPIC": topics.dlq_topic}
    return subprocess.run(
        [sys.executable, "-m", "consumer.dlq", *arguments],
        cwd=ROOT,
        env={**os.environ, **kafka},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def send(settings: KafkaSettings, topic: str, records: Sequence[Record]) -> None:
    with closing(KafkaSender(settings, topic)) as sender:
        assert not any(sender.send(records))


def read(settings: KafkaSettings, topic: str) -> list[ReceivedRecord]:
    with closing(KafkaReader(settings, topic)) as reader:
        return list(reader.read())


def bury(settings: KafkaSettings, records: Sequence[ReceivedRecord]) -> None:
    """Send the records as dead letters, as the consumer does."""
    with closing(KafkaSender(settings, settings.dlq_topic)) as sender:
        metrics = ConsumerMetrics(CollectorRegistry())
        dead_letters = DeadLetters(sender, settings.topic, FakeWriter(), settings.dlq_topic, metrics)
        assert not dead_letters.send([DeadLetter.of(record, InvalidEventError("no event")) for record in records])


def contents(records: Sequence[Record | ReceivedRecord]) -> list[tuple[bytes | None, bytes | None]]:
    return sorted(((record.key, record.value) for record in records), key=repr)


def test_letters_are_listed_shown_counted_and_sent_back(topics: KafkaSettings) -> None:
    send(topics, topics.topic, LETTERS)
    bury(topics, read(topics, topics.topic))

    where = f"Dead letters in {topics.dlq_topic} at {topics.broker_list}\n"
    listed = command(topics, "list", "--json")
    assert (listed.returncode, listed.stderr) == (0, where)
    letters = [json.loads(line) for line in listed.stdout.splitlines()]
    assert len(letters) == len(LETTERS)
    assert len(command(topics, "list").stdout.splitlines()) == 1 + len(LETTERS)

    alice = next(letter for letter in letters if letter.get("key") == "alice")
    shown = command(topics, "show", alice["letter"]).stdout
    assert "trace                 \\xff\\x00\n" in shown
    assert "dlq.error.message     no event\n" in shown
    assert '  "event_type": "login"\n' in shown

    assert f"InvalidEventError  {len(LETTERS)}  █" in command(topics, "stats").stdout

    replayed = command(topics, "replay")
    assert (replayed.returncode, replayed.stdout, replayed.stderr) == (0, "6 of 6 letters were sent back.\n", where)
    assert contents(read(topics, topics.topic)) == contents(LETTERS * 2)
    assert command(topics, "list").stderr == f"{where}No letters.\n"


def test_letters_without_headers_go_back_to_the_events_topic(topics: KafkaSettings, tool: Topics) -> None:
    send(topics, topics.dlq_topic, LETTERS)
    refused = dead_letter_headers(InvalidEventError("too large"), datetime.now(UTC), topics.topic)
    send(topics, topics.dlq_topic, [Record(b"carol", b"by the API", refused)])
    assert run(tool, "replay").stdout == "7 of 7 letters were sent back.\n"
    assert contents(read(topics, topics.topic)) == contents([*LETTERS, Record(b"carol", b"by the API")])


def test_a_letter_that_dies_again_and_again_stays_after_its_replays(topics: KafkaSettings, tool: Topics) -> None:
    send(topics, topics.topic, [Record(b"alice", b"poison")])
    for replays in range(2):
        died = read(topics, topics.topic)[replays]
        bury(topics, [died])
        (letter,) = map(json.loads, run(tool, "list", "--json").stdout.splitlines())
        assert letter["replays"] == replays
        assert run(tool, "replay", "--max-replays", "2").stdout == "1 of 1 letters were sent back.\n"
    bury(topics, [read(topics, topics.topic)[2]])
    assert run(tool, "replay", "--max-replays", "2").stdout.startswith("0 of 0 letters were sent back. 1 more stay, ")
    assert len(read(topics, topics.topic)) == 3


def test_a_replay_interrupted_between_letters_and_notes_is_repeated(topics: KafkaSettings, tool: Topics) -> None:
    def open_sender(topic: str) -> KafkaSender:
        if topic == topics.dlq_topic:
            raise SystemExit(137)
        return KafkaSender(topics, topic)

    send(topics, topics.dlq_topic, LETTERS)
    assert run(replace(tool, open_sender=open_sender), "replay").exit_code == 137
    assert run(tool, "replay").stdout == "6 of 6 letters were sent back.\n"
    assert run(tool, "replay").stdout == "0 of 0 letters were sent back.\n"
    assert contents(read(topics, topics.topic)) == contents(LETTERS * 2)


def test_joins_no_group_and_commits_nothing(kafka: KafkaServer, topics: KafkaSettings, tool: Topics) -> None:
    before = groups(kafka)
    send(topics, topics.dlq_topic, LETTERS)
    run(tool, "replay")
    assert groups(kafka) == before


def test_the_error_about_a_missing_topic_is_one_line(kafka: KafkaServer) -> None:
    missing = command(kafka.settings("missing"), "list")
    assert missing.returncode == 1
    error = "Error: Topic missing.dlq does not exist: run `python -m common.topics`."
    assert missing.stderr.splitlines()[1:] == [error]


def groups(kafka: KafkaServer) -> set[str]:
    """The consumer groups of the broker."""
    admin = connect_admin(kafka.settings("any"))
    try:
        # kafka-python-ng and kafka-python have different names for it.
        list_groups = admin.list_groups if hasattr(admin, "list_groups") else admin.list_consumer_groups
        return {str(group) for group in list_groups()}
    finally:
        admin.close()
