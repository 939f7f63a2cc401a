"""An outage in the log and in time: a line when it begins, one a minute and for each new cause, one when it ends;
growing pauses meanwhile.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator

from common.retry import Backoff

_REMIND_SECONDS = 60.0

logger = logging.getLogger(__name__)


class Outage:
    """What is tried until it works. For one thread."""

    def __init__(
        self, what: str, backoff: Backoff, clock: Callable[[], float] = time.monotonic, *, patience: float = 0.0
    ) -> None:
        """`what` is tried, as the log calls it: "storing events".

        Until a try has worked, failures in the first `patience` seconds are no outage yet: servers start beside it.
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
        """Whether the last try failed."""
        return self._pauses is not None

    def failed(self, error: Exception, **extra: object) -> float:
        """A try failed; returns the seconds to wait before the next one."""
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
            # What keeps it from working now may not be what it began with: a broker came back, and refuses.
            self._causes.add(type(error))
            self._told = now
            logger.error("%s still fails", self._what, extra={"seconds": round(now - self._began), **extra})
        return next(self._pauses)

    def over(self, **extra: object) -> None:
        """A try worked."""
        self._patient_until = -math.inf
        if self._pauses is None:
            return
        self._pauses = None
        if self._causes:
            seconds = round(self._clock() - self._began, 1)
            logger.warning("%s works again", self._what, extra={"seconds": seconds, **extra})

    def forget(self) -> None:
        """What failed is no longer our business."""
        self._pauses = None
