"""Reading dead letters: the content of a record, the waiting letters, and filters."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from common.dead_letter_headers import Headers, dead_letter_headers
from common.errors import InvalidEventError
from common.kafka import ReceivedRecord, Record
from consumer.dlq.letters import UNKNOWN, Filter, Letter, LetterBox, fold
from consumer.dlq.views import as_json, statistics, table, whole
from tests.fakes import FakeBroker, FakeReader

EVENTS, DLQ = "events", "events.dlq"
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
PRODUCED = 1_763_640_000_000
ORIGIN = f"events-2-7@{PRODUCED}"

raw_headers = st.lists(
    st.tuples(
        st.sampled_from([name for name, _ in dead_letter_headers(InvalidEventError(""), NOON, EVENTS)])
        | st.sampled_from(["dlq.origin", "dlq.replays", "dlq.replayed.at", "dlq.replayed.letter", "dlq.source.offset"])
        | st.text(st.characters(exclude_categories=["Cs"])),
        st.binary(max_size=40) | st.sampled_from([b"0", b"7", b"-1", b"9" * 30, b"2026-11-20T12:00:00Z", b"0-0"]),
    ),
    max_size=8,
).map(tuple)
raw_values = (
    st.none()
    | st.binary(max_size=60)
    | st.sampled_from(
        [b"", b"\xff", b"[" * 20_000, b"1" * 5000, b'"\\ud800"', b"NaN", b"1e999", b'{"a":1,"a":2}', b"[1]"]
    )
    | st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=3).map(
        lambda value: json.dumps(value).encode()
    )
)
raw_records = st.builds(
    ReceivedRecord,
    partition=st.integers(0, 2),
    offset=st.integers(0, 9),
    timestamp_ms=st.integers(-(2**63), 2**63 - 1),
    key=st.none() | st.binary(max_size=20),
    value=raw_values,
    headers=raw_headers,
)


def letter_headers(
    *headers: tuple[str, bytes], at: datetime = NOON, reason: type[Exception] = InvalidEventError
) -> Headers:
    return dead_letter_headers(
        reason("no"), at, EVENTS, headers=headers, attempts=4, partition=2, offset=7, timestamp=PRODUCED
    )


def record(offset: int, headers: Headers, value: bytes | None = b"{}", key: bytes | None = b"alice") -> ReceivedRecord:
    return ReceivedRecord(0, offset, PRODUCED, key, value, headers)


def note(offset: int, letter: str, origin: str = ORIGIN) -> ReceivedRecord:
    named = (("dlq.origin", origin.encode()), ("dlq.replayed.letter", letter.encode()))
    return record(offset, (("dlq.replayed.at", b"2026-11-21T00:00:00Z"), *named))


def read(*records: ReceivedRecord, with_replayed: bool = False) -> list[Letter]:
    return list(fold(records, DLQ, EVENTS, with_replayed=with_replayed).values())


def of(received: ReceivedRecord) -> Letter:
    return Letter.of(received, DLQ, EVENTS)


# ── One record ──


def test_a_letter_has_the_values_of_its_headers() -> None:
    letter = of(record(3, letter_headers(), b'{"event_type":"click"}'))
    assert (letter.place, letter.origin, letter.failed_at, letter.reason) == ("0-3", ORIGIN, NOON, "InvalidEventError")
    assert (letter.topic, letter.source_partition, letter.source_offset) == (EVENTS, 2, 7)
    assert (letter.key, letter.event_type, letter.attempts, letter.replays) == (b"alice", "click", 4, 0)


def test_a_letter_without_headers_goes_back_to_the_events_topic_and_is_named_by_its_own_place() -> None:
    letter = of(record(3, ()))
    assert (letter.topic, letter.origin, letter.reason) == (EVENTS, "events.dlq-0-3", UNKNOWN)
    assert letter.failed_at == datetime.fromtimestamp(PRODUCED / 1000, UTC)


def test_a_letter_of_the_api_has_no_offset_and_is_named_by_its_own_place() -> None:
    letter = of(record(3, dead_letter_headers(InvalidEventError("too large"), NOON, "other")))
    assert (letter.topic, letter.origin) == ("other", "events.dlq-0-3")


def test_a_letter_that_died_before_keeps_its_origin_and_counts_its_replays() -> None:
    letter = of(record(3, letter_headers(("dlq.origin", b"events-0-1"), ("dlq.replays", b"2"))))
    assert (letter.origin, letter.replays) == ("events-0-1", 2)


@pytest.mark.parametrize("garbage", [b"", b"\xff", b"-1", b"1.5", b"9" * 40, "٣".encode()])
def test_an_invalid_number_counts_as_missing(garbage: bytes) -> None:
    letter = of(record(3, (("dlq.attempts", garbage), ("dlq.replays", garbage), ("dlq.source.offset", garbage))))
    assert (letter.attempts, letter.replays, letter.source_offset) == (None, 0, None)


@pytest.mark.parametrize("garbage", [b"", b"\xff", b"a b", b"a/b", b"x" * 250])
def test_an_invalid_source_topic_counts_as_missing(garbage: bytes) -> None:
    assert of(record(3, (("dlq.source.topic", garbage),))).topic == EVENTS


# ── Waiting letters ──


def test_a_letter_waits() -> None:
    assert [letter.place for letter in read(record(0, letter_headers()))] == ["0-0"]


def test_a_note_ends_the_wait() -> None:
    assert read(record(0, letter_headers()), note(1, "0-0")) == []


def test_a_letter_that_was_sent_back_is_shown_on_request() -> None:
    (letter,) = read(record(0, letter_headers()), note(1, "0-0"), with_replayed=True)
    assert letter.replayed_at == datetime(2026, 11, 21, tzinfo=UTC)


def test_a_record_that_dies_again_waits_again_once() -> None:
    again = letter_headers(("dlq.origin", ORIGIN.encode()), ("dlq.replays", b"1"))
    letters = read(record(0, letter_headers()), note(1, "0-0"), record(2, again), with_replayed=True)
    assert [(letter.place, letter.replays, letter.replayed_at) for letter in letters] == [("0-2", 1, None)]


def test_a_late_note_does_not_hide_the_next_letter_of_the_record() -> None:
    again = letter_headers(("dlq.origin", ORIGIN.encode()), ("dlq.replays", b"1"))
    letters = read(record(0, letter_headers()), record(1, again), note(2, "0-0"))
    assert [letter.place for letter in letters] == ["0-1"]


def test_a_letter_written_twice_waits_once() -> None:
    letters = read(record(0, letter_headers()), record(1, letter_headers()))
    assert [letter.place for letter in letters] == ["0-1"]


def test_letters_of_a_topic_that_was_created_again_are_other_letters() -> None:
    later = dict(letter_headers()) | {"dlq.source.timestamp": b"%d" % (PRODUCED + 1)}
    assert len(read(record(0, letter_headers()), record(1, tuple(later.items())))) == 2


def test_a_note_without_its_letter_is_ignored() -> None:
    assert read(note(0, "0-0")) == []


# ── Filters ──


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        (Filter(), True),
        (Filter(reasons=("Other", "InvalidEventError")), True),
        (Filter(reasons=("invalideventerror",)), False),
        (Filter(keys=(b"alice",)), True),
        (Filter(keys=(b"bob",)), False),
        (Filter(event_types=("click",)), True),
        (Filter(event_types=("purchase",)), False),
        (Filter(since=NOON), True),
        (Filter(since=NOON + timedelta(microseconds=1)), False),
        (Filter(until=NOON), False),
        (Filter(until=NOON + timedelta(microseconds=1)), True),
        (Filter(reasons=("InvalidEventError",), keys=(b"bob",)), False),
    ],
)
def test_a_filter_selects_letters_that_match_all_its_conditions(wanted: Filter, matches: bool) -> None:
    assert wanted.matches(of(record(0, letter_headers(), b'{"event_type":"click"}'))) is matches


# ── Letters with their values ──


@pytest.fixture
def broker() -> FakeBroker:
    broker = FakeBroker()
    for number in range(30):
        broker.append(DLQ, Record(b"key%d" % (number % 5), b"%d" % number))
    return broker


@pytest.fixture
def box(broker: FakeBroker) -> LetterBox:
    return LetterBox(FakeReader(broker, DLQ), DLQ, EVENTS)


def test_letters_are_fetched_with_their_values(box: LetterBox) -> None:
    assert sorted(int(mail.record.value or b"") for mail in box.fetch(box.find(Filter()))) == list(range(30))


def test_only_the_requested_letters_are_fetched(box: LetterBox) -> None:
    some = box.find(Filter())[3::7]
    assert {mail.letter for mail in box.fetch(some)} == set(some)


def test_a_letter_deleted_in_the_meantime_is_left_out(box: LetterBox, broker: FakeBroker) -> None:
    letters = box.find(Filter())
    broker.topics.clear()
    assert list(LetterBox(FakeReader(broker, DLQ), DLQ, EVENTS).fetch(letters)) == []


@pytest.mark.parametrize("name", ["0-0", "2-3", "events.dlq-0-0"])
def test_a_letter_is_found_by_its_place_and_by_its_origin(box: LetterBox, name: str) -> None:
    mail = box.get(name)
    assert mail is not None
    assert name in {mail.letter.place, mail.letter.origin}


@pytest.mark.parametrize("name", ["0-999", "9-0", "nothing", "", "999999999999-1"])
def test_a_missing_letter_is_not_found(box: LetterBox, name: str) -> None:
    assert box.get(name) is None


# ── Any record ──


@given(st.lists(raw_records, max_size=8))
def test_no_record_stops_the_reading_or_controls_the_terminal(records: list[ReceivedRecord]) -> None:
    letters = read(*records, with_replayed=True)
    console = Console(width=100, color_system=None)
    with console.capture() as printed:
        console.print(table(letters, with_replayed=True))
        console.print(statistics(letters))
        for received in records:
            console.print("\n".join(whole(of(received), received)), markup=False, highlight=False, soft_wrap=True)
    assert all(character.isprintable() or character == "\n" for character in printed.get())


@given(raw_records)
def test_every_record_is_one_line_of_json_with_its_value(received: ReceivedRecord) -> None:
    line = as_json(of(received), received)
    assert line.isascii()
    assert line.isprintable()
    shown = json.loads(line)
    assert ("value" in shown and (shown["value"] is None) == (received.value is None)) or "value_base64" in shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b'{"a":{"b":1.50}}', ["value, 16 bytes:", "{", '  "a": {', '    "b": 1.5', "  }", "}"]),
        (b'{"a":1,"a":2}', ["value, 13 bytes:", '{"a":1,"a":2}']),
        (b"[NaN]", ["value, 5 bytes:", "[NaN]"]),
        (b"1e999", ["value, 5 bytes:", "1e999"]),
        ("ä\tü".encode(), ["value, 5 bytes:", "ä\\tü"]),
        (b"\xff\x00a", ["value, 3 bytes:", "\\xff\\x00a"]),
        (b"", ["value, 0 bytes:", ""]),
        (None, ["no value"]),
    ],
)
def test_a_value_is_shown_as_json_as_text_or_escaped(value: bytes | None, shown: list[str]) -> None:
    received = record(0, (), value)
    assert list(whole(of(received), received))[-len(shown) :] == shown
