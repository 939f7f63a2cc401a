"""The tail: one safe line per event, and no event missed or shown twice."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from pymongo.errors import AutoReconnect, OperationFailure, ServerSelectionTimeoutError

from common.errors import PulseError
from ops.tail import Document, follow, line

EVENT: Document = {
    "_id": 1,
    "event_id": "evt_1",
    "customer_id": "alice",
    "event_type": "purchase",
    "timestamp": datetime(2026, 1, 31, 12, 0, 5, 999_000, UTC),
    "properties": {"total": 208.4, "items": 2, "gift": True},
}


# ── The line ──


def test_a_line_has_time_type_customer_properties_and_id() -> None:
    assert line(EVENT, color=False) == (
        "2026-01-31 12:00:05  purchase     alice           total=208.4  items=2  gift=true  evt_1"
    )


def test_only_the_type_is_coloured() -> None:
    assert line(EVENT, color=True) == line(EVENT, color=False).replace("purchase   ", "\x1b[32mpurchase   \x1b[0m")


@pytest.mark.parametrize(
    "text",
    ["\x1b[2J", "\x07", "\r\n", "\t", "\x7f", "\x9b31m", "\u202e", "\u2028", "\x00", "\u200b"],
    ids=lambda text: text.encode("unicode_escape").decode(),
)
@pytest.mark.parametrize("field", ["event_id", "customer_id", "event_type", "event_name", "name", "value", "nested"])
def test_control_characters_are_escaped(text: str, field: str) -> None:
    hostile = {**EVENT, field: f"a {text} b", "properties": {"x": 1}}
    properties = {"name": {f"a{text}b": 1}, "value": {"x": f"a {text} b"}, "nested": {"x": [f"a {text} b"]}}
    if field in properties:
        hostile["properties"] = properties[field]
    assert line(hostile, color=False).isprintable()


def test_text_of_any_language_stays_readable() -> None:
    assert "q=späť→日本" in line({**EVENT, "properties": {"q": "späť→日本"}}, color=False)


def test_a_value_cannot_look_like_another_field() -> None:
    assert 'q="x  evt_2 y=1"' in line({**EVENT, "properties": {"q": "x  evt_2 y=1"}}, color=False)


def test_the_name_precedes_the_properties_and_nested_values_are_json() -> None:
    properties = {"products": [{"sku": "a", "n": None}], "coupon": None}
    shown = line({**EVENT, "event_name": "Order Completed", "properties": properties}, color=False)
    assert '"Order Completed"  products=[{"sku":"a","n":null}]  coupon=null  evt_1' in shown


def test_long_values_are_cut_and_many_properties_left_out() -> None:
    shown = line({**EVENT, "properties": {f"p{number}": "v" * 100 for number in range(50)}}, color=False)
    assert len(shown) < 300
    assert shown.endswith("…  evt_1")


def test_an_event_without_properties_or_time_is_shown() -> None:
    assert line({"event_id": "evt_1", "customer_id": "a", "event_type": "click"}, color=False) == (
        "no time              click        a               evt_1"
    )


# ── Following ──


class Stream:
    """A change stream that returns its changes, raises those that are exceptions, and then closes."""

    def __init__(self, changes: list[Any]) -> None:
        self.changes = changes

    @property
    def alive(self) -> bool:
        return bool(self.changes)

    def try_next(self) -> Any:
        change = self.changes.pop(0)
        if isinstance(change, Exception):
            raise change
        return change and {"documentKey": {"_id": change["_id"]}, "fullDocument": change}


class Collection:
    """Has `stored` documents, newest first; records the order of the calls to it in `calls`."""

    def __init__(self, stored: list[Document], changes: list[Any]) -> None:
        self.stored, self.changes = stored, changes
        self.calls: list[str] = []

    def watch(self, _pipeline: object, **_: object) -> Stream:
        self.calls.append("watch")
        return Stream(self.changes)

    def find(self, _wanted: object) -> "Collection":
        self.calls.append("find")
        return self

    def sort(self, *_: object) -> "Collection":
        return self

    def limit(self, count: int) -> Iterator[Document]:
        return iter(self.stored[:count])


def followed(collection: Any, last: int = 20) -> list[Document | None]:
    """All events that the tail shows until the stream closes."""
    seen: list[Document | None] = []
    with pytest.raises(PulseError, match="dropped"):
        seen.extend(follow(collection, last, None))
    return seen


A, B, C = ({"_id": number} for number in (1, 2, 3))


def test_shows_the_last_ones_oldest_first_then_new_ones() -> None:
    assert followed(Collection([B, A], [C, None])) == [A, B, C, None]


def test_shows_the_requested_number_of_last_events() -> None:
    assert followed(Collection([B, A], [C]), last=1) == [B, C]


def test_an_event_stored_during_the_first_query_is_shown_once() -> None:
    collection = Collection([B, A], [B, C])
    assert followed(collection) == [A, B, C]
    assert collection.calls == ["watch", "find"]


def test_waits_for_a_mongodb_that_restarts_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    away = ServerSelectionTimeoutError("away")
    assert followed(Collection([A], [AutoReconnect("away"), away, B, None])) == [A, B, None]
    assert capsys.readouterr().err == "waiting for MongoDB …\n"


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (OperationFailure("The $changeStream stage is only supported on replica sets", 40573), "replica set"),
        (
            ServerSelectionTimeoutError("localhost:1: refused (configured timeouts: …)"),
            r"\(localhost:1: refused\).*make run",
        ),
    ],
    ids=["standalone", "away"],
)
def test_an_error_has_the_reason_and_advice(error: Exception, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def watch(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Collection, "watch", watch)
    collection: Any = Collection([], [])
    with pytest.raises(PulseError, match=advice):
        next(follow(collection, 20, None))
