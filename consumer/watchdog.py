"""Watches the loop from a thread of its own: says when it hangs, and ends a stop that takes too long.

The Kafka client can hang in poll and close, without a deadline, while the broker is away.
"""

import logging
import os
import threading
import time
from collections.abc import Callable

from consumer.health import Health

STOP_SECONDS = 30.0
"""How long a stop may take; well below the 60 s that Compose and Kubernetes grant."""

logger = logging.getLogger(__name__)


class Watchdog:
    """Looks every second."""

    def __init__(
        self,
        health: Health,
        stopping: threading.Event,
        *,
        clock: Callable[[], float] = time.monotonic,
        end_process: Callable[[], None] = lambda: os._exit(1),
    ) -> None:
        """`stopping` is set when the process is to stop; `end_process` ends it at once."""
        self._health = health
        self._stopping = stopping
        self._clock = clock
        self._end_process = end_process
        self._stop_by: float | None = None
        self._hanging = False

    def start(self) -> None:
        """Watch until the process ends. Call it once."""
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def look(self) -> None:
        """One look."""
        self._look_at_progress()
        if self._stopping.is_set():
            self._look_at_stop()

    def _look_at_progress(self) -> None:
        hanging = not self._health.alive
        if hanging and not self._hanging:
            logger.error("no progress; is Kafka there?", extra={"seconds": self._health.idle_seconds})
        elif self._hanging and not hanging:
            logger.warning("progress again")
        self._hanging = hanging

    def _look_at_stop(self) -> None:
        if self._stop_by is None:
            self._stop_by = self._clock() + STOP_SECONDS
        elif self._clock() >= self._stop_by:
            logger.error("stopping took too long; what is not committed will be read again")
            self._end_process()

    def _run(self) -> None:
        while True:
            self.look()
            time.sleep(1)
