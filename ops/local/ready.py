"""`python -m ops.local.ready`: says when each part of the local stack is ready and what to try then."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPConnection, HTTPException

from common.addresses import Address
from common.settings import LocalSettings, load_local_settings, own_write_key, read_dotenv
from ops.local.ports import answers, broker_port, mongodb_port

SLOW, LATE = 5.0, 60.0  # seconds
CURL = (
    "curl -X POST {url}/api/v1/track -H 'Content-Type: application/json' {key}"
    """-d '{{"customer_id":"alice","event_type":"page_view","properties":{{"page":"/"}}}}'"""
)
# What is indented is to be copied: `foreground.Lines` puts nothing before it.
HINT = f"""\
See where every event is: {{console}}   and make some in its shop: {{console}}/demo
Pulse takes events at {{url}}/api/v1/track. Try, in another terminal:
  {CURL}
  make seed    # sends the journeys of three shoppers
  make tail    # shows what is stored, as it is stored
Ctrl-C stops everything; the data stays."""


def parts(settings: LocalSettings) -> dict[str, Callable[[], bool]]:
    """Each part's name, and what tells whether it is ready."""
    broker = "broker (Apache Kafka)" if settings.broker == "kafka" else "broker (noida-db, for a first look only)"
    return {
        broker: lambda: answers(broker_port(settings)),
        "database (SecantusDB)": lambda: answers(mongodb_port(settings)),
        "API": lambda: is_well(settings.api_address, "/health/ready"),
        "consumer": lambda: is_well(settings.metrics_address, "/health"),
        "console": lambda: is_well(settings.console_address, "/health/live"),
    }


def is_well(address: Address, path: str) -> bool:
    """Whether a GET is answered with 200. Blocks for at most some 2 s."""
    connection = HTTPConnection(address.url.removeprefix("http://"), timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def report(
    checks: Mapping[str, Callable[[], bool]], clock: Callable[[], float], sleep: Callable[[float], None]
) -> Iterator[str]:
    """A line for each part when it becomes ready, one when some are slow, one when late. Ends when all are ready."""
    started = clock()
    waiting = dict(checks)
    notices = {SLOW: "still waiting for {}", LATE: f"not ready after {LATE:g} s: {{}}; see what it says above"}
    while waiting:
        for name in [name for name, ready in waiting.items() if ready()]:
            del waiting[name]
            yield f"{name} is ready after {clock() - started:.1f} s"
        for due in [due for due in notices if waiting and clock() - started > due]:
            yield notices.pop(due).format(", ".join(waiting))
        sleep(0.1)


if __name__ == "__main__":
    read_dotenv()
    settings = load_local_settings()
    for line in report(parts(settings), time.monotonic, time.sleep):
        print(line, flush=True)
    key = "-H 'X-API-Key: YOUR KEY' " if own_write_key() else ""
    print(HINT.format(console=settings.console_address.url, url=settings.api_address.url, key=key), flush=True)
    signal.pause()  # honcho stops everything as soon as one process ends
