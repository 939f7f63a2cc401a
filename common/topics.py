"""`python -m common.topics`: creates missing topics, checks the others, and exits; `--fix` changes their settings.

Compose, Kubernetes and `make run` all use it. Exits 1 if accepted events could get lost or stuck in a topic, otherwise
0; logs other differences.
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
    """The required settings of a topic."""

    name: str
    partitions: int
    replication_factor: int
    config: dict[str, str]


class _Difference(NamedTuple):
    """A wrong setting. `serious`: it loses or blocks accepted events."""

    setting: str
    consequence: str
    serious: bool


def wanted_topics(settings: TopicSettings) -> list[Topic]:
    """The events topic, the dead letter topic, and the topic for refused events, if configured."""
    all_of_them = {
        # A 202 must survive the loss of a broker: with three replicas, two must have a record before it counts.
        "min.insync.replicas": str(max(1, settings.replication_factor - 1)),
        "cleanup.policy": "delete",
        "retention.bytes": str(_FOREVER),
        "compression.type": "producer",
    }
    events = {"retention.ms": str(7 * _DAY_MS), "max.message.bytes": str(1_048_588), **all_of_them}
    # A dead letter is a record plus headers: every record of the events topic must fit here.
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
    """Create missing topics and check the others; with `fix`, change the settings that differ.

    Raises TopicError for topics with too few partitions or replicas, or with a setting that loses or blocks events.
    Blocks for the admin client's own timeout at most; raises KafkaError if the broker fails.
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
                    "start Kafka, or fix KAFKA_BROKERS, KAFKA_SECURITY_PROTOCOL or the login."
                ) from None
            time.sleep(pause)


def _create(admin: Any, topic: Topic, *, fix: bool) -> str | None:
    """Returns the problem if another process has created an unusable topic in the meantime."""
    new = kafka.NewTopic(topic.name, topic.partitions, topic.replication_factor, topic_configs=topic.config)
    try:
        admin.create_topics([new])
    except kafka.TopicAlreadyExistsError:
        return _check(admin, topic, fix=fix)
    logger.info("topic created", extra={"topic": topic.name, "partitions": topic.partitions})
    return None


def _check(admin: Any, topic: Topic, *, fix: bool) -> str | None:
    """Returns the problem if the topic is unusable."""
    partitions = admin.describe_topics([topic.name])[0]["partitions"]
    # The two clients name this field differently.
    replicas = min(len(partition.get("replicas") or partition.get("replica_nodes")) for partition in partitions)
    if len(partitions) < topic.partitions or replicas < topic.replication_factor:
        return (
            f"Topic {topic.name} has {len(partitions)} partitions and {replicas} replicas, "
            f"not {topic.partitions} and {topic.replication_factor}: change the topic, or set "
            "KAFKA_PARTITIONS and KAFKA_REPLICATION_FACTOR to its values."
        )
    logger.info("topic is there", extra={"topic": topic.name, "partitions": len(partitions)})
    try:
        config = kafka.topic_config(admin, topic.name).values
    except kafka.KafkaError as error:
        # noida-db does not support this request, and a login may lack the right for it.
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
    """The most serious difference of each setting."""
    is_ = {**topic.config, **config}
    in_sync, largest, kept, most_kept = (
        int(is_[name]) for name in ("min.insync.replicas", "max.message.bytes", "retention.ms", "retention.bytes")
    )
    batch = kafka.MAX_RECORD_BATCH_BYTES
    alone = "while one of its brokers is down, nothing can be sent"
    table = [
        ("cleanup.policy", "compact" in is_["cleanup.policy"], "Kafka keeps only the last record of each key", True),
        ("min.insync.replicas", in_sync > replicas, "Kafka acknowledges nothing", True),
        (
            "min.insync.replicas",
            in_sync < int(topic.config["min.insync.replicas"]),
            "records that only one broker has can be lost with it",
            True,
        ),
        ("min.insync.replicas", in_sync == replicas > 1, alone, False),
        ("max.message.bytes", largest < batch, f"Kafka refuses the API's batches of up to {batch} bytes", True),
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
        ("retention.bytes", most_kept != _FOREVER, "Kafka deletes records beyond that size, read or not", False),
        ("compression.type", is_["compression.type"] != "producer", "Kafka compresses each batch again", False),
    ]
    found: dict[str, _Difference] = {}
    for setting, differs, consequence, serious in table:
        if differs:
            found.setdefault(setting, _Difference(setting, consequence, serious))
    return list(found.values())


def _reason(error: Exception) -> str:
    """The broker's message, extracted from the client's dump of request and response."""
    said = re.search(r"error_message=(['\"])(.+?)\1[,)]", str(error))
    return said[2] if said else str(error)


def main() -> None:
    """The command. Waits up to a minute for a broker; exits with status 1 and one line if it fails."""
    parser = argparse.ArgumentParser(prog="python -m common.topics", description="Create and check Kafka's topics.")
    parser.add_argument("--fix", action="store_true", help="change the wrong settings of topics")
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
