"""The dead letter tool's commands, on fakes."""

import json
import os
import signal
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner, Result
from prometheus_client import CollectorRegistry

from common.dead_letter_headers import dead_letter_headers
from common.errors import InvalidEventError, StoreError
from common.kafka import KafkaError, Record, RecordSender
from common.metrics import ConsumerMetrics
from consumer.dead_letters import DeadLetter, DeadLetters
from consumer.dlq import replay
from consumer.dlq.__main__ import Topics, cli
from tests.fakes import FakeBroker, FakeReader, FakeSender, FakeWriter, RefusesLarge

EVENTS, DLQ = "events", "events.dlq"
NOW = datetime.now(UTC)
NO_TIME = timedelta()


class Tool:
    """The tool, its topics and its clock."""

    def __init__(self) -> None:
        self.broker = FakeBroker()
        self.senders: dict[str, RecordSender] = {}
        self.topics = Topics(EVENTS, DLQ, lambda: FakeReader(self.broker, DLQ), self._open_sender)

    def _open_sender(self, topic: str) -> RecordSender:
        return self.senders.get(topic) or FakeSender(self.broker, topic)

    def run(self, *arguments: str) -> Result:
        result = CliRunner().invoke(cli, arguments, obj=self.topics)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    def bury(
        self, number: int, *, error: Exception | None = None, age: timedelta = timedelta(), **record: bytes | None
    ) -> None:
        """Send a letter, as the consumer does."""
        headers = dead_letter_headers(
            error or InvalidEventError("no"), NOW - age, EVENTS, partition=number % 3, offset=number, timestamp=number
        )
        self.broker.append(DLQ, Record(record.get("key", b"alice"), record.get("value", b"%d" % number), headers))

    def die_again(self) -> None:
        """Make every record on the topic of events a dead letter again, as the consumer does."""
        letters = [DeadLetter.of(record, InvalidEventError("again")) for record in self.broker.records(EVENTS)]
        self.broker.topics[EVENTS] = [[] for _ in range(FakeBroker.partitions)]
        metrics = ConsumerMetrics(CollectorRegistry())
        DeadLetters(FakeSender(self.broker, DLQ), EVENTS, FakeWriter(), DLQ, metrics).send(letters)

    def sent_back(self) -> list[bytes]:
        return [record.value or b"" for record in self.broker.records(EVENTS)]

    def waiting(self) -> list[bytes]:
        return [json.loads(line)["value"].encode() for line in self.run("list", "--json").stdout.splitlines()]


@pytest.fixture
def tool() -> Tool:
    return Tool()


class Dies(FakeSender):
    """A sender whose process is killed before it sends."""

    def send(self, records: Sequence[Record]) -> list[Exception | None]:
        raise SystemExit(137)


class Refuses(FakeSender):
    """A sender to a topic that accepts no records."""

    def send(self, records: Sequence[Record]) -> list[Exception | None]:
        self.sent.append(list(records))
        return [KafkaError("not now")] * len(records)


def test_a_wrong_setting_is_one_clear_line() -> None:
    refused = CliRunner().invoke(cli, ["list"], env={"KAFKA_TOPIC": "a b"})
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert refused.stderr.startswith("Error: KAFKA_TOPIC=a b is not allowed: give ")


# ── list ──


def test_list_shows_one_row_per_letter_newest_last(tool: Tool) -> None:
    tool.bury(7, age=timedelta(days=1))
    tool.bury(8, key=b"bob", age=timedelta(days=2))
    header, older, newer = tool.run("list").stdout.splitlines()
    assert header.split() == ["letter", "time", "(UTC)", "reason", "source", "key", "attempts", "replays"]
    assert older.split()[1:3] == f"{NOW - timedelta(days=2):%Y-%m-%d %H:%M:%S}".split()
    assert older.split()[3:] == ["InvalidEventError", "2-8", "bob", "1", "0"]
    assert newer.split()[3:] == ["InvalidEventError", "1-7", "alice", "1", "0"]


