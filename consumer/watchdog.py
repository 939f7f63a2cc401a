"""Watches the loop from a thread of its own: says when it hangs, and ends a stop that takes too long.

The Kafka client can hang in poll and close, without a deadline, while the broker is away.
"""

import logging
import os
import threading
import time
from collections.abc import Callable

from common.threads import all_stacks, start_thread
from consumer.health import Health

STOP_SECONDS = 30.0
"""How long a stop may take; well below the 60 s that Compose and Kubernetes grant."""
STOP_SECONDS_WITHOUT_KAFKA = 3.0
"""How long while no broker takes connections, and so no commit: the loop may be hanging, and nothing waits for it."""

logger = logging.getLogger(__name__)


class Watchdog:
    """Looks every second."""

    def __init__(
        self,
        health: Health,
        stopping: threading.Event,
        kafka_answers: Callable[[], bool],
        *,
        clock: Callable[[], float] = time.monotonic,
        end_process: Callable[[], None] = lambda: os._exit(1),
    ) -> None:
        """`stopping` is set when the process is to stop; `end_process` ends it at once.

        `kafka_answers`: whether a broker takes connections; may block for a second.
        """
        self._health = health
        self._stopping = stopping
        self._kafka_answers = kafka_answers
        self._clock = clock
        self._end_process = end_process
        self._stopping_since: float | None = None
        self._hanging = False

    def start(self) -> None:
        """Watch until the process ends, which it does if the watching fails. Call it once."""
        start_thread("watchdog", self._run, on_death=self._end_process)

    def look(self) -> None:
        """One look."""
        self._look_at_progress()
        if self._stopping.is_set():
            self._look_at_stop()

    def _look_at_progress(self) -> None:
        hanging = not self._health.alive
        if hanging and not self._hanging:
            extra = {"seconds": self._health.idle_seconds, "stacks": all_stacks()}
            logger.error("no progress; is Kafka there?", extra=extra)
        elif self._hanging and not hanging:
            logger.warning("progress again")
        self._hanging = hanging

    def _look_at_stop(self) -> None:
        if self._stopping_since is None:
            self._stopping_since = self._clock()
        seconds = self._clock() - self._stopping_since
        if seconds >= STOP_SECONDS:
            stacks = {"stacks": all_stacks()}
            logger.error("stopping took too long; what is not committed will be read again", extra=stacks)
            self._end_process()
        elif seconds >= STOP_SECONDS_WITHOUT_KAFKA and not self._kafka_answers():
            logger.warning("stopped while Kafka is away; what is not committed will be read again")
            self._end_process()

    def _run(self) -> None:
        while True:
            self.look()
            time.sleep(1)
