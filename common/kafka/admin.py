"""Topics and their settings, as brokers report and change them; whether a broker is reachable."""

import inspect
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import UnknownError, UnknownTopicOrPartitionError, for_code

from common.kafka.client import connect
from common.settings import KafkaSettings

# In the answer to DescribeConfigs: the source of a value.
_OF_THE_TOPIC = 1


def connect_admin(settings: KafkaSettings) -> Any:
    """An admin client. Blocks some seconds; raises KafkaError without a broker."""
    return connect(KafkaAdminClient, settings)


class TopicConfig(NamedTuple):
    """The settings of a topic. `own`: those set on the topic; `values` also has the broker's defaults."""

    values: Mapping[str, str]
    own: Mapping[str, str]


def topic_config(admin: Any, topic: str) -> TopicConfig:
    """The topic's settings from the broker. Blocks; raises KafkaError if the broker fails or does not report them."""
    resource = ConfigResource(ConfigResourceType.TOPIC, topic)
    if "config_filter" in inspect.signature(admin.describe_configs).parameters:
        told = admin.describe_configs([resource], config_filter="all").get("topic", {}).get(topic)
        if not told:  # kafka-python does not say why
            raise UnknownError(f"no settings of {topic}")
        entries = [
            (name, entry["value"], entry["config_source"] == "DYNAMIC_TOPIC_CONFIG") for name, entry in told.items()
        ]
    else:
        ((code, message, _, _, rows),) = admin.describe_configs([resource])[0].resources
        if code:
            raise for_code(code)(message)
        entries = [(name, value, source == _OF_THE_TOPIC) for name, value, _, source, *_ in rows]
    return TopicConfig(
        {name: value for name, value, _ in entries}, {name: value for name, value, own in entries if own}
    )


def change_topic_config(admin: Any, topic: str, changes: Mapping[str, str]) -> None:
    """Change these settings of the topic, and no others. Blocks; raises KafkaError if the broker refuses."""
    # kafka-python-ng's request resets all settings that it does not name.
    whole = {**topic_config(admin, topic).own, **changes}
    answer = admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, whole)])
    if isinstance(answer, dict):
        if (said := answer["topic"][topic]) != "OK":
            raise UnknownError(said)
    else:
        ((code, message, *_),) = answer.resources
        if code:
            raise for_code(code)(message)


def missing_topics(admin: Any, topics: Sequence[str]) -> frozenset[str]:
    """The topics that do not exist. Can block while no broker answers; raises KafkaError."""
    described = admin.describe_topics(list(topics))
    # The two clients name this field differently.
    return frozenset(
        topic.get("topic") or topic.get("name")
        for topic in described
        if topic["error_code"] == UnknownTopicOrPartitionError.errno
    )


def reachable(settings: KafkaSettings, timeout: float = 1.0) -> bool:
    """Whether any of the brokers accepts connections. Blocks at most `timeout` seconds."""
    deadline = time.monotonic() + timeout
    for broker in settings.brokers:
        try:
            socket.create_connection((broker.host, broker.port), timeout=max(0.05, deadline - time.monotonic())).close()
        except (OSError, UnicodeError):
            # Resolvers raise several errors; a broker whose name cannot be resolved is unreachable.
            continue
        return True
    return False
