"""Clients that send events in order and retry until a 202, and bare connections."""

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import requests


class Client(threading.Thread):
    """Sends one customer's numbered events over one connection, some single, some in batches, some twice.

    It sends a request without an answer, or with a 503, again with the same ids until a 202. `pause`: seconds between
    two requests; `timeout`: seconds to wait for an answer; without `keep_alive`, each request uses a new connection.
    """

    def __init__(
        self,
        url: str,
        customer: str,
        count: int,
        *,
        batch: int = 25,
        pause: float = 0.0,
        timeout: float = 30.0,
        keep_alive: bool = True,
    ) -> None:
        super().__init__(name=customer, daemon=True)
        self.url = url
        self.events = [event(customer, number) for number in range(count)]
        self.accepted = 0
        self._batch = batch
        self._pause = pause
        self._timeout = timeout
        self._session = requests.Session()
        if not keep_alive:
            self._session.headers["Connection"] = "close"

    def run(self) -> None:
        number = 0
        while number < len(self.events):
            # Alternate single events and batches; send every tenth request twice.
            size = 1 if number % 3 else self._batch
            chunk = self.events[number : number + size]
            self._send(chunk)
            if number % 10 == 0:
                self._send(chunk)
            number += len(chunk)
            self.accepted = number
            time.sleep(self._pause)

    def _send(self, chunk: list[dict[str, Any]]) -> None:
        while True:
            try:
                answer = self._post(chunk)
            except requests.RequestException:  # no answer, or an incomplete one
                time.sleep(0.05)
                continue
            if answer.status_code == 202:
                return
            assert answer.status_code == 503, answer.text
            time.sleep(0.05)

    def _post(self, chunk: list[dict[str, Any]]) -> requests.Response:
        if len(chunk) == 1:
            return self._session.post(f"{self.url}/api/v1/track", json=chunk[0], timeout=self._timeout)
        return self._session.post(f"{self.url}/api/v1/track/batch", json={"events": chunk}, timeout=self._timeout)


class SteadyClient(threading.Thread):
    """Sends one customer's numbered events one by one, at a rate per second, each once, and counts the answers."""

    def __init__(self, url: str, customer: str, count: int, *, rate: float) -> None:
        super().__init__(name=customer, daemon=True)
        self.url = url
        self.answers: Counter[int] = Counter()
        self._events = [event(customer, number) for number in range(count)]
        self._rate = rate

    def run(self) -> None:
        begun = time.monotonic()
        with requests.Session() as session:
            for number, sent in enumerate(self._events):
                time.sleep(max(0.0, begun + number / self._rate - time.monotonic()))
                self.answers[session.post(f"{self.url}/api/v1/track", json=sent, timeout=30).status_code] += 1


@contextlib.contextmanager
def connections(url: str, count: int, begin: bytes) -> Iterator[list[socket.socket]]:
    """N connections on which the client sends `begin` and then stays silent."""
    address = urlsplit(url)
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            connection = stack.enter_context(socket.create_connection((address.hostname, address.port), timeout=30))
            connection.sendall(begin)
            opened.append(connection)
        yield opened


def read_all(connection: socket.socket) -> bytes:
    """What the peer sends until it closes the connection."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def event(customer: str, number: int) -> dict[str, Any]:
    """An event with its customer and number, and with values of every type."""
    return {
        "event_id": f"{customer}-{number}",
        "customer_id": customer,
        "event_type": ("page_view", "click", "purchase")[number % 3],
        "timestamp": datetime(2026, 1, 31, 12, 0, number % 60, number * 1000 % 1_000_000, tzinfo=UTC).isoformat(),
        "properties": {"number": number, "price": number / 10, "text": "ä\n", "gift": number % 2 == 0},
        "context": {"device": "phone", "ip": "::1"},
    }
