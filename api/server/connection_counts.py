"""The number of connections of each worker, in shared memory, to distribute new connections evenly."""

import mmap

_PLACES = 256
_NO_WORKER = 2**32 - 1


class ConnectionCounts:
    """Create it before the fork: a worker writes its own count and reads those of the others.

    A worker's slot follows from its age, gunicorn's serial number of workers. Two live workers share a slot only if
    hundreds died between them, and then the distribution is merely less even.
    """

    def __init__(self) -> None:
        self._counts = memoryview(mmap.mmap(-1, 4 * _PLACES)).cast("I")
        for place in range(_PLACES):
            self._counts[place] = _NO_WORKER

    def write(self, age: int, count: int) -> None:
        """Set the number of connections of the worker with that age."""
        self._counts[age % _PLACES] = count

    def forget(self, age: int) -> None:
        """Record that the worker with that age accepts no more connections."""
        self._counts[age % _PLACES] = _NO_WORKER

    def fewest(self) -> int:
        """The smallest count of all workers; a huge number if there are no workers."""
        return min(self._counts)
