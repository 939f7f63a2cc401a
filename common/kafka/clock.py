"""Has kafka-python-ng measure durations with the monotonic clock, as kafka-python does.

Otherwise, after the machine's clock has jumped back by an hour, a poll, the next attempt to connect and the next
heartbeat are an hour late. Only `client` uses it.
"""

import sys
import time
from types import SimpleNamespace

_MONOTONIC = SimpleNamespace(time=time.monotonic, sleep=time.sleep)
# They need the time of day, for records without one.
_TIME_OF_DAY = ("kafka.record.", "kafka.protocol.")


def use_monotonic() -> None:
    """Replace `time` in all modules of the client that are imported."""
    for name, module in list(sys.modules.items()):
        if name.startswith("kafka.") and not name.startswith(_TIME_OF_DAY) and vars(module).get("time") is time:
            module.time = _MONOTONIC  # type: ignore[attr-defined]
