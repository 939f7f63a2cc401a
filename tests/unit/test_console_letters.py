"""The console lists and replays dead letters as safely as the command."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from common.dead_letter_headers import dead_letter_headers
from common.errors import InvalidEventError
from common.kafka import Record
from ops.console.letters import Letters, ReplayRunsError, WrongFilterError, choice_of
from tests.fakes import FakeBroker, FakeReader, FakeSender
from tests.servers import kafka_settings
from tests.waiting import eventually

TOPIC, DLQ = "events", "events.dlq"


@pytest.fixture
def broker() -> FakeBroker:
    broker = FakeBroker()
    for n in range(5):
        headers = dead_letter_headers(
            InvalidEventError("no event"), datetime(2026, 11, 26, 12, n, tzinfo=UTC), TOPIC, partition=0, offset=n
        )
        event = {"event_id": f"e{n}", "customer_id": "alice" if n % 2 else "bob", "event_type": "click"}
        broker.append(DLQ, Record(event["customer_id"].encode(), json.dumps(event).encode(), headers))
    return broker


@pytest.fixture
def letters(broker: FakeBroker) -> Letters:
    return Letters(
        kafka_settings("127.0.0.1:1", TOPIC), lambda: FakeReader(broker, DLQ), lambda topic: FakeSender(broker, topic)
    )


def listed(letters: Letters, *, with_replayed: bool = False, **filters: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = letters.answer(choice_of(filters).wanted, with_replayed=with_replayed)["letters"]
    return found


def run(letters: Letters, **filters: Any) -> dict[str, Any]:
    letters.replay(choice_of(filters), "tester@127.0.0.1")
    eventually(lambda: letters.progress()["state"] not in {"running", "stopping"})
    return letters.progress()


def test_letters_are_filtered_and_listed_newest_first(letters: Letters) -> None:
    assert [letter["time"][14:16] for letter in listed(letters)] == ["04", "03", "02", "01", "00"]
    assert {letter["key"] for letter in listed(letters, key="bob")} == {"bob"}
    assert len(listed(letters, since="2026-11-26T12:03:00Z")) == 2


def test_a_dry_run_says_what_would_be_sent_and_sends_nothing(letters: Letters, broker: FakeBroker) -> None:
    plan = letters.plan(choice_of({"key": "bob", "dry_run": True})).answer()
    assert (plan["letters"], plan["topics"], plan["stay"]) == (3, {TOPIC: 3}, 0)
    assert broker.records(TOPIC) == []


def test_a_replay_sends_the_letters_that_the_filters_select_and_notes_it(letters: Letters, broker: FakeBroker) -> None:
    progress = run(letters, key="bob")
    assert (progress["state"], progress["letters"], progress["sent"], progress["failed"]) == ("done", 3, 3, 0)
    assert len(broker.records(TOPIC)) == 3
    assert {letter["key"] for letter in listed(letters)} == {"alice"}
    assert sum(letter["replayed_at"] is not None for letter in listed(letters, with_replayed=True)) == 3


def test_a_second_replay_sends_nothing_twice(letters: Letters, broker: FakeBroker) -> None:
    run(letters)
    assert run(letters)["sent"] == 0
    assert len(broker.records(TOPIC)) == 5


def test_the_log_has_the_user_and_the_number_of_a_replay(letters: Letters, caplog: pytest.LogCaptureFixture) -> None:
    run(letters, key="bob")
    ends = [record for record in caplog.records if record.message == "a replay of dead letters ends"]
    assert [(record.__dict__["who"], record.__dict__["sent"]) for record in ends] == [("tester@127.0.0.1", 3)]


def test_only_one_replay_runs(letters: Letters) -> None:
    letters._progress.state = "running"
    with pytest.raises(ReplayRunsError):
        letters.replay(choice_of({}), "tester")


def test_a_replay_without_kafka_fails_and_loses_nothing(letters: Letters, broker: FakeBroker) -> None:
    broker.up = False
    progress = run(letters)
    assert (progress["state"], progress["sent"]) == ("failed", 0)
    assert "the broker is unavailable" in progress["problem"]
    broker.up = True
    assert len(listed(letters)) == 5


def test_a_replay_can_be_stopped(letters: Letters, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.dlq.replay.CHUNK_LETTERS", 2)
    letters._stopping.set()
    monkeypatch.setattr(letters._stopping, "clear", lambda: None)
    progress = run(letters)
    assert (progress["state"], progress["sent"]) == ("stopped", 2)


def test_a_letter_that_was_sent_back_too_often_stays(letters: Letters) -> None:
    plan = letters.plan(choice_of({"max_replays": 1}))
    assert len(plan.letters) == 5
    assert choice_of({}).max_replays == 3


@pytest.mark.parametrize(
    "sent",
    [
        {"reson": "x"},
        {"since": "yesterday"},
        {"since": 5},
        {"limit": 0},
        {"limit": True},
        {"limit": "5"},
        {"key": [1]},
        {"reason": {"a": 1}},
    ],
    ids=str,
)
def test_a_malformed_filter_is_refused_and_not_ignored(sent: dict[str, Any]) -> None:
    with pytest.raises(WrongFilterError):
        choice_of(sent)


def test_a_letter_is_found_by_its_event_id_and_by_its_customer(letters: Letters) -> None:
    assert [letter["key"] for letter in letters.find("e1")] == ["alice"]
    assert len(letters.find("bob")) == 3
    assert letters.find("e") == []


def test_contents_can_be_hidden(letters: Letters) -> None:
    name = listed(letters)[0]["letter"]
    whole = letters.whole(name, show_bodies=False)
    assert whole
    assert (whole["value"], whole["hidden"]) == (None, True)
    assert letters.whole("9-9", show_bodies=True) is None
