"""The results of the clients: the accepted events, the answers by status, and their latencies."""

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

RETRIED = {408, 429, 503}
"""The only statuses other than acceptance for a valid event."""


@dataclass(frozen=True, slots=True)
class Sent:
    """An event of a customer: its number, and the connection of its first acceptance."""

    customer: str
    number: int
    connection: int


class History:
    """The results of all clients. Thread-safe."""

    def __init__(self) -> None:
        self.accepted: dict[str, Sent] = {}
        """By event id."""
        self.answers: Counter[str] = Counter()
        self.faults: list[str] = []
        """Answers that no client should get."""
        self._seconds: list[float] = []
        self._lock = threading.Lock()

    def accept(self, events: Iterable[tuple[str, Sent]], status: int, seconds: float) -> None:
        """Record an answer that accepted these events."""
        with self._lock:
            self.answers[str(status)] += 1
            self._seconds.append(seconds)
            for event_id, sent in events:
                self.accepted.setdefault(event_id, sent)

    def reject(self, status: int, path: str, text: str) -> None:
        """Record any other answer."""
        with self._lock:
            self.answers[str(status)] += 1
            if status not in RETRIED and len(self.faults) < 100:
                self.faults.append(f"{path} was answered {status}: {text[:300]}")

    def no_answer(self, error: Exception) -> None:
        """Record a broken connection, or a timeout."""
        with self._lock:
            self.answers[type(error).__name__] += 1

    def take_seconds(self) -> list[float]:
        """The sorted latencies of the acceptances since the last call."""
        with self._lock:
            taken, self._seconds = self._seconds, []
        return sorted(taken)
