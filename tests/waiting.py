"""Waiting for what comes true, instead of sleeping."""

import time
from collections.abc import Callable
from typing import Any


def eventually(condition: Callable[[], Any], timeout: float = 30.0, what: str = "it", every: float = 0.01) -> Any:
    """The condition's value once it is true; fails the test after `timeout` seconds. Checks `every` N seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout:g} s"
        time.sleep(every)
    return value
