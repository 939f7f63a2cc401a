"""What work costs, in readings: the CPU that Python takes to read a plain document, on this machine at this moment."""

import json
import time
from collections.abc import Callable

_DOCUMENT = json.dumps([{"customer_id": "a", "properties": {"price": 1.5, "name": "x"}}] * 16_000).encode()
"""About 1 MiB."""


def reading() -> float:
    """The CPU seconds of this thread that one reading takes."""
    return _thread_seconds(lambda: json.loads(_DOCUMENT))


def readings(work: Callable[[], object], most: float) -> float:
    """What the work costs this thread: the least of three tries, since others on the machine disturb its caches. Tries
    again only while the result is not below `most`.
    """
    tries: list[float] = []
    while len(tries) < 3 and min(tries, default=most) >= most:
        tries.append(_thread_seconds(work) / reading())
    return min(tries)


def _thread_seconds(work: Callable[[], object]) -> float:
    begun = time.thread_time()
    work()
    return time.thread_time() - begun
