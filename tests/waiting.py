"""Waits for a condition, in place of a sleep."""

import time
from collections.abc import Callable
from typing import Any


def eventually(condition: Callable[[], Any], timeout: float = 30.0, what: str = "it", every: float = 0.01) -> Any:
    """The condition's value once it is true; fails the test after `timeout` seconds. Checks it `every` N seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {timeout:g} s for {what}"
        time.sleep(every)
    return value
