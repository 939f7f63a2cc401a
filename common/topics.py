"""`python -m common.topics`: creates the topics that are missing, checks the rest, and exits.

Compose, Kubernetes and `make run` all use it. Exits 0 when both topics are as the settings ask, else 1.
"""

import logging
import logging.config
import re
import sys
import time
from dataclasses import dataclass
from typing import Any

from common import kafka
from common.errors import PulseError, TopicError
from common.logs import logging_config
from common.retry import Backoff
from common.settings import KafkaSettings, TopicSettings, load_topic_settings, read_dotenv

logger = logging.getLogger("common.topics")

_DAY_MS = 24 * 60 * 60 * 1000


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it has to be."""

    name: str
    partitions: int
    replication_factor: int
    config: dict[str, str]


def wanted_topics(settings: TopicSettings) -> list[Topic]:
    """The events topic and the dead letter topic."""
    # A 202 must survive the loss of a broker: with three replicas, two have to hold a record before it counts.
    in_sync = {"min.insync.replicas": str(max(1, settings.replication_factor - 1))}
    events = {"retention.ms": str(7 * _DAY_MS), **in_sync}
    # A dead letter is a record plus headers: whatever fitted into the events topic has to fit here.
    letters = {"retention.ms": str(30 * _DAY_MS), "max.message.bytes": str(1_048_588 + 65_536), **in_sync}
    return [
        Topic(settings.kafka.topic, settings.partitions, settings.replication_factor, events),
        Topic(settings.kafka.dlq_topic, 1, settings.replication_factor, letters),
    ]


def ensure_topics(admin: Any, topics: list[Topic]) -> None:
    """Create what is missing; raise TopicError for a topic with too few partitions or replicas.

    Blocks for the admin client's own timeout at most; raises KafkaError when the broker fails.
    """
    existing = set(admin.list_topics())
    for topic in topics:
        if topic.name in existing:
            _check(admin, topic)
        else:
            _create(admin, topic)


def wait_for_admin(settings: KafkaSettings, *, patience: float, backoff: Backoff) -> Any:
    """An admin client as soon as a broker answers; raises TopicError after `patience` seconds."""
    deadline = time.monotonic() + patience
    pauses = backoff.pauses()
    told = False
    while True:
        try:
            return kafka.connect_admin(settings)
        except (kafka.KafkaError, OSError):
            if not told:
                told = True
                logger.info("waiting for Kafka", extra={"brokers": settings.broker_list, "seconds": patience})
            pause = next(pauses)
            if time.monotonic() + pause > deadline:
                raise TopicError(
                    f"No broker answered at {settings.broker_list} within {patience:g} s: "
                    "start Kafka, or mend KAFKA_BROKERS, KAFKA_SECURITY_PROTOCOL or the login."
                ) from None
            time.sleep(pause)


def _create(admin: Any, topic: Topic) -> None:
    new = kafka.NewTopic(topic.name, topic.partitions, topic.replication_factor, topic_configs=topic.config)
    try:
        admin.create_topics([new])
    except kafka.TopicAlreadyExistsError:
        _check(admin, topic)
        return
    logger.info("topic created", extra={"topic": topic.name, "partitions": topic.partitions})


def _check(admin: Any, topic: Topic) -> None:
    partitions = admin.describe_topics([topic.name])[0]["partitions"]
    # The two clients name this field differently.
    replicas = min(len(partition.get("replicas") or partition.get("replica_nodes")) for partition in partitions)
    if len(partitions) < topic.partitions or replicas < topic.replication_factor:
        raise TopicError(
            f"Topic {topic.name} has {len(partitions)} partitions and {replicas} replicas, "
            f"not {topic.partitions} and {topic.replication_factor}: change the topic, or set "
            "KAFKA_PARTITIONS and KAFKA_REPLICATION_FACTOR to what it has."
        )
    logger.info("topic is there", extra={"topic": topic.name, "partitions": len(partitions)})


def _reason(error: Exception) -> str:
    """What the broker says, where the client shows it amid all of request and response."""
    said = re.search(r"error_message=(['\"])(.+?)\1[,)]", str(error))
    return said[2] if said else str(error)


def main() -> None:
    """The command. Waits up to a minute for a broker; leaves with status 1 and one line when it fails."""
    try:
        read_dotenv()
        settings = load_topic_settings()
        logging.config.dictConfig(logging_config(settings.log))
        admin = wait_for_admin(settings.kafka, patience=60.0, backoff=Backoff(most=2.0))
        try:
            ensure_topics(admin, wanted_topics(settings))
        finally:
            admin.close()
    except PulseError as error:
        sys.exit(f"topics: {error}")
    except kafka.KafkaError as error:
        sys.exit(f"topics: Kafka refused: {_reason(error)}")


if __name__ == "__main__":
    main()
