"""Asks Kafka, from a separate thread, whether the two topics exist: the consumer's client does not report that.

kafka-python-ng keeps the partitions of a deleted topic, and polls them without results or an error.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from common import kafka
from common.settings import KafkaSettings
from common.threads import start_thread
from consumer.health import Health

LOOK_SECONDS = 5.0

logger = logging.getLogger(__name__)


class TopicWatch:
    """Checks every 5 seconds, and reports to `health`."""

    def __init__(self, settings: KafkaSettings, health: Health) -> None:
        self._settings = settings
        self._health = health
        self._parts = {settings.topic: "kafka", settings.dlq_topic: "dead_letters"}
        self._admin: Any = None
        self._missing: frozenset[str] = frozenset()

    @property
    def events_missing(self) -> bool:
        """Whether the events topic was missing at the last check. Does not block."""
        return self._settings.topic in self._missing

    def start(self, on_death: Callable[[], None]) -> None:
        """Watch until the process ends. Call it once."""
        start_thread("topic-watch", self._run, on_death)

    def look(self) -> None:
        """One check. Can block while no broker answers; the last result then stays."""
        try:
            if self._admin is None:
                self._admin = kafka.connect_admin(self._settings)
            self._tell(kafka.missing_topics(self._admin, list(self._parts)))
        except Exception as error:  # noqa: BLE001, without a broker the client raises more than its own errors
            # The loop reports that.
            logger.debug("Kafka was not asked for its topics", extra={"error": repr(error)})
            self.close()

    def close(self) -> None:
        """Drop the connection."""
        if self._admin is not None:
            self._admin.close()
            self._admin = None

    def _tell(self, missing: frozenset[str]) -> None:
        for topic in missing - self._missing:
            logger.error("a topic is missing; create it with `python -m common.topics`", extra={"topic": topic})
        for topic in self._missing - missing:
            logger.warning("the topic is there again", extra={"topic": topic})
        self._missing = missing
        self._health.topics_missing(frozenset(self._parts[topic] for topic in missing))

    def _run(self) -> None:
        while True:
            self.look()
            time.sleep(LOOK_SECONDS)
