"""`make replay`: rows to events, back-pressure, and the wait until all is stored. (Dead letters: test_dlq.py.)"""

import gzip
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from common.errors import PulseError
from common.event_json import load_batch
from loadtest import client, replay
from loadtest.client import Event

HEADER = "user_id,session_id,event,timestamp,platform,acquisition_channel,user_cohort,user_lifecycle"
ROW = "user_0001,sess_000002,{},2024-03-13 10:21:14,mobile,email,2024-01,loyal"


def row(event: str = "home") -> dict[str, str]:
    return dict(zip(HEADER.split(","), ROW.format(event).split(","), strict=True))


def events(count: int) -> list[Event]:
    return [replay.event_of(row(), position) for position in range(1, count + 1)]


# ── Rows ──


def test_a_row_becomes_an_event() -> None:
    assert replay.event_of(row("wishlist_add"), 42) == {
        "event_id": "ecom-00042",
        "customer_id": "user_0001",
        "event_type": "click",
        "event_name": "Product Added to Wishlist",
        "timestamp": "2024-03-13T10:21:14Z",
        "properties": {"channel": "email", "cohort": "2024-01", "lifecycle": "loyal"},
        "context": {"session_id": "sess_000002", "device": "mobile"},
    }


@pytest.mark.parametrize(
    ("event", "event_name"),
    [("purchase", "Order Completed"), ("add_to_cart", "Product Added"), ("support_chat", "support_chat")],
)
def test_a_row_has_the_standard_name_of_shops_or_its_own_name(event: str, event_name: str) -> None:
    assert replay.event_of(row(event), 1)["event_name"] == event_name


@pytest.mark.parametrize(
    ("names", "event_type"),
    [
        ("add_to_cart", "add_to_cart"),
        ("purchase", "purchase"),
        ("search", "search"),
        ("home catalog product_view cart shipping_details payment_details", "page_view"),
        ("promo_page account_page review_page error_page", "page_view"),
        ("wishlist_add compare filter_results", "click"),
        ("support_chat payment_error checkout_bug", "custom"),
    ],
)
def test_each_kind_of_row_has_its_type(names: str, event_type: str) -> None:
    assert {replay.event_of(row(name), 1)["event_type"] for name in names.split()} == {event_type}


def test_the_api_accepts_the_event_of_a_row() -> None:
    _, errors = load_batch(json.dumps({"events": events(100)}).encode())
    assert errors == {}


def test_equal_rows_of_the_file_are_separate_events_with_stable_ids(tmp_path: Path) -> None:
    wheel = tmp_path / "some.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        rows = "\n".join((HEADER, ROW.format("home"), ROW.format("home"), ""))
        archive.writestr(replay.CLICKSTREAM, gzip.compress(rows.encode()))
    assert [event["event_id"] for event in replay.clickstream(wheel)] == ["ecom-00001", "ecom-00002"]
    assert replay.clickstream(wheel) == replay.clickstream(wheel)


# ── Sending ──


def answers(monkeypatch: pytest.MonkeyPatch, *statuses: int) -> list[float]:
    """Let the API answer batches with these statuses, in order. Returns a list that collects the pauses, in seconds."""
    left = iter(statuses)

    def post(_session: requests.Session, _url: str, *, data: bytes, timeout: Any) -> requests.Response:
        del timeout
        response = requests.Response()
        response.status_code = next(left)
        response.headers["Retry-After"] = "7"
        accepted = json_bytes(event_ids=[event["event_id"] for event in json.loads(data)["events"]])
        response._content = accepted if response.status_code == 202 else json_bytes(message="the reason")
        return response

    pauses: list[float] = []
    monkeypatch.setattr(requests.Session, "post", post)
    monkeypatch.setattr("time.sleep", pauses.append)
    return pauses


def json_bytes(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def test_sends_batches_of_a_hundred_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, 202, 202)
    batches = [batch for batch, _ in client.send("http://api", events(150))]
    assert (len(batches[0]), len(batches[1])) == (100, 50)
    assert batches[0] + batches[1] == events(150)


def test_sends_with_a_key_where_the_api_wants_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions: list[requests.Session] = []

    def post(session: requests.Session, url: str, **_: Any) -> requests.Response:
        sessions.append(session)
        raise requests.ConnectionError

    monkeypatch.setenv("API_KEYS", "tools=s3cret")
    monkeypatch.setattr(requests.Session, "post", post)
    with pytest.raises(PulseError):
        list(client.send("http://api", events(1)))
    assert sessions[0].headers["X-API-Key"] == "s3cret"


def test_a_batch_answered_503_is_sent_again_after_retry_after(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = answers(monkeypatch, 503, 503, 202)
    [(_, ids)] = client.send("http://api", events(2))
    assert ids == {"ecom-00001", "ecom-00002"}
    assert pauses == [7.0, 7.0]


def test_gives_up_when_the_api_answers_503_for_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, 503)
    monkeypatch.setattr(client, "PATIENCE", 5.0)
    with pytest.raises(PulseError, match="no events for 5 s: the reason"):
        list(client.send("http://api", events(1)))


def test_a_refused_batch_is_an_error_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, 400)
    with pytest.raises(PulseError, match=r"HTTP 400\): the reason"):
        list(client.send("http://api", events(1)))


def test_an_unreachable_api_is_an_error_with_the_command_to_start_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def post(*_: object, **__: object) -> None:
        raise requests.ConnectionError

    monkeypatch.setattr(requests.Session, "post", post)
    with pytest.raises(PulseError, match="make run"):
        list(client.send("http://api", events(1)))


class FortyStored:
    """A collection with forty stored events."""

    def aggregate(self, _: object) -> list[dict[str, Any]]:
        return [{"_id": "page_view", "count": 40}]


def test_ctrl_c_prints_the_progress_and_that_a_second_run_is_safe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def send_a_hundred(_: str, events: list[Event]) -> Iterator[tuple[list[Event], set[str]]]:
        yield events[:100], {event["event_id"] for event in events[:100]}
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["replay"])
    monkeypatch.setattr(replay, "_wheel", lambda folder: folder)
    monkeypatch.setattr(replay, "clickstream", lambda _: events(150))
    monkeypatch.setattr(replay, "connect", lambda _: FortyStored())
    monkeypatch.setattr(replay, "send", send_a_hundred)
    assert replay.main() == 130
    said = capsys.readouterr().err
    assert "100 of 150 events were accepted" in said
    assert "40 are stored so far" in said
    assert "none is stored twice" in said


# ── The wheel ──


def test_a_wheel_that_is_not_the_pinned_one_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / replay.WHEEL).write_bytes(b"cut sh")
    monkeypatch.setattr(replay, "REQUIREMENT", "no such requirement!")
    with pytest.raises(PulseError, match="pip cannot download"):
        replay._wheel(tmp_path)
