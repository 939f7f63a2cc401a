"""The figures of the flow: read from /metrics of the API and the consumer, as totals, rates and fifteen minutes."""

import math
import socket
import threading
import time
import urllib.request
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from common.threads import start_thread

STEP_SECONDS = 10.0
"""Of the history."""
STEPS = 90
"""Fifteen minutes."""
_WATCHED_SECONDS = 2.0
_WATCHING_SECONDS = 15.0
_TIMEOUT_SECONDS = 2.0
_MOST_BYTES = 8 * 1024 * 1024
_RATE_SECONDS = 10.0

# The counters of each box, from the API or from the consumer; and the gauges of what waits before the next box.
_COUNTERS = {
    "refused": ("pulse_api_refused_kept_total", "pulse_api_refused_dropped_total"),
    "accepted": ("pulse_api_events_accepted_total",),
    "in_kafka": ("pulse_api_events_produced_total",),
    "stored": ("pulse_consumer_events_stored_total",),
    "dead_letters": ("pulse_consumer_dlq_total",),
}
BOXES = tuple(_COUNTERS)
_OF_API = "pulse_api_"
_WANTED = frozenset(
    {
        *(name for names in _COUNTERS.values() for name in names),
        *("pulse_api_queue_depth", "pulse_api_journal_events", "pulse_api_journal_filled_ratio"),
        *("pulse_api_oldest_unsent_timestamp_seconds", "pulse_consumer_kafka_lag", "pulse_consumer_buffer_size"),
        *("pulse_consumer_duplicates_skipped_total", "pulse_api_journal_set_aside_events"),
    }
)


def parse(text: str) -> dict[str, float]:
    """The sums of the wanted metrics over all their labels, from Prometheus' text format. Skips what it cannot read."""
    sums: dict[str, float] = defaultdict(float)
    for line in text.splitlines():
        name = line.partition(" ")[0].partition("{")[0]
        if name in _WANTED:
            try:
                value = float(line.rpartition(" ")[2])
            except ValueError:
                continue
            if math.isfinite(value):
                sums[name] += value
    return dict(sums)


def each_address(url: str) -> list[str]:
    """The URL, or, if its name resolves to several machines (for example a headless Service), one URL for each."""
    parts = urlsplit(url)
    if parts.scheme != "http":
        return [url]
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 80, socket.AF_INET, socket.SOCK_STREAM)
    except OSError:
        return [url]
    addresses = sorted({address[0] for *_, address in found})
    return [f"http://{address}:{parts.port or 80}" for address in addresses] if len(addresses) > 1 else [url]


