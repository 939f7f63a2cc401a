"""The wait until all that was sent is stored."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from pymongo.errors import AutoReconnect

from loadtest import stored


class Collection:
    """Answers each count with the next of `counts` (page views), an exception by raising it; then with the last."""

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


def test_waits_until_all_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wait(monkeypatch, 0, 4, 4, 10) == {"page_view": 10}


def test_stops_waiting_when_nothing_more_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wait(monkeypatch, 0, 9, patience=0.05) == {"page_view": 9}


def test_waits_on_while_mongodb_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wait(monkeypatch, 4, AutoReconnect("away"), 10) == {"page_view": 10}


def test_adds_up_what_is_counted_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "WINDOW", 4)
    assert wait(monkeypatch, 4, 0, 2, 4, of=10) == {"page_view": 10}


def test_says_how_far_an_interrupted_tool_got() -> None:
    collection: Any = Collection(2)
    events = [{"event_id": f"event-{number}"} for number in range(4)]
    assert stored.interrupted(3, collection, events) == (
        "Interrupted: 3 of 4 events were accepted, and 2 are stored so far."
    )


@pytest.mark.parametrize("collection", [None, Collection(AutoReconnect("away"))])
def test_an_interrupted_tool_says_when_it_cannot_see_what_is_stored(collection: Any) -> None:
    assert "and an unknown number are stored" in stored.interrupted(3, collection, [{"event_id": "event-0"}])
