"""If the dead letter tool dies or Kafka falls silent, each letter is stored once, and the tool does not hang."""

import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from common.errors import ReadError
from common.kafka import KafkaReader, KafkaSender, Record
from tests.servers import KafkaServer, MongoServer, Pipeline, Process
from tests.waiting import eventually

LETTERS = 2000


@pytest.fixture
def pipeline(kafka: KafkaServer, mongo: MongoServer, tmp_path: Path) -> Iterator[Pipeline]:
    """A pipeline, not started, whose dead letters are valid events, except for one."""
    pipeline = Pipeline(kafka, mongo, tmp_path)
    now = datetime.now(UTC).isoformat().encode()
    values = [
        b'{"event_id":"%d","customer_id":"a","event_type":"click","timestamp":"%b","received_at":"%b"}' % (n, now, now)
        for n in range(LETTERS)
    ]
    with closing(KafkaSender(pipeline.kafka, pipeline.kafka.dlq_topic)) as sender:
        assert not any(sender.send([Record(value[-9:], value) for value in [*values, b"poison"]]))
    yield pipeline
    pipeline.kill()


def size(pipeline: Pipeline, topic: str) -> int:
    with closing(KafkaReader(pipeline.kafka, topic)) as reader:
        return reader.size


def test_letters_are_stored_once_when_the_replay_is_killed_and_repeated(pipeline: Pipeline, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "consumer.dlq", "replay"]
    replay = Process(command, tmp_path / "replay.log", pipeline.consumer.env)
    replay.start()
    eventually(lambda: size(pipeline, pipeline.kafka.topic), what="the first letters sent back")
    replay.kill()
    replay.start()
    assert replay.child is not None
    assert replay.child.wait(60) == 0
    pipeline.consumer.start()
    pipeline.wait_until_stored(LETTERS)
    assert sorted(int(document["event_id"]) for document in pipeline.documents()) == list(range(LETTERS))
    notes = LETTERS + 1
    eventually(lambda: size(pipeline, pipeline.kafka.dlq_topic) > LETTERS + 1 + notes, what="the poison's next letter")


def test_reading_ends_when_kafka_falls_silent(kafka: KafkaServer, pipeline: Pipeline) -> None:
    with closing(KafkaReader(pipeline.kafka, pipeline.kafka.dlq_topic, timeout=2)) as reader:
        kafka.freeze()
        try:
            with pytest.raises(ReadError, match="was not read"):
                list(reader.read())
        finally:
            kafka.thaw()


def test_opening_ends_when_kafka_is_silent(kafka: KafkaServer, pipeline: Pipeline) -> None:
    kafka.freeze()
    try:
        with pytest.raises(ReadError):
            KafkaReader(pipeline.kafka, pipeline.kafka.dlq_topic, timeout=2)
    finally:
        kafka.thaw()
