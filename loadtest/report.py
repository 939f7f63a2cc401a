"""The report of a load test: the number of its events in each place, and the latencies."""

from collections import Counter
from dataclasses import dataclass, field
from math import ceil


@dataclass(frozen=True, slots=True)
class Answer:
    """The API's answer to one batch. `at`: seconds after the first request; `took`: seconds; `events`: accepted."""

    at: float
    took: float
    events: int


@dataclass(frozen=True, slots=True)
class Unknown:
    """An unknown value, with the reason."""

    reason: str


@dataclass(slots=True)
class Run:
    """One load test. `in_kafka`, `in_mongodb`: the times of arrival of the events, in seconds after the first was sent.

    Those times are by the clocks of the machines of the API and the consumer. `refused` counts events by reason.
    `seen_stored` is the end of the wait for MongoDB, by the clock of this machine.
    """

    url: str
    events: int
    batches: int
    users: int
    answers: list[Answer] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    in_kafka: list[float] | Unknown = Unknown("not looked at yet")
    in_mongodb: list[float] | Unknown = Unknown("not looked at yet")
    seen_stored: float = 0.0

    @property
    def accepted(self) -> int:
        return sum(answer.events for answer in self.answers)

    @property
    def sending(self) -> float:
        """Seconds from the first request to the last answer."""
        return max(answer.at for answer in self.answers)

    @property
    def percentiles(self) -> dict[str, float]:
        """Percentiles of the latency, in seconds."""
        took = sorted(answer.took for answer in self.answers)
        return {f"p{percent}": took[ceil(len(took) * percent / 100) - 1] for percent in (50, 95, 99)}

    @property
    def answer_times(self) -> str:
        return ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in self.percentiles.items())

    @property
    def complete(self) -> bool:
        """Whether each event was accepted, and no readable place lacks one."""
        known = (times for times in (self.in_kafka, self.in_mongodb) if not isinstance(times, Unknown))
        return self.accepted == self.events and all(len(times) == self.events for times in known)


def lines(run: Run) -> list[str]:
    """The lines of the report."""
    rows = {
        "accepted": _of(run.accepted, run.events),
        "refused": f"{run.refused.total():,}",
        "in Kafka": _arrived(run.in_kafka, run.events),
        "in MongoDB": _arrived(run.in_mongodb, run.events),
        "accepting": f"{run.accepted / run.sending:,.0f} events/s, {run.sending:.2f} s in all",
        "answers": run.answer_times,
    }
    if not isinstance(run.in_mongodb, Unknown) and run.in_mongodb:
        rows["last stored"] = f"{run.seen_stored:.1f} s after the first was sent"
    reasons = [f"{'':14}{count:,} events: {reason}" for reason, count in run.refused.most_common()]
    report = [f"{name:<14}{text}" for name, text in rows.items()]
    return [*report[:2], *reasons, *report[2:]]


def _arrived(times: list[float] | Unknown, events: int) -> str:
    return f"not known: {times.reason}" if isinstance(times, Unknown) else _of(len(times), events)


def _of(count: int, events: int) -> str:
    missing = f", {events - count:,} missing" if count < events else ""
    return f"{count:,} of {events:,}{missing}"