def fetch(url: str) -> str:
    """The text of /metrics. Blocks some seconds; raises OSError, HTTPException."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310, of the settings
        text: str = answer.read(_MOST_BYTES).decode(errors="replace")
        return text


@dataclass(slots=True)
class Source:
    """A process with metrics. `problem`: why the last read failed."""

    url: str
    what: str
    last: Mapping[str, float] = field(default_factory=dict)
    added: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    found: Mapping[str, float] | None = None
    """The first values, whose rate is unknown."""
    problem: str | None = "not read yet"

    def read(self, now: Mapping[str, float]) -> None:
        """Take over the current values. A counter that went down restarted with its process."""
        for name in _WANTED:
            if name.endswith("_total"):
                before, after = self.last.get(name, 0.0), now.get(name, 0.0)
                self.added[name] += after - before if after >= before else after
        self.found = now if self.found is None else self.found
        self.last, self.problem = now, None


class Figures:
    """Reads all processes regularly, more often while a viewer is connected. Thread-safe."""

    def __init__(
        self,
        api_urls: Iterable[str],
        consumer_urls: Iterable[str],
        fetch: Callable[[str], str] = fetch,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._named = [(url, "API") for url in api_urls] + [(url, "consumer") for url in consumer_urls]
        self._sources: list[Source] = []
        self._gone: list[Source] = []
        self._fetch = fetch
        self._clock = clock
        self._lock = threading.Lock()
        self._watched_at = -math.inf
        self._wake = threading.Event()
        self._lately: deque[tuple[float, dict[str, float]]] = deque()
        self._history: deque[dict[str, float]] = deque(maxlen=STEPS)
        self._stepped: tuple[float, dict[str, float]] | None = None

    def start(self) -> None:
        """Start reading."""
        start_thread("figures", self._run, on_death=lambda: None)

    def watch(self) -> None:
        """A viewer has asked."""
        idle = self._clock() - self._watched_at > _WATCHING_SECONDS
        self._watched_at = self._clock()
        if idle:
            self._wake.set()

    def read(self) -> None:
        """Read all of them once. Blocks some seconds each."""
        there = {url: what for name, what in self._named for url in each_address(name)}
        with self._lock:
            # The counters of a dead process still count; its gauges do not.
            self._gone += [source for source in self._sources if source.url not in there]
            kept = {source.url: source for source in self._sources if source.url in there}
            self._sources = [kept.get(url) or Source(url, what) for url, what in there.items()]
        for source in self._sources:
            try:
                now = parse(self._fetch(source.url))
            except (OSError, HTTPException, ValueError) as error:
                source.problem = str(getattr(error, "reason", None) or error) or repr(error)
            else:
                with self._lock:
                    source.read(now)
        with self._lock:
            self._remember(self._clock(), self._sums(seen_only=True))

    def flow(self) -> dict[str, dict[str, Any]]:
        """The total, the rate, the number waiting, and the rates of the last fifteen minutes of each box, oldest
        first.
        """
        with self._lock:
            totals = self._sums()
            rates = self._rates()
            waiting = self._waiting()
            history = list(self._history)
        return {
            box: {
                "total": round(totals[box]),
                "per_second": round(rates[box], 2),
                "waiting": waiting.get(box, 0),
                "history": [round(step[box], 2) for step in history],
            }
            for box in BOXES
        }

    def value(self, name: str) -> float:
        """A gauge, summed over all processes that answer."""
        with self._lock:
            return self._sum(name)

    def oldest(self, name: str) -> float:
        """A gauge that holds a time: the earliest of all processes that answer, 0 if none has one."""
        with self._lock:
            times = [value for source in self._sources if (value := source.last.get(name)) and source.problem is None]
        return min(times, default=0.0)

    def problems(self) -> dict[str, list[str]]:
        """The processes that could not be read, by kind, with the reason."""
        found: dict[str, list[str]] = {"API": [], "consumer": []}
        for source in self._sources:
            if source.problem is not None:
                found[source.what].append(f"{source.url}: {source.problem}")
        return found

    def _run(self) -> None:
        while True:
            self.read()
            watched = self._clock() - self._watched_at < _WATCHING_SECONDS
            self._wake.wait(_WATCHED_SECONDS if watched else STEP_SECONDS)
            self._wake.clear()

    def _sums(self, *, seen_only: bool = False) -> dict[str, float]:
        """The count of each box; `seen_only`: the count since each process was first read."""
        return {
            box: sum(
                source.added.get(name, 0.0) - (source.found or {}).get(name, 0.0) * seen_only
                for source in (*self._sources, *self._gone)
                for name in names
            )
            for box, names in _COUNTERS.items()
        }

    def _remember(self, now: float, totals: dict[str, float]) -> None:
        if all(source.problem for source in self._sources):
            return
        self._lately.append((now, totals))
        while now - self._lately[0][0] > _RATE_SECONDS and len(self._lately) > 2:
            self._lately.popleft()
        if self._stepped is None:
            self._stepped = now, totals
        elif now - self._stepped[0] >= STEP_SECONDS:
            then, before = self._stepped
            self._history.append({box: (totals[box] - before[box]) / (now - then) for box in BOXES})
            self._stepped = now, totals

    def _rates(self) -> dict[str, float]:
        if len(self._lately) < 2:
            return dict.fromkeys(BOXES, 0.0)
        (then, before), (now, totals) = self._lately[0], self._lately[-1]
        return {box: (totals[box] - before[box]) / max(now - then, 0.001) for box in BOXES}

    def _waiting(self) -> dict[str, int]:
        """The number of events that wait after each box."""
        # With the journal on, it includes the events in memory.
        unsent = max(self._sum("pulse_api_journal_events"), self._sum("pulse_api_queue_depth"))
        unstored = self._sum("pulse_consumer_kafka_lag") + self._sum("pulse_consumer_buffer_size")
        return {"accepted": round(unsent), "in_kafka": round(unstored)}

    def _sum(self, name: str) -> float:
        return sum(source.last.get(name, 0.0) for source in self._sources if source.problem is None)