def test_list_shows_the_newest_up_to_the_limit_and_says_so(tool: Tool) -> None:
    for number in range(60):
        tool.bury(number)
    listed = tool.run("list")
    assert len(listed.stdout.splitlines()) == 1 + 50
    assert "newest 50 of 60 letters" in listed.stderr
    assert len(tool.run("list", "--limit", "3").stdout.splitlines()) == 1 + 3


def test_list_as_json_shows_all_fields_of_all_letters(tool: Tool) -> None:
    for number in range(60):
        tool.bury(number, value=b"\xff%d" % number)
    lines = [json.loads(line) for line in tool.run("list", "--json").stdout.splitlines()]
    assert len(lines) == 60
    assert lines[0]["value_base64"] == "/zA="
    assert {"name": "dlq.error.message", "value": "no"} in lines[0]["headers"]


def test_list_says_that_there_is_nothing(tool: Tool) -> None:
    assert tool.run("list").stderr == "No letters.\n"


def test_list_with_all_also_shows_letters_that_were_sent_back(tool: Tool) -> None:
    tool.bury(1)
    tool.run("replay")
    tool.bury(2)
    rows = tool.run("list", "--all").stdout.splitlines()[1:]
    assert sorted(row.split()[-1] for row in rows) == ["no", "yes"]


# ── show ──


def test_show_prints_headers_and_value(tool: Tool) -> None:
    tool.bury(7, value=b'{"event_type":"login"}')
    place = json.loads(tool.run("list", "--json").stdout)["letter"]
    shown = tool.run("show", place)
    assert "dlq.error.message     no\n" in shown.stdout
    assert '  "event_type": "login"\n' in shown.stdout
    assert tool.run("show", "events-1-7@7").stdout == shown.stdout


def test_show_says_when_there_is_no_such_letter(tool: Tool) -> None:
    shown = tool.run("show", "0-1")
    assert (shown.exit_code, shown.stderr) == (1, "Error: There is no letter 0-1 in events.dlq.\n")


# ── stats ──


def test_stats_count_by_reason_and_by_day(tool: Tool) -> None:
    for number in range(3):
        tool.bury(number, age=timedelta(days=number))
    tool.bury(3, error=StoreError("no"))
    lines = [line.split()[:2] for line in tool.run("stats").stdout.splitlines()]
    assert ["InvalidEventError", "3"] in lines
    assert ["StoreError", "1"] in lines
    assert [f"{NOW:%Y-%m-%d}", "2"] in lines
    assert [f"{NOW - timedelta(days=2):%Y-%m-%d}", "1"] in lines


