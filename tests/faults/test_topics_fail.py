"""A topic is deleted or refuses records under a running consumer, which reports it, loses no record, and continues."""

import base64
import json
import random
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pymongo
import pytest
import requests
from kafka.admin import ConfigResource, ConfigResourceType

from common.kafka import KafkaReader, KafkaSender, ReceivedRecord, Record, connect_admin, missing_topics
from tests.faults.test_stored_once import record
from tests.servers import KafkaServer, MongoServer, Pipeline
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(240)

NO_EVENT = Record(b"alice", b"no event")


class Scene:
    """A running consumer on topics and a database of its own."""

    def __init__(self, kafka: KafkaServer, mongo: MongoServer, folder: Path) -> None:
        self.server = kafka
        self.pipeline = Pipeline(kafka, mongo, folder)
        self.kafka = self.pipeline.kafka
        self.consumer = self.pipeline.consumer
        self.admin = connect_admin(self.kafka)

    def send(self, *records: Record) -> None:
        with closing(KafkaSender(self.kafka, self.kafka.topic)) as sender:
            assert not any(sender.send(records))

    def send_until(self, condition: Callable[[], Any], record: Record, what: str) -> int:
        """Send the record repeatedly until the condition is true; returns the number of sent records."""
        sent = 0

        def true_now() -> Any:
            nonlocal sent
            self.send(record)
            sent += 1
            return condition()

        eventually(true_now, what=what, every=0.5)
        return sent

    def delete(self, topic: str) -> None:
        self.admin.delete_topics([topic])
        eventually(lambda: missing_topics(self.admin, [topic]), what="the topic's end")

    def configure(self, topic: str, **config: str) -> None:
        """Change the settings of a topic, which the broker applies some time later."""
        names = {name.replace("_", "."): value for name, value in config.items()}
        self.admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, names)])

    def health(self) -> tuple[int, dict[str, Any]]:
        """The status and the checks of /health."""
        answer = requests.get(f"{self.pipeline.consumer_url}/health", timeout=5)
        return answer.status_code, answer.json()["checks"]

    def problem(self, part: str) -> str:
        """The problem of a part in /health, if the part is down and the status 503; otherwise an empty text."""
        status, checks = self.health()
        return str(checks[part].get("problem", "")) if (status, checks[part]["status"]) == (503, "down") else ""

    def stored(self) -> set[str]:
        return {document["event_id"] for document in self.pipeline.documents()}

    def letters(self) -> list[ReceivedRecord]:
        with closing(KafkaReader(self.kafka, self.kafka.dlq_topic)) as reader:
            return list(reader.read())

    def letters_in_mongodb(self) -> list[dict[str, Any]]:
        settings = self.pipeline.mongo
        with pymongo.MongoClient[dict[str, Any]](settings.uri) as client:
            return list(client[settings.database]["events.dead_letters"].find())


@pytest.fixture
def scene(kafka: KafkaServer, mongo: MongoServer, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(kafka, mongo, tmp_path)
    scene.consumer.start()
    scene.pipeline.wait_for_consumer()
    yield scene
    scene.admin.close()
    scene.pipeline.kill()


def test_health_names_a_deleted_events_topic(scene: Scene) -> None:
    scene.delete(scene.kafka.topic)
    problem = eventually(lambda: scene.problem("kafka"), what="the consumer to notice")
    assert problem == "the topic does not exist: create it with `python -m common.topics`"
    assert scene.pipeline.consumer_metric("pulse_consumer_dependency_up", dependency="kafka") == 0
    assert f'"topic": "{scene.kafka.topic}"' in scene.consumer.output()


def test_a_consumer_reads_a_topic_that_was_created_again_from_its_beginning(scene: Scene) -> None:
    """The new topic then has more records than were read of the old one."""
    scene.send(*(record("alice", number) for number in range(10)))
    scene.pipeline.wait_until_stored(10)
    scene.delete(scene.kafka.topic)
    eventually(lambda: scene.problem("kafka"), what="the consumer to notice")
    scene.server.create_topics(scene.kafka.topic)
    scene.send(*(record("alice", number) for number in range(100, 150)))
    scene.pipeline.wait_until_stored(60)
    assert scene.stored() == {f"alice-{number}" for number in [*range(10), *range(100, 150)]}
    eventually(lambda: scene.health()[0] == 200, what="health")


def test_health_names_a_deleted_dead_letter_topic_before_there_is_a_letter(scene: Scene) -> None:
    scene.delete(scene.kafka.dlq_topic)
    problem = eventually(lambda: scene.problem("dead_letters"), what="the consumer to notice")
    assert problem == "the topic does not exist: create it with `python -m common.topics`"
    assert scene.pipeline.consumer_metric("pulse_consumer_dependency_up", dependency="dead_letters") == 0


def test_letters_wait_until_their_topic_is_created_again(scene: Scene) -> None:
    scene.delete(scene.kafka.dlq_topic)
    scene.send(NO_EVENT)
    eventually(lambda: scene.problem("dead_letters"), what="the consumer to notice")
    scene.server.create_topics(scene.kafka.topic)
    eventually(lambda: scene.health()[0] == 200, 60, what="health")
    eventually(lambda: len(scene.letters()) == 1, 60, what="the letter")


def test_health_names_a_dead_letter_topic_that_refuses_a_letter_and_the_remedy(scene: Scene) -> None:
    """A compacted topic refuses records without a key."""
    scene.configure(scene.kafka.dlq_topic, cleanup_policy="compact")
    sent = scene.send_until(
        lambda: scene.problem("dead_letters"), Record(None, b"no event"), what="the consumer to notice"
    )
    problem = scene.problem("dead_letters")
    assert problem.startswith(f"{scene.kafka.dlq_topic} takes no dead letters, ")
    assert problem.endswith("its settings refuse them; its cleanup.policy must be delete")
    assert problem in scene.consumer.output()
    assert scene.pipeline.consumer_metric("pulse_consumer_dependency_up", dependency="dead_letters") == 0
    scene.configure(scene.kafka.dlq_topic, cleanup_policy="delete")
    eventually(lambda: scene.health()[0] == 200, 60, what="health")
    eventually(lambda: len(scene.letters()) == sent, what="all letters")


def test_letters_too_large_for_their_topic_go_to_mongodb_without_delaying_others(scene: Scene) -> None:
    scene.configure(scene.kafka.dlq_topic, max_message_bytes="20000")
    large = Record(b"\xff", random.randbytes(50_000))  # incompressible
    scene.send_until(scene.letters_in_mongodb, large, what="a large letter")
    small = [Record(b"alice", b"small %d" % n) for n in range(40)]
    scene.send(*small[:20], large, *small[20:], record("alice", 1))
    eventually(lambda: scene.stored() == {"alice-1"}, what="the event behind them")
    eventually(lambda: {record.value for record in small} <= {letter.value for letter in scene.letters()})
    content = json.loads(scene.letters_in_mongodb()[0]["content"])
    assert [base64.b64decode(content[name]) for name in ("key", "value")] == [large.key, large.value]
    eventually(
        lambda: (
            scene.pipeline.consumer_metric("pulse_consumer_letters_too_large_total") == len(scene.letters_in_mongodb())
        )
    )
    assert scene.health()[0] == 200
