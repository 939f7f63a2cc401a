"""How many connections each worker has, where all of them see it, so that new ones are shared out evenly."""

import mmap

_PLACES = 256
_NO_WORKER = 2**32 - 1


class ConnectionCounts:
    """Made before the fork: a worker writes its own count and reads the others'.

    A worker's place follows from its age, of which gunicorn gives each worker another. Two that live together share a
    place only when hundreds died between them, and then merely share less evenly.
    """

    def __init__(self) -> None:
        self._counts = memoryview(mmap.mmap(-1, 4 * _PLACES)).cast("I")
        for place in range(_PLACES):
            self._counts[place] = _NO_WORKER

    def write(self, age: int, count: int) -> None:
        """Say how many connections the worker of that age has."""
        self._counts[age % _PLACES] = count

    def forget(self, age: int) -> None:
        """Say that the worker of that age accepts no more connections."""
        self._counts[age % _PLACES] = _NO_WORKER

    def fewest(self) -> int:
        """How many the worker has that has fewest; more than any can have when there is none."""
        return min(self._counts)
