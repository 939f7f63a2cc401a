"""The newest events, and the stream that sends them to viewers."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.dead_letter_headers import REPLAYED_AT, SOURCE_OFFSET, SOURCE_PARTITION
from common.events import format_timestamp
from common.kafka import ReceivedRecord
from ops.console.live import FIRST_EVENTS, MOST_BYTES, MOST_EVENTS, MOST_VIEWERS, Live, Stored

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)


def record(offset: int, value: bytes | None = None, **fields: Any) -> ReceivedRecord:
    event = {"event_id": f"e{offset}", "customer_id": "alice", "received_at": format_timestamp(NOON), **fields}
    return ReceivedRecord(
        0, offset, 1_795_000_000_000, b"alice", json.dumps(event).encode() if value is None else value
    )


def told(stream: Iterator[str], count: int = 1) -> list[dict[str, Any]]:
    """The next events of a stream, as the rows that a viewer gets."""
    found: list[dict[str, Any]] = []
    for text in stream:
        found += [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
        if len(found) >= count:
            break
    return found


def last_id(live: Live) -> str:
    stream = live.view(None)
    assert stream
    ids = [line[4:] for text in (next(stream), next(stream)) for line in text.splitlines() if line.startswith("id: ")]
    stream.close()  # type: ignore[attr-defined]
    return ids[-1]


@pytest.fixture
def live() -> Live:
    return Live()


def test_an_event_is_in_kafka_and_then_stored_with_its_delay_in_milliseconds(live: Live) -> None:
    live.take([record(7)])
    stream = live.view(None)
    assert stream
    (first,) = told(stream)
    assert (first["event_id"], first["state"], first["partition"], first["offset"]) == ("e7", "in_kafka", 0, 7)
    live.stored({"e7": Stored(NOON, NOON + timedelta(milliseconds=42))})
    (then,) = told(stream)
    assert (then["place"], then["state"], then["after_ms"]) == (first["place"], "stored", 42)


def test_a_letter_makes_its_event_a_dead_letter(live: Live) -> None:
    live.take([record(7)])
    source = ((SOURCE_PARTITION, b"0"), (SOURCE_OFFSET, b"7"))
    live.take_letters([ReceivedRecord(0, 3, 0, b"alice", b"", source)])
    event = live.get(0, 7)
    assert event
    assert (event.state, event.letter) == ("dead_letter", "0-3")


def test_a_note_about_a_replay_is_no_dead_letter(live: Live) -> None:
    live.take([record(7)])
    source = ((SOURCE_PARTITION, b"0"), (SOURCE_OFFSET, b"7"), (REPLAYED_AT, b"now"))
    live.take_letters([ReceivedRecord(0, 3, 0, b"alice", b"", source)])
    event = live.get(0, 7)
    assert event
    assert event.state == "in_kafka"


def test_another_event_with_a_stored_id_is_shown_as_a_duplicate(live: Live) -> None:
    live.take([record(7, received_at=format_timestamp(NOON + timedelta(hours=1)))])
    live.stored({"e7": Stored(NOON, NOON)})
    event = live.get(0, 7)
    assert event
    assert (event.row["duplicate"], event.row["after_ms"]) == (True, None)


def test_a_viewer_that_reconnects_gets_only_the_events_that_it_missed(live: Live) -> None:
    live.take([record(1)])
    seen = last_id(live)
    live.take([record(2)])
    stream = live.view(seen)
    assert stream
    assert [event["event_id"] for event in told(stream)] == ["e2"]


@pytest.mark.parametrize("seen", ["", "nonsense", "00000000-1", "-5", "é-1", "1-²"])
def test_a_last_event_id_of_another_process_is_ignored(live: Live, seen: str) -> None:
    live.take([record(1)])
    stream = live.view(seen)
    assert stream
    assert [event["event_id"] for event in told(stream)] == ["e1"]


def test_a_slow_viewer_gets_the_number_of_events_that_it_missed(live: Live) -> None:
    stream = live.view(None)
    assert stream
    next(stream), next(stream)
    live.take([record(n) for n in range(5000)])
    text = next(stream)
    assert text.startswith('event: skipped\ndata: {"count": 1000}\n\n')


def test_at_most_eight_viewers_are_served(live: Live) -> None:
    streams = [live.view(None) for _ in range(MOST_VIEWERS)]
    assert live.view(None) is None
    first = streams[0]
    assert first
    next(first)
    first.close()  # type: ignore[attr-defined]
    assert live.view(None) is not None


def test_a_new_viewer_gets_the_newest(live: Live) -> None:
    live.take([record(n) for n in range(FIRST_EVENTS + 50)])
    stream = live.view(None)
    assert stream
    ids = [event["event_id"] for event in told(stream)]
    assert (len(ids), ids[-1]) == (FIRST_EVENTS, f"e{FIRST_EVENTS + 49}")


def test_memory_is_bounded_in_events_and_in_bytes(live: Live) -> None:
    live.take([record(n) for n in range(MOST_EVENTS + 10)])
    assert len(live._events) == MOST_EVENTS
    live.take([record(9000 + n, b" " * 2**16) for n in range(2 * MOST_BYTES // 2**16)])
    assert live._bytes <= MOST_BYTES
    assert live._bytes == sum(len(event.value) for event in live._events.values())


def test_only_ids_not_yet_stored_are_looked_up_newest_first(live: Live) -> None:
    live.take([record(n) for n in range(5)])
    live.stored({"e4": Stored(NOON, NOON)})
    assert live.waiting_ids(2) == ["e3", "e2"]


@given(
    value=st.binary(max_size=200)
    | st.recursive(
        st.none() | st.integers() | st.text(),
        lambda v: st.lists(v) | st.dictionaries(st.sampled_from(["event_id", "customer_id", "received_at", "x"]), v),
    ).map(lambda v: json.dumps(v).encode())
)
def test_any_record_of_the_topic_can_be_shown(value: bytes) -> None:
    live = Live()
    live.take([record(1, value)])
    stream = live.view(None)
    assert stream
    assert [event["place"] for event in told(stream)] == ["0-1"]
