"""What waits for a flush."""

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


def test_stays_due_when_a_part_is_safe(buffer: Buffer) -> None:
    for offset in range(3):
        buffer.add_event(record(offset), {})
    buffer.events = []
    assert buffer.due


def test_dead_letters_count_towards_full(buffer: Buffer) -> None:
    for offset in range(3):
        buffer.add_letter(letter(offset))
    assert buffer.due


def test_is_due_when_the_oldest_record_has_waited_long_enough(buffer: Buffer, clock: FakeClock) -> None:
    buffer.add_event(record(0), {})
    clock.advance(0.6)
    buffer.add_event(record(1), {})
    clock.advance(0.4)
    assert buffer.due


def test_is_due_at_once_when_nothing_was_flushed_for_a_while(buffer: Buffer, clock: FakeClock) -> None:
    clock.advance(1.0)
    buffer.add_event(record(0), {})
    assert buffer.due


def test_is_not_due_again_before_a_while_has_passed_since_the_last_flush(buffer: Buffer, clock: FakeClock) -> None:
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


def test_age_starts_anew_after_clear(buffer: Buffer, clock: FakeClock) -> None:
    buffer.add_event(record(0), {})
    clock.advance(1)
    buffer.clear()
    buffer.add_event(record(1), {})
    assert not buffer.due


def test_knows_the_offset_to_go_on_from_in_each_partition(buffer: Buffer) -> None:
    buffer.add_event(record(7, partition=0), {})
    buffer.add_event(record(4, partition=1), {})
    buffer.add_letter(letter(8))
    assert buffer.offsets == {0: 9, 1: 5}


def test_forgets_everything_when_cleared(buffer: Buffer) -> None:
    buffer.add_event(record(0), {})
    buffer.add_letter(letter(1))
    buffer.clear()
    assert (len(buffer), buffer.records, buffer.events, buffer.letters, buffer.offsets) == (0, 0, [], [], {})