def test_the_longest_bar_fits_the_terminal(tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    for number in range(3):
        tool.bury(number, error=StoreError("no") if number else None)
    most = next(line for line in tool.run("stats").stdout.splitlines() if line.startswith("StoreError"))
    assert len(most) == 60
    assert most.endswith("█")


# ── replay ──


def test_replay_sends_waiting_letters_back_byte_for_byte(tool: Tool) -> None:
    values = [b"", None, b"\xff\x00", b'{"a": 1}']
    for number, value in enumerate(values):
        tool.bury(number, key=b"\xfe", value=value)
    replayed = tool.run("replay")
    assert (replayed.exit_code, replayed.stdout) == (0, "4 of 4 letters were sent back.\n")
    assert [(record.key, record.value) for record in tool.broker.records(EVENTS)] == [(b"\xfe", v) for v in values]
    assert tool.waiting() == []


@pytest.mark.parametrize("value", [b"\xff\x00", None])
def test_the_notes_have_the_letters_values_byte_for_byte(tool: Tool, value: bytes | None) -> None:
    tool.bury(1, key=b"\xfe", value=value)
    tool.run("replay")
    letter, note = tool.broker.records(DLQ)
    assert (note.key, note.value) == (letter.key, letter.value)


def test_a_letter_that_was_sent_back_is_not_sent_again(tool: Tool) -> None:
    tool.bury(1)
    tool.run("replay")
    assert tool.run("replay").stdout == "0 of 0 letters were sent back.\n"
    assert tool.sent_back() == [b"1"]


def test_a_record_that_was_sent_back_has_its_origin_and_foreign_headers(tool: Tool) -> None:
    tool.broker.append(DLQ, Record(b"a", b"1", (("trace", b"\xff"), ("dlq.failed.first", b"then"), ("dlq.other", b""))))
    tool.run("replay")
    (record,) = tool.broker.records(EVENTS)
    (place,) = {f"events.dlq-{letter.partition}-{letter.offset}" for letter in tool.broker.records(DLQ)[:1]}
    assert record.headers == (
        ("trace", b"\xff"),
        ("dlq.failed.first", b"then"),
        ("dlq.origin", place.encode()),
        ("dlq.replays", b"1"),
    )


def test_a_letter_goes_back_to_the_topic_it_came_from(tool: Tool) -> None:
    tool.broker.append(DLQ, Record(b"a", b"1", (("dlq.source.topic", b"others"),)))
    tool.run("replay")
    assert [record.value for record in tool.broker.records("others")] == [b"1"]


def test_a_replay_killed_between_letters_and_notes_sends_again(tool: Tool) -> None:
    tool.bury(1)
    tool.senders[DLQ] = Dies(tool.broker, DLQ)
    assert tool.run("replay").exit_code == 137
    del tool.senders[DLQ]
    assert tool.waiting() == [b"1"]
    tool.run("replay")
    assert tool.sent_back() == [b"1", b"1"]
    assert tool.waiting() == []


def test_replay_says_that_the_notes_could_not_be_written(tool: Tool) -> None:
    tool.bury(1)
    tool.senders[DLQ] = Refuses(tool.broker, DLQ)
    replayed = tool.run("replay")
    assert replayed.exit_code == 1
    assert "the next replay sends them again, and they are stored once" in replayed.stderr


def test_a_letter_that_dies_again_is_sent_back_up_to_its_maximum_of_replays(tool: Tool) -> None:
    tool.bury(1)
    for replays in range(3):
        assert json.loads(tool.run("list", "--json").stdout)["replays"] == replays
        assert tool.run("replay").stdout == "1 of 1 letters were sent back.\n"
        tool.die_again()
    left = tool.run("replay")
    stay = "1 more stay, sent back too often before: --max-replays 4 sends them too.\n"
    assert (left.exit_code, left.stdout) == (1, f"0 of 0 letters were sent back. {stay}")
    assert tool.run("replay", "--dry-run").stdout == f"0 letters would go to events.\n{stay}"
    assert tool.waiting() == [b"1"]
    assert tool.run("replay", "--max-replays", "4").stdout == "1 of 1 letters were sent back.\n"


def test_replay_names_the_letters_that_were_sent_back_too_often(tool: Tool) -> None:
    tool.bury(1)
    tool.run("replay")
    tool.die_again()
    tool.bury(2)
    replayed = tool.run("replay", "--max-replays", "1")
    stay = "1 more stay, sent back too often before: --max-replays 2 sends them too."
    assert (replayed.exit_code, replayed.stdout) == (0, f"1 of 1 letters were sent back. {stay}\n")


def test_a_letter_that_dies_again_keeps_the_time_of_its_first_failure(tool: Tool) -> None:
    tool.bury(1, age=timedelta(days=3))
    tool.run("replay")
    tool.die_again()
    headers = [dict(record.headers) for record in tool.broker.records(DLQ)]
    assert headers[-1]["dlq.failed.first"] == headers[0]["dlq.failed.first"]
    assert headers[-1]["dlq.failed.last"] > headers[0]["dlq.failed.last"]


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        (["--reason", "StoreError"], [b"2"]),
        (["--reason", "StoreError", "--reason", "InvalidEventError"], [b"0", b"1", b"2", b'{"event_type":"click"}']),
        (["--key", "bob"], [b"1"]),
        (["--event-type", "click"], [b'{"event_type":"click"}']),
        (["--since", "36h"], [b"0", b"1"]),
        (["--until", "36h"], [b"2", b'{"event_type":"click"}']),
        (["--until", (NOW - timedelta(days=2)).isoformat()], [b'{"event_type":"click"}']),
        (["--limit", "1"], [b'{"event_type":"click"}']),
        (["--key", "unknown"], []),
    ],
)
def test_replay_sends_only_the_letters_that_the_filters_select(
    tool: Tool, options: list[str], sent: list[bytes]
) -> None:
    tool.bury(0)
    tool.bury(1, key=b"bob", age=timedelta(days=1))
    tool.bury(2, error=StoreError("no"), age=timedelta(days=2))
    tool.bury(3, value=b'{"event_type":"click"}', age=timedelta(days=3))
    tool.run("replay", *options)
    assert sorted(tool.sent_back()) == sent


