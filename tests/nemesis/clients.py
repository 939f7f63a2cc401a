"""Clients on native and Segment's routes, with single events, batches and retries; and Segment's SDK for Python."""

import http.client
import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from segment.analytics.client import Client as SegmentClient

from tests.clients import event
from tests.nemesis.history import History, Sent

SIZES = (1, 1, 1, 1, 8, 40)
"""The numbers of events in a request."""
TIMEOUT = 10.0  # seconds for an answer

Request = Callable[[Sequence[dict[str, Any]]], tuple[str, dict[str, Any]]]
"""Returns the path and the body for some events."""


def native(events: Sequence[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    if len(events) == 1:
        return "/api/v1/track", events[0]
    return "/api/v1/track/batch", {"events": list(events)}


def segment(events: Sequence[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """The request of Segment's and RudderStack's SDKs for servers: a retry has a new `sentAt` and the same ids."""
    messages = [_message(one) for one in events]
    sent_at = datetime.now(UTC).isoformat()
    if len(messages) == 1:
        return f"/v1/{messages[0]['type']}", {**messages[0], "sentAt": sent_at, "writeKey": "any"}
    return "/v1/batch", {"batch": messages, "sentAt": sent_at, "writeKey": "any"}


def _message(sent: dict[str, Any]) -> dict[str, Any]:
    number = sent["properties"]["number"]
    kind: dict[str, Any] = (
        {"type": "page", "name": "Home"}
        if number % 3 == 0
        else {"type": "track", "event": ("Order Completed", "Seen")[number % 2]}
    )
    return {
        **kind,
        "messageId": sent["event_id"],
        "userId": sent["customer_id"],
        "timestamp": sent["timestamp"],
        "properties": {**sent["properties"], "products": [{"sku": "a", "price": 1.5}, {"sku": None}]},
        "context": {"library": {"name": "nemesis"}, "ip": "::1"},
    }


class Sender(threading.Thread):
    """Sends one customer's numbered events, at a rate per second, until `stop`; after a failure, at the next URL.

    It retries each request until it is accepted, so all events are accepted when the thread ends. It sends some
    accepted requests again.
    """

    def __init__(self, urls: Sequence[str], customer: str, request: Request, rate: float, history: History) -> None:
        super().__init__(name=customer, daemon=True)
        self._addresses = [urlsplit(url).netloc for url in urls]
        self._customer = customer
        self._request = request
        self._rate = rate
        self._history = history
        self._chance = random.Random(customer)
        self._stopping = threading.Event()
        self._connection: http.client.HTTPConnection | None = None
        self._connections = 0

    def stop(self) -> None:
        """End once the request in flight is accepted."""
        self._stopping.set()

    def run(self) -> None:
        number, due = 0, time.monotonic()
        while not self._stopping.wait(due - time.monotonic()):
            events = [event(self._customer, number + more) for more in range(self._chance.choice(SIZES))]
            self._send(events)
            if self._chance.random() < 0.05 and self._connection is not None:
                # Again on the same connection: on another one, these events could overtake earlier ones.
                self._accepted(events)
            number += len(events)
            # After an outage, it continues at its rate, without a burst.
            due = max(due + len(events) / self._rate, time.monotonic())
        self._close()

    def _send(self, events: list[dict[str, Any]]) -> None:
        while not self._accepted(events):
            time.sleep(self._chance.uniform(0.1, 0.5))

    def _accepted(self, events: list[dict[str, Any]]) -> bool:
        path, body = self._request(events)
        begun = time.monotonic()
        try:
            connection = self._connect()
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read().decode()
            # Not JSON: a connection that breaks within the headers looks like an empty body.
            said = json.loads(text)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._history.no_answer(error)
            self._close()
            return False
        if connection.sock is None:
            # The server closed the connection. Otherwise the next request would open a new one unnoticed.
            self._close()
        if answer.status not in (200, 202) or "rejected" in said:
            self._history.reject(answer.status, path, text)
            self._close()
            return False
        numbers = ((one["event_id"], one["properties"]["number"]) for one in events)
        sent = [(event_id, Sent(self._customer, number, self._connections)) for event_id, number in numbers]
        self._history.accept(sent, answer.status, time.monotonic() - begun)
        return True

    def _connect(self) -> http.client.HTTPConnection:
        if self._connection is None:
            self._connections += 1
            address = self._addresses[self._connections % len(self._addresses)]
            self._connection = http.client.HTTPConnection(address, timeout=TIMEOUT)
            self._connection.connect()
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Sdk(threading.Thread):
    """Sends one customer's numbered events with Segment's SDK, which batches and retries, until `stop`.

    The SDK does not say which events were accepted: all of them are when the thread ends.
    """

    def __init__(self, url: str, customer: str, rate: float, history: History) -> None:
        super().__init__(name=customer, daemon=True)
        self._url = url
        self._rate = rate
        self._history = history
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End once the SDK has sent everything."""
        self._stopping.set()

    def run(self) -> None:
        # By default, it gives up after ten retries.
        client = SegmentClient("any", host=self._url, timeout=TIMEOUT, max_retries=10_000)
        number, due = 0, time.monotonic()
        while not self._stopping.wait(due - time.monotonic()):
            one = event(self.name, number)
            client.track(self.name, "Seen", one["properties"], message_id=one["event_id"])
            number += 1
            due += 1 / self._rate
        begun = time.monotonic()
        client.flush()
        client.join()
        # Each with a connection of its own: a retry may overtake on another one.
        sent = [(f"{self.name}-{each}", Sent(self.name, each, connection=each)) for each in range(number)]
        self._history.accept(sent, 200, time.monotonic() - begun)
