"""Exponential back-off with jitter."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """The seconds to wait before each retry, doubling from `first` up to `most`.

    Each pause is shortened at random by up to half (`jitter`: 0 to 1), so that clients that failed together do not
    retry together.
    """

    first: float = 0.1
    most: float = 30.0
    jitter: Callable[[], float] = random.random

    def pauses(self) -> Iterator[float]:
        """The infinite sequence of pauses of one outage."""
        pause = self.first
        while True:
            yield pause * (1 - self.jitter() / 2)
            pause = min(pause * 2, self.most)
