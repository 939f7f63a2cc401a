"""Growing, jittered pauses between tries."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before each further try, in seconds: doubling from `first` up to `most`.

    Each pause is shortened by up to half, at random (`jitter`: 0 to 1), so that clients that failed
    together do not come back together.
    """

    first: float = 0.1
    most: float = 30.0
    jitter: Callable[[], float] = random.random

    def pauses(self) -> Iterator[float]:
        """The pauses of one outage, without end."""
        pause = self.first
        while True:
            yield pause * (1 - self.jitter() / 2)
            pause = min(pause * 2, self.most)
