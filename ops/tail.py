"""`make tail`: follows what is stored in MongoDB, one readable line an event.

`python -m ops.tail [-n 20] [--customer ID]` prints the events stored last, then each new one as it is stored.
"""

import argparse
import json
import os
import select
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import OperationFailure, PyMongoError

from common.errors import PulseError
from common.settings import MongoSettings, load_local_settings, read_dotenv
from common.terminal import printable

Document = dict[str, Any]

CHANGE_STREAMS_NEED_A_REPLICA_SET = 40573
COLORS = {"purchase": 32, "add_to_cart": 33, "search": 36, "click": 34, "custom": 35}  # ANSI; page_view stays plain
WIDEST_VALUE = 30
MOST_PROPERTIES = 5


def main() -> int:
    """Never returns while there are events to follow and a reader of the output. Raises PulseError, BrokenPipeError."""
    parser = argparse.ArgumentParser(prog="python -m ops.tail", description="Follow the events stored in MongoDB.")
    parser.add_argument("-n", type=int, default=20, metavar="N", help="of the events stored last, first (%(default)s)")
    parser.add_argument("--customer", metavar="ID", help="of this customer only")
    arguments = parser.parse_args()
    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    read_dotenv()
    events = _collection(load_local_settings().mongo)
    for event in follow(events, max(arguments.n, 0), arguments.customer):
        if event is not None:
            print(line(event, color=color), flush=True)
        elif _reader_is_gone():
            break
    return 0


def follow(events: Collection[Document], last: int, customer: str | None) -> Iterator[Document | None]:
    """Yields the `last` stored events, oldest first, then each new one; None about once a second while there is none.

    Rides out a restart of MongoDB without missing an event. Raises PulseError when MongoDB cannot be followed.
    """
    wanted = {} if customer is None else {"customer_id": customer}
    inserts = {"operationType": "insert", **{f"fullDocument.{name}": value for name, value in wanted.items()}}
    try:
        # The stream is opened first: what is stored while the last events are read then comes twice, not never.
        stream = events.watch([{"$match": inserts}], max_await_time_ms=1000)
        recent = list(events.find(wanted).sort("_id", -1).limit(last)) if last else []
    except PyMongoError as error:
        raise PulseError(_reason(error)) from error
    yield from reversed(recent)

    shown = {event["_id"] for event in recent}
    waiting = False
    while stream.alive:
        try:
            change = stream.try_next()
        except PyMongoError as error:
            if not stream.alive:
                raise PulseError(_reason(error)) from error
            if not waiting:
                print("waiting for MongoDB …", file=sys.stderr, flush=True)
            waiting = True
            time.sleep(1)
            continue
        waiting = False
        if change is None:
            yield None
        elif change["documentKey"]["_id"] not in shown:
            yield change["fullDocument"]
    raise PulseError("The collection was dropped; there is nothing more to follow.")


def line(event: Mapping[str, Any], *, color: bool) -> str:
    """One event as one line: time (UTC), type, customer, name, first properties, event_id. Safe to print anywhere."""
    moment, event_type = event.get("timestamp"), str(event.get("event_type"))
    time_ = f"{moment:%Y-%m-%d %H:%M:%S}" if isinstance(moment, datetime) else "no time"
    properties = event.get("properties") or {}
    pairs = [f"{_shown(name)}={_shown(value)}" for name, value in list(properties.items())[:MOST_PROPERTIES]]
    pairs += ["…"] * (len(properties) > MOST_PROPERTIES)
    kind = f"{printable(event_type):<11}"
    if color and event_type in COLORS:
        kind = f"\x1b[{COLORS[event_type]}m{kind}\x1b[0m"
    customer = f"{_shown(event.get('customer_id')):<14}"
    name = [_shown(event["event_name"])] if event.get("event_name") else []
    return "  ".join((f"{time_:<19}", kind, customer, *name, *pairs, printable(str(event.get("event_id")))))


def _shown(value: object) -> str:
    """A value in at most `WIDEST_VALUE` characters, quoted where blanks in it could pass for the end of it."""
    if isinstance(value, dict | list | bool | None):
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
        return printable(text if len(text) <= WIDEST_VALUE else text[: WIDEST_VALUE - 1] + "…")
    text = str(value)
    if len(text) > WIDEST_VALUE:
        text = text[: WIDEST_VALUE - 1] + "…"
    return printable(json.dumps(text, ensure_ascii=False) if not text or any(c in ' "=' for c in text) else text)


def _collection(settings: MongoSettings) -> Collection[Document]:
    client: MongoClient[Document] = MongoClient(
        settings.uri,
        connect=False,  # else mongodb+srv would query the DNS here, where its errors are not handled
        serverSelectionTimeoutMS=5_000,
        connectTimeoutMS=5_000,
        socketTimeoutMS=60_000,
        datetime_conversion="DATETIME_AUTO",  # a time beyond Python's years is no reason to stop
    )
    return client[settings.database][settings.collection]


def _reason(error: PyMongoError) -> str:
    text = str(error).split(" (", 1)[0].split(", full error", 1)[0]
    if isinstance(error, OperationFailure):
        if error.code == CHANGE_STREAMS_NEED_A_REPLICA_SET:
            return (
                "MongoDB runs as a standalone, which cannot be followed: start it as a replica set (one node will do)."
            )
        return f"MongoDB cannot be followed: {text}"
    return f"MongoDB is not reachable ({text}); is it running? `make run` or `make up` start one on this machine."


def _reader_is_gone() -> bool:
    """Whether the reader of our output has gone, as `| head` does; noticed while there is nothing to write."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    return bool(output.poll(0))


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        sys.exit(main())
    except PulseError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(0)  # the way to end it, not a failure
    except BrokenPipeError:
        # Python flushes stdout once more on its way out: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
