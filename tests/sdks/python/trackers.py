"""Drives Segment's SDK for Python, or RudderStack's, which has the same API: `trackers.py segment|rudderstack`."""

import importlib
import json
import re
import sys
from datetime import datetime
from functools import partial
from typing import Any

Told = dict[int, str]


def main() -> None:
    sdk = importlib.import_module(f"{sys.argv[1]}.analytics")
    clients: dict[str, Any] = {}
    told: dict[str, Told] = {}
    for line in sys.stdin:
        order = json.loads(line)
        name = order["client"]
        if "url" in order:
            on_error = partial(note, told.setdefault(name, {}))
            clients[name] = sdk.Client(order["key"], host=order["url"], on_error=on_error, **order["options"])
        else:
            getattr(clients[name], order["call"])(**arguments(order["message"]))
    for client in clients.values():
        client.shutdown()
    json.dump(told, sys.stdout)


def note(told: Told, error: Exception, batch: list[dict[str, Any]]) -> None:
    told |= {message["context"]["call"]: str(error) for message in batch}


def arguments(message: dict[str, Any]) -> dict[str, Any]:
    """The arguments in the form of this SDK: `user_id` for `userId`, and a datetime for a time."""
    named = {re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", name): value for name, value in message.items()}
    return named | {"timestamp": datetime.fromisoformat(message["timestamp"])}


if __name__ == "__main__":
    main()
