"""Watches the loop from a separate thread: logs when it hangs, and ends a stop that takes too long.

The Kafka client can hang in poll and close, without a deadline, while the broker is unavailable.
"""

import logging
import os
import threading
import time
from collections.abc import Callable

from common.threads import all_stacks, start_thread
from consumer.health import Health

STOP_SECONDS = 30.0
"""How long a stop may take; well below the grace period of 60 s in Compose and Kubernetes."""
STOP_SECONDS_WITHOUT_KAFKA = 3.0
"""How long a stop may take while no broker accepts connections, so that no commit is possible and the loop may hang."""

logger = logging.getLogger(__name__)


class Watchdog:
    """Checks every second."""

    def __init__(
        self,
        health: Health,
        stopping: threading.Event,
        kafka_answers: Callable[[], bool],
        *,
        clock: Callable[[], float] = time.monotonic,
        end_process: Callable[[], None] = lambda: os._exit(1),
    ) -> None:
        """`stopping` is set when the process must stop; `end_process` ends it immediately.

        `kafka_answers`: whether a broker accepts connections; may block for a second.
        """
        self._health = health
        self._stopping = stopping
        self._kafka_answers = kafka_answers
        self._clock = clock
        self._end_process = end_process
        self._stopping_since: float | None = None
        self._hanging = False

    def start(self) -> None:
        """Watch until the process ends; a failure of the watchdog ends the process. Call it once."""
        start_thread("watchdog", self._run, on_death=self._end_process)

    def look(self) -> None:
        """One check."""
        self._look_at_progress()
        if self._stopping.is_set():
            self._look_at_stop()

    def _look_at_progress(self) -> None:
        hanging = not self._health.alive
        if hanging and not self._hanging:
            extra = {"seconds": self._health.idle_seconds, "stacks": all_stacks()}
            logger.error("no progress; is Kafka reachable?", extra=extra)
        elif self._hanging and not hanging:
            logger.warning("progress again")
        self._hanging = hanging

    def _look_at_stop(self) -> None:
        if self._stopping_since is None:
            self._stopping_since = self._clock()
        seconds = self._clock() - self._stopping_since
        if seconds >= STOP_SECONDS:
            stacks = {"stacks": all_stacks()}
            logger.error("stopping took too long; uncommitted records will be read again", extra=stacks)
            self._end_process()
        elif seconds >= STOP_SECONDS_WITHOUT_KAFKA and not self._kafka_answers():
            logger.warning("stopped while Kafka is unavailable; uncommitted records will be read again")
            self._end_process()

    def _run(self) -> None:
        while True:
            self.look()
            time.sleep(1)
