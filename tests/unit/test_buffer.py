"""The consumer's buffer: when a flush is due, and the offsets to commit."""

import pytest

from common.kafka import ReceivedRecord
from consumer.buffer import Buffer
from consumer.dead_letters import DeadLetter
from tests.fakes import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def buffer(clock: FakeClock) -> Buffer:
    return Buffer(max_records=3, max_age=1.0, clock=clock)


def record(offset: int, partition: int = 0) -> ReceivedRecord:
    return ReceivedRecord(partition, offset, 0, b"key", b"value")


def letter(offset: int) -> DeadLetter:
    return DeadLetter.of(record(offset), ValueError("why"))


def test_is_due_when_full(buffer: Buffer) -> None:
    for offset in range(2):
        buffer.add_event(record(offset), {})
    assert not buffer.due
    buffer.add_event(record(2), {})
    assert buffer.due


def test_is_due_when_its_records_are_large(clock: FakeClock) -> None:
    buffer = Buffer(max_records=10_000, max_age=1.0, clock=clock)
    for offset in range(128):
        assert not buffer.due
        buffer.add_event(record(offset)._replace(value=bytes(64 * 1024)), {})
    assert buffer.due
    buffer.clear()
    buffer.add_event(record(128), {})
    assert not buffer.due


def test_stays_due_when_its_events_are_stored_and_not_yet_committed(buffer: Buffer) -> None:
    for offset in range(3):
        buffer.add_event(record(offset), {})
    buffer.events = []
    assert buffer.due


def test_dead_letters_count_towards_full(buffer: Buffer) -> None:
    for offset in range(3):
        buffer.add_letter(letter(offset))
    assert buffer.due


def test_is_due_when_its_oldest_record_is_as_old_as_the_interval(buffer: Buffer, clock: FakeClock) -> None:
    buffer.add_event(record(0), {})
    clock.advance(0.6)
    buffer.add_event(record(1), {})
    clock.advance(0.4)
    assert buffer.due


def test_is_due_at_once_when_the_last_flush_was_an_interval_ago(buffer: Buffer, clock: FakeClock) -> None:
    clock.advance(1.0)
    buffer.add_event(record(0), {})
    assert buffer.due


def test_is_not_due_again_within_an_interval_of_the_last_flush(buffer: Buffer, clock: FakeClock) -> None:
    clock.advance(5.0)
    buffer.add_event(record(0), {})
    buffer.clear()
    clock.advance(0.9)
    buffer.add_event(record(1), {})
    assert not buffer.due
    clock.advance(0.1)
    assert buffer.due


def test_is_never_due_while_empty(buffer: Buffer, clock: FakeClock) -> None:
    clock.advance(100)
    assert not buffer.due


def test_age_starts_at_zero_after_clear(buffer: Buffer, clock: FakeClock) -> None:
    buffer.add_event(record(0), {})
    clock.advance(1)
    buffer.clear()
    buffer.add_event(record(1), {})
    assert not buffer.due


def test_knows_the_next_offset_of_each_partition(buffer: Buffer) -> None:
    buffer.add_event(record(7, partition=0), {})
    buffer.add_event(record(4, partition=1), {})
    buffer.add_letter(letter(8))
    assert buffer.offsets == {0: 9, 1: 5}


def test_is_empty_after_clear(buffer: Buffer) -> None:
    buffer.add_event(record(0), {})
    buffer.add_letter(letter(1))
    buffer.clear()
    assert (len(buffer), buffer.records, buffer.events, buffer.letters, buffer.offsets) == (0, 0, [], [], {})
