"""Drives CloudEvents' SDK for Python, which only builds requests; the package requests sends and retries them.

A client's option `mode` is binary, structured or batched. `{"call": …}` has the attributes and the data of an event.
"""

import json
import sys
from datetime import datetime
from typing import Any

import requests
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from requests.adapters import HTTPAdapter
from urllib3 import Retry

AGAIN = Retry(
    total=10, backoff_factor=0.2, status_forcelist=(429, 500, 503), allowed_methods=None, raise_on_status=False
)
IN_A_REQUEST = {"binary": 1, "structured": 1, "batched": 100}


class Client:
    def __init__(self, url: str, key: str, mode: str) -> None:
        self._url = f"{url}/api/v1/cloudevents"
        self._mode = mode
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {key}"
        self._session.mount("http://", HTTPAdapter(max_retries=AGAIN))
        self._waiting: list[CloudEvent] = []
        self.told: dict[int, str] = {}

    def send(self, message: dict[str, Any]) -> None:
        attributes = message["attributes"] | {"time": datetime.fromisoformat(message["attributes"]["time"])}
        self._waiting.append(CloudEvent(attributes, message["data"]))
        if len(self._waiting) == IN_A_REQUEST[self._mode]:
            self.flush()

    def flush(self) -> None:
        if not self._waiting:
            return
        headers, body = self._request()
        answer = self._session.post(self._url, data=body, headers=headers, timeout=30)
        if not answer.ok:
            self.told |= {event.get_extension("call"): f"HTTP {answer.status_code}" for event in self._waiting}
        self._waiting = []

    def _request(self) -> tuple[dict[str, str], bytes]:
        if self._mode == "batched":
            events = b",".join(to_structured_event(event).body for event in self._waiting)
            return {"Content-Type": "application/cloudevents-batch+json"}, b"[%b]" % events
        make = to_binary_event if self._mode == "binary" else to_structured_event
        message = make(self._waiting[0])
        return message.headers, message.body


def main() -> None:
    clients: dict[str, Client] = {}
    for line in sys.stdin:
        order = json.loads(line)
        if "url" in order:
            clients[order["client"]] = Client(order["url"], order["key"], **order["options"])
        else:
            clients[order["client"]].send(order["message"])
    for client in clients.values():
        client.flush()
    json.dump({name: client.told for name, client in clients.items()}, sys.stdout)


if __name__ == "__main__":
    main()