@pytest.mark.parametrize("time", ["yesterday", "2026-01-31", "1y", "999999w", "-1h", ""])
def test_a_malformed_time_is_refused_with_an_example(tool: Tool, time: str) -> None:
    refused = tool.run("list", "--since", time)
    assert refused.exit_code == 2
    assert "2026-01-31T12:00:00Z" in refused.stderr


def test_a_dry_run_sends_nothing_and_prints_the_number(tool: Tool) -> None:
    tool.bury(1)
    tool.bury(2)
    assert tool.run("replay", "--dry-run").stdout == "2 letters would go to events.\n"
    assert tool.sent_back() == []
    assert len(tool.waiting()) == 2


def test_a_dry_run_prints_zero_when_no_letter_waits(tool: Tool) -> None:
    assert tool.run("replay", "--dry-run").stdout == "0 letters would go to events.\n"


def test_a_letter_that_cannot_be_sent_stops_the_replay(tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "CHUNK_LETTERS", 2)
    tool.senders[EVENTS] = RefusesLarge(tool.broker, EVENTS)
    for number in range(6):
        tool.bury(number, value=b"%d" % number * (2000 if number == 2 else 1))
    stopped = tool.run("replay")
    assert stopped.exit_code == 1
    assert stopped.stdout == "3 of 6 letters were sent back.\n"
    assert stopped.stderr.startswith("1 could not be sent; the first, ")
    assert "to events: MessageSizeTooLargeError" in stopped.stderr
    assert tool.sent_back() == [b"0", b"1", b"3"]


def test_with_keep_going_all_letters_but_the_failing_ones_are_sent(tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "CHUNK_LETTERS", 2)
    tool.senders[EVENTS] = RefusesLarge(tool.broker, EVENTS)
    for number in range(6):
        tool.bury(number, value=b"%d" % number * (2000 if number == 2 else 1))
    assert tool.run("replay", "--keep-going").exit_code == 1
    assert tool.sent_back() == [b"0", b"1", b"3", b"4", b"5"]
    assert tool.waiting() == [b"2" * 2000]


def test_a_topic_that_does_not_answer_is_tried_once(tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "CHUNK_LETTERS", 2)
    sender = tool.senders[EVENTS] = Refuses(tool.broker, EVENTS)
    for number in range(6):
        tool.bury(number)
    refused = tool.run("replay", "--keep-going")
    assert (refused.exit_code, refused.stdout) == (1, "0 of 6 letters were sent back.\n")
    assert [len(records) for records in sender.sent] == [2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_replay_finishes_its_chunk_with_its_notes(
    tool: Tool, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    class Interrupted(FakeSender):
        def send(self, records: Sequence[Record]) -> list[Exception | None]:
            os.kill(os.getpid(), number)
            return super().send(records)

    monkeypatch.setattr(replay, "CHUNK_LETTERS", 2)
    before = signal.getsignal(number)
    tool.senders[EVENTS] = Interrupted(tool.broker, EVENTS)
    for letter in range(5):
        tool.bury(letter)
    interrupted = tool.run("replay")
    assert (interrupted.exit_code, interrupted.stdout) == (130, "2 of 5 letters were sent back.\n")
    assert tool.waiting() == [b"2", b"3", b"4"]
    assert signal.getsignal(number) is before
