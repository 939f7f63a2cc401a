"""The load tools' wait until all sent events are stored."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from pymongo.errors import AutoReconnect

from loadtest import stored


class Collection:
    """Answers each query with the next of `counts` (page views) or raises it, and repeats the last."""

    def __init__(self, *counts: int | Exception) -> None:
        self.counts = list(counts)

    def aggregate(self, _pipeline: object) -> Iterator[dict[str, Any]]:
        count = self.counts.pop(0) if len(self.counts) > 1 else self.counts[0]
        if isinstance(count, Exception):
            raise count
        return iter([{"_id": "page_view", "count": count}] if count else [])


def wait(
    monkeypatch: pytest.MonkeyPatch, *counts: int | Exception, of: int = 10, patience: float = 60.0
) -> Counter[str]:
    monkeypatch.setattr(stored, "POLL_INTERVAL", 0.001)
    monkeypatch.setattr(stored, "PATIENCE", patience)
    collection: Any = Collection(*counts)
    return stored.wait_until_stored(collection, [{"event_id": f"event-{number:03}"} for number in range(of)])


def test_waits_until_all_events_are_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wait(monkeypatch, 0, 4, 4, 10) == {"page_view": 10}


def test_stops_waiting_when_no_more_events_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wait(monkeypatch, 0, 9, patience=0.05) == {"page_view": 9}


def test_continues_to_wait_while_mongodb_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wait(monkeypatch, 4, AutoReconnect("away"), 10) == {"page_view": 10}


def test_adds_up_the_counts_of_several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "WINDOW", 4)
    assert wait(monkeypatch, 4, 0, 2, 4, of=10) == {"page_view": 10}


def test_an_interrupted_tool_prints_its_progress() -> None:
    collection: Any = Collection(2)
    events = [{"event_id": f"event-{number}"} for number in range(4)]
    assert stored.interrupted(3, collection, events) == (
        "Interrupted: 3 of 4 events were accepted, and 2 are stored so far."
    )


@pytest.mark.parametrize("collection", [None, Collection(AutoReconnect("away"))])
def test_an_interrupted_tool_prints_that_the_number_of_stored_events_is_unknown(collection: Any) -> None:
    assert "and an unknown number are stored" in stored.interrupted(3, collection, [{"event_id": "event-0"}])
