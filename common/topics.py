"""`python -m common.topics`: creates the topics that are missing, checks the rest, and exits; `--fix` mends them.

Compose, Kubernetes and `make run` all use it. Exits 1 when a topic is such that accepted events get lost or stuck, else
0; what differs otherwise is logged.
"""

import argparse
import logging
import logging.config
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from common import kafka
from common.errors import PulseError, TopicError
from common.logs import logging_config
from common.retry import Backoff
from common.settings import KafkaSettings, TopicSettings, load_topic_settings, read_dotenv

logger = logging.getLogger("common.topics")

_DAY_MS = 24 * 60 * 60 * 1000
_FOREVER = -1


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it has to be."""

    name: str
    partitions: int
    replication_factor: int
    config: dict[str, str]


class _Difference(NamedTuple):
    """A setting that is not as it has to be. `serious`: it loses or stops accepted events."""

    setting: str
    consequence: str
    serious: bool


def wanted_topics(settings: TopicSettings) -> list[Topic]:
    """The events topic, the dead letter topic, and the one for what was refused, if there is to be one."""
    all_of_them = {
        # A 202 must survive the loss of a broker: with three replicas, two have to hold a record before it counts.
        "min.insync.replicas": str(max(1, settings.replication_factor - 1)),
        "cleanup.policy": "delete",
        "retention.bytes": str(_FOREVER),
        "compression.type": "producer",
    }
    events = {"retention.ms": str(7 * _DAY_MS), "max.message.bytes": str(1_048_588), **all_of_them}
    # A dead letter is a record plus headers: whatever fitted into the events topic has to fit here.
    letters = {"retention.ms": str(30 * _DAY_MS), "max.message.bytes": str(1_048_588 + 65_536), **all_of_them}
    refused = {"retention.ms": str(_DAY_MS), "max.message.bytes": str(1_048_588), **all_of_them}
    topics = [
        Topic(settings.kafka.topic, settings.partitions, settings.replication_factor, events),
        Topic(settings.kafka.dlq_topic, 1, settings.replication_factor, letters),
    ]
    if settings.kafka.refused_topic:
        topics.append(Topic(settings.kafka.refused_topic, 1, settings.replication_factor, refused))
    return topics


def ensure_topics(admin: Any, topics: list[Topic], *, fix: bool = False) -> None:
    """Create what is missing and check the rest; with `fix`, change those settings of a topic that differ.

    Raises TopicError for topics with too few partitions or replicas, or with a setting that loses or stops events.
    Blocks for the admin client's own timeout at most; raises KafkaError when the broker fails.
    """
    existing = set(admin.list_topics())
    problems = [
        _check(admin, topic, fix=fix) if topic.name in existing else _create(admin, topic, fix=fix) for topic in topics
    ]
    if any(problems):
        raise TopicError(" ".join(problem for problem in problems if problem))


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


def _create(admin: Any, topic: Topic, *, fix: bool) -> str | None:
    """Returns why it cannot be used, if somebody else has created it meanwhile."""
    new = kafka.NewTopic(topic.name, topic.partitions, topic.replication_factor, topic_configs=topic.config)
    try:
        admin.create_topics([new])
    except kafka.TopicAlreadyExistsError:
        return _check(admin, topic, fix=fix)
    logger.info("topic created", extra={"topic": topic.name, "partitions": topic.partitions})
    return None


def _check(admin: Any, topic: Topic, *, fix: bool) -> str | None:
    """Returns why it cannot be used, if so."""
    partitions = admin.describe_topics([topic.name])[0]["partitions"]
    # The two clients name this field differently.
    replicas = min(len(partition.get("replicas") or partition.get("replica_nodes")) for partition in partitions)
    if len(partitions) < topic.partitions or replicas < topic.replication_factor:
        return (
            f"Topic {topic.name} has {len(partitions)} partitions and {replicas} replicas, "
            f"not {topic.partitions} and {topic.replication_factor}: change the topic, or set "
            "KAFKA_PARTITIONS and KAFKA_REPLICATION_FACTOR to what it has."
        )
    logger.info("topic is there", extra={"topic": topic.name, "partitions": len(partitions)})
    try:
        config = kafka.topic_config(admin, topic.name).values
    except kafka.KafkaError as error:
        # noida-db knows no such request, and a login may lack the right to ask.
        logger.warning(
            "the settings of the topic are not checked", extra={"topic": topic.name, "error": _reason(error)}
        )
        return None
    differences = _differences(topic, replicas, config)
    for setting, consequence, serious in differences:
        logger.log(
            logging.ERROR if serious else logging.WARNING,
            "the topic differs: %s",
            consequence,
            extra={
                "topic": topic.name,
                "setting": setting,
                "is": config[setting],
                "should_be": topic.config[setting],
            },
        )
    if fix and differences:
        changes = {difference.setting: topic.config[difference.setting] for difference in differences}
        kafka.change_topic_config(admin, topic.name, changes)
        logger.info("topic changed", extra={"topic": topic.name, "settings": changes})
    elif wrong := [f"{setting}={config[setting]}" for setting, _, serious in differences if serious]:
        return f"Topic {topic.name} has {', '.join(wrong)}: change that with `python -m common.topics --fix`."
    return None


def _differences(topic: Topic, replicas: int, config: Mapping[str, str]) -> list[_Difference]:
    """Of each setting the worst that is wrong with it."""
    is_ = {**topic.config, **config}
    in_sync, largest, kept, most_kept = (
        int(is_[name]) for name in ("min.insync.replicas", "max.message.bytes", "retention.ms", "retention.bytes")
    )
    batch = kafka.MAX_RECORD_BATCH_BYTES
    alone = "without one of its brokers nothing can be sent"
    table = [
        ("cleanup.policy", "compact" in is_["cleanup.policy"], "Kafka keeps only the last record of each key", True),
        ("min.insync.replicas", in_sync > replicas, "Kafka acknowledges nothing", True),
        (
            "min.insync.replicas",
            in_sync < int(topic.config["min.insync.replicas"]),
            "what one broker acknowledges can die with it",
            True,
        ),
        ("min.insync.replicas", in_sync == replicas > 1, alone, False),
        ("max.message.bytes", largest < batch, f"Kafka refuses what is sent, up to {batch} bytes at once", True),
        (
            "max.message.bytes",
            largest < int(topic.config["max.message.bytes"]),
            "Kafka may refuse large records",
            False,
        ),
        (
            "retention.ms",
            _FOREVER < kept < int(topic.config["retention.ms"]),
            "Kafka deletes earlier, read or not",
            False,
        ),
        ("retention.bytes", most_kept != _FOREVER, "Kafka deletes what is more than that, read or not", False),
        ("compression.type", is_["compression.type"] != "producer", "Kafka compresses each batch once more", False),
    ]
    found: dict[str, _Difference] = {}
    for setting, differs, consequence, serious in table:
        if differs:
            found.setdefault(setting, _Difference(setting, consequence, serious))
    return list(found.values())


def _reason(error: Exception) -> str:
    """What the broker says, where the client shows it amid all of request and response."""
    said = re.search(r"error_message=(['\"])(.+?)\1[,)]", str(error))
    return said[2] if said else str(error)


def main() -> None:
    """The command. Waits up to a minute for a broker; leaves with status 1 and one line when it fails."""
    parser = argparse.ArgumentParser(prog="python -m common.topics", description="Create and check Kafka's topics.")
    parser.add_argument(
        "--fix", action="store_true", help="change the settings of topics that are not as they have to be"
    )
    fix = parser.parse_args().fix
    try:
        read_dotenv()
        settings = load_topic_settings()
        logging.config.dictConfig(logging_config(settings.log))
        topics = wanted_topics(settings)
        names = ", ".join(topic.name for topic in topics)
        logger.info("checking topics", extra={"brokers": settings.kafka.broker_list, "topics": names})
        admin = wait_for_admin(settings.kafka, patience=60.0, backoff=Backoff(most=2.0))
        try:
            ensure_topics(admin, topics, fix=fix)
        finally:
            admin.close()
    except PulseError as error:
        sys.exit(f"topics: {error}")
    except kafka.KafkaError as error:
        sys.exit(f"topics: Kafka refused: {_reason(error)}")


if __name__ == "__main__":
    main()
