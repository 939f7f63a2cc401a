"""An outage: log lines at its start, every minute, for each new cause, and at its end; back-off in between."""

import logging
import math
import time
from collections.abc import Callable, Iterator

from common.retry import Backoff

_REMIND_SECONDS = 60.0

logger = logging.getLogger(__name__)


class Outage:
    """An operation that is retried until it works. For one thread."""

    def __init__(
        self, what: str, backoff: Backoff, clock: Callable[[], float] = time.monotonic, *, patience: float = 0.0
    ) -> None:
        """`what`: the name of the operation in the log, such as "storing events".

        Until the first success, failures in the first `patience` seconds do not count, since servers start at the same
        time.
        """
        self._what = what
        self._backoff = backoff
        self._clock = clock
        self._patient_until = clock() + patience
        self._pauses: Iterator[float] | None = None
        self._began = 0.0
        self._told = 0.0
        self._causes: set[type[Exception]] = set()

    @property
    def ongoing(self) -> bool:
        """Whether the last attempt failed."""
        return self._pauses is not None

    def failed(self, error: Exception, **extra: object) -> float:
        """Record a failure; returns the seconds to wait before the next attempt."""
        now = self._clock()
        extra = {"error": str(error) or repr(error), **extra}
        if self._pauses is None:
            self._pauses = self._backoff.pauses()
            self._began = now
            self._causes = set()
            if now < self._patient_until:
                logger.info("%s waits for its servers", self._what)
        if now < self._patient_until:
            return next(self._pauses)
        if not self._causes:
            self._causes = {type(error)}
            self._told = now
            logger.error("%s failed; retrying", self._what, extra=extra)
        elif now - self._told >= _REMIND_SECONDS or type(error) not in self._causes:
            # The cause may change during an outage: for example, a broker is back, but refuses requests.
            self._causes.add(type(error))
            self._told = now
            logger.error("%s still fails", self._what, extra={"seconds": round(now - self._began), **extra})
        return next(self._pauses)

    def over(self, **extra: object) -> None:
        """Record a success."""
        self._patient_until = -math.inf
        if self._pauses is None:
            return
        self._pauses = None
        if self._causes:
            seconds = round(self._clock() - self._began, 1)
            logger.warning("%s works again", self._what, extra={"seconds": seconds, **extra})

    def forget(self) -> None:
        """End the outage without a log line: this process no longer does the operation."""
        self._pauses = None
