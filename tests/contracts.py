"""The contracts of sender, reader, source and writer, tested on the fakes (unit) and the real servers (integration)."""

import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from common.kafka import ReceivedRecord, Record, RecordReader, RecordSender, Source
from consumer.writer import Writer, Written
from tests.waiting import eventually

LATER = datetime(2026, 1, 31, 13, tzinfo=UTC)


class Recorder:
    """A `RebalanceHandler` that records its calls."""

    def __init__(self) -> None:
        self.partitions: frozenset[int] = frozenset()
        self.heard: list[str] = []
        self.when_revoked: Callable[[], None] = lambda: None
        self.when_jumped: Callable[[dict[int, int]], None] = lambda offsets: None
        self.lost: dict[int, int] = {}

    def on_assigned(self, partitions: frozenset[int]) -> None:
        self.heard.append("assigned")
        self.partitions = partitions

    def on_revoked(self) -> None:
        self.heard.append("revoked")
        self.when_revoked()

    def on_lost(self) -> None:
        self.heard.append("lost")

    def on_jump(self, partition: int, offset: int, *, lost: int) -> None:
        self.heard.append(f"jump to {offset}")
        self.when_jumped({partition: offset})
        self.lost[partition] = self.lost.get(partition, 0) + lost


def poll_until(source: Source, count: int) -> list[ReceivedRecord]:
    """Poll until N records have arrived."""
    records: list[ReceivedRecord] = []

    def enough() -> bool:
        records.extend(source.poll(0.1))
        return len(records) >= count

    eventually(enough)
    return records


@contextmanager
def polling(source: Source) -> Iterator[list[ReceivedRecord]]:
    """Poll in a thread, as another process does; yields the list of received records."""
    records: list[ReceivedRecord] = []
    done = threading.Event()

    def run() -> None:
        while not done.is_set():
            records.extend(source.poll(0.1))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield records
    finally:
        done.set()
        thread.join()


class SenderContract:
    """Subclasses have the fixtures `sender` (to a fresh topic) and `read` (all records of that topic so far)."""

    def test_acknowledges_what_it_sends(
        self, sender: RecordSender, read: Callable[[int], list[ReceivedRecord]]
    ) -> None:
        assert sender.send([Record(b"a", b"1"), Record(b"b", b"2")]) == [None, None]
        assert {record.value for record in read(2)} == {b"1", b"2"}

    def test_keeps_the_order_of_a_key(self, sender: RecordSender, read: Callable[[int], list[ReceivedRecord]]) -> None:
        for first in range(0, 600, 200):
            sender.send([Record(b"key%d" % (n % 3), b"%d" % n) for n in range(first, first + 200)])
        records = read(600)
        for key in (b"key0", b"key1", b"key2"):
            numbers = [int(record.value or b"") for record in records if record.key == key]
            assert numbers == sorted(numbers)

    def test_puts_a_key_into_one_partition(
        self, sender: RecordSender, read: Callable[[int], list[ReceivedRecord]]
    ) -> None:
        sender.send([Record(b"key", b"%d" % n) for n in range(50)])
        assert len({record.partition for record in read(50)}) == 1

    def test_delivers_bytes_and_headers_unchanged(
        self, sender: RecordSender, read: Callable[[int], list[ReceivedRecord]]
    ) -> None:
        sender.send([Record(b"\xff\x00", b"\x00\xfe", (("name", b"\x01"), ("name", b"\x02")))])
        (record,) = read(1)
        assert (record.key, record.value, record.headers) == (
            b"\xff\x00",
            b"\x00\xfe",
            (("name", b"\x01"), ("name", b"\x02")),
        )

    def test_delivers_a_record_without_a_value(
        self, sender: RecordSender, read: Callable[[int], list[ReceivedRecord]]
    ) -> None:
        sender.send([Record(b"a", None), Record(b"a", b""), Record(None, b"1")])
        assert {(record.key, record.value) for record in read(3)} == {(b"a", None), (b"a", b""), (None, b"1")}

    def test_can_be_used_again_after_close(
        self, sender: RecordSender, read: Callable[[int], list[ReceivedRecord]]
    ) -> None:
        sender.send([Record(b"a", b"1")])
        sender.close()
        assert sender.send([Record(b"a", b"2")]) == [None]
        assert [record.value for record in read(2)] == [b"1", b"2"]


class ReaderContract:
    """Subclasses have the fixtures `produce` (records into a fresh topic) and `open_reader` (of that topic)."""

    def test_reads_each_record_once_in_the_order_of_its_partition(
        self, open_reader: Callable[[], RecordReader], produce: Callable[[list[Record]], None]
    ) -> None:
        produce([Record(b"key%d" % (n % 5), b"%d" % n) for n in range(3000)])
        reader = open_reader()
        records = list(reader.read())
        assert sorted(int(record.value or b"") for record in records) == list(range(3000))
        for partition in range(3):
            offsets = [record.offset for record in records if record.partition == partition]
            assert offsets == list(range(len(offsets)))
        assert reader.size == 3000

    def test_reads_the_topic_as_it_was_when_opened(
        self, open_reader: Callable[[], RecordReader], produce: Callable[[list[Record]], None]
    ) -> None:
        produce([Record(b"key", b"1")])
        reader = open_reader()
        produce([Record(b"key", b"2"), Record(b"other", b"3")])
        assert [record.value for record in reader.read()] == [b"1"]

    def test_reads_again_only_the_given_partitions_from_their_offsets(
        self, open_reader: Callable[[], RecordReader], produce: Callable[[list[Record]], None]
    ) -> None:
        produce([Record(b"key%d" % (n % 5), b"%d" % n) for n in range(3000)])
        reader = open_reader()
        first = next(reader.read())  # and never reads the others
        end = 1 + max(record.offset for record in reader.read() if record.partition == first.partition)
        again = list(reader.read({first.partition: 7, 99: 0}))
        assert [(record.partition, record.offset) for record in again] == [(first.partition, n) for n in range(7, end)]

    def test_reads_no_records_from_an_empty_topic(
        self, open_reader: Callable[[], RecordReader], produce: Callable[[list[Record]], None]
    ) -> None:
        produce([])
        reader = open_reader()
        assert (list(reader.read()), list(reader.read({0: 5})), reader.size) == ([], [], 0)

    def test_delivers_bytes_and_headers_unchanged(
        self, open_reader: Callable[[], RecordReader], produce: Callable[[list[Record]], None]
    ) -> None:
        sent = Record(b"\xff\x00", b"", (("name", b"\x01"), ("name", b"\xfe"), ("", b"")))
        produce([sent])
        (record,) = open_reader().read()
        assert (record.key, record.value, record.headers) == sent


class SourceContract:
    """Subclasses have the fixtures `produce` (records into a fresh topic), `join` (a new member of one group), and
    `delete` (by partition, the records before an offset).
    """

    def test_reports_its_assigned_partitions(self, join: Callable[[], Source]) -> None:
        source, handler = join(), Recorder()
        source.subscribe(handler)
        eventually(lambda: source.poll(0.1) or handler.partitions)
        assert handler.partitions == {0, 1, 2}

    def test_delivers_each_record_once_in_order(
        self, join: Callable[[], Source], produce: Callable[[list[Record]], None]
    ) -> None:
        produce([Record(b"key%d" % (n % 5), b"%d" % n) for n in range(200)])
        source = join()
        source.subscribe(Recorder())
        records = poll_until(source, 200)
        assert sorted(int(record.value or b"") for record in records) == list(range(200))
        for partition in range(3):
            offsets = [record.offset for record in records if record.partition == partition]
            assert offsets == list(range(len(offsets)))

    def test_continues_at_the_committed_offset(
        self, join: Callable[[], Source], produce: Callable[[list[Record]], None]
    ) -> None:
        produce([Record(b"key", b"%d" % n) for n in range(10)])
        first = join()
        first.subscribe(Recorder())
        records = poll_until(first, 10)
        first.commit({records[0].partition: records[4].offset})
        first.close()
        second = join()
        second.subscribe(Recorder())
        assert [record.value for record in poll_until(second, 6)] == [b"4", b"5", b"6", b"7", b"8", b"9"]

    def test_delivers_no_records_while_paused(
        self, join: Callable[[], Source], produce: Callable[[list[Record]], None]
    ) -> None:
        source = join()
        source.subscribe(Recorder())
        produce([Record(b"key", b"1")])
        poll_until(source, 1)
        source.pause()
        produce([Record(b"key", b"2")])
        assert [source.poll(0.1) for _ in range(5)] == [[]] * 5
        source.resume()
        assert [record.value for record in poll_until(source, 1)] == [b"2"]

    def test_a_pause_loses_no_fetched_records(
        self, join: Callable[[], Source], produce: Callable[[list[Record]], None]
    ) -> None:
        for first in range(0, 400, 50):
            produce([Record(b"key", b"%d" % n) for n in range(first, first + 50)])
        source = join()
        source.subscribe(Recorder())
        before = poll_until(source, 100)
        source.pause()
        assert source.poll(0.1) == []
        source.resume()
        records = before + poll_until(source, 400 - len(before))
        assert [int(record.value or b"") for record in records] == list(range(400))

    def test_reports_the_number_of_records_deleted_unread_by_partition(
        self,
        join: Callable[[], Source],
        produce: Callable[[list[Record]], None],
        delete: Callable[[Mapping[int, int]], None],
    ) -> None:
        produce([Record(b"key%d" % (n % 5), b"%d" % n) for n in range(100)])
        first = join()
        first.subscribe(Recorder())
        ends = {record.partition: record.offset + 1 for record in poll_until(first, 100)}
        first.commit(ends)
        first.close()
        produce([Record(b"key%d" % (n % 5), b"%d" % n) for n in range(300)])
        begins = {partition: end + 10 for partition, end in ends.items()}
        delete(begins)
        second, handler = join(), Recorder()
        # Commit at once: otherwise the source would report the records again after a rebalance.
        handler.when_jumped = second.commit
        second.subscribe(handler)
        records = poll_until(second, 300 - 10 * len(ends))
        assert handler.lost == dict.fromkeys(ends, 10)
        for partition, begin in begins.items():
            offsets = [record.offset for record in records if record.partition == partition]
            assert offsets == list(range(begin, begin + len(offsets)))

    def test_reports_deleted_records_without_new_ones(
        self,
        join: Callable[[], Source],
        produce: Callable[[list[Record]], None],
        delete: Callable[[Mapping[int, int]], None],
    ) -> None:
        produce([Record(b"key", b"%d" % n) for n in range(20)])
        first = join()
        first.subscribe(Recorder())
        partition = poll_until(first, 20)[0].partition
        first.commit({partition: 10})
        first.close()
        delete({partition: 20})
        second, handler = join(), Recorder()
        second.subscribe(handler)
        eventually(lambda: second.poll(0.1) or handler.lost)
        assert handler.lost == {partition: 10}

    def test_a_new_group_has_lost_no_records(
        self,
        join: Callable[[], Source],
        produce: Callable[[list[Record]], None],
        delete: Callable[[Mapping[int, int]], None],
    ) -> None:
        produce([Record(b"key", b"%d" % n) for n in range(20)])
        source, handler = join(), Recorder()
        source.subscribe(handler)
        partition = poll_until(source, 20)[0].partition
        source.close()
        delete({partition: 20})
        produce([Record(b"key", b"20")])
        other = join()
        other.subscribe(handler)
        assert [record.value for record in poll_until(other, 1)] == [b"20"]
        assert handler.lost == {}

    def test_knows_its_lag(self, join: Callable[[], Source], produce: Callable[[list[Record]], None]) -> None:
        produce([Record(b"key", b"%d" % n) for n in range(10)])
        source = join()
        source.subscribe(Recorder())
        partition = poll_until(source, 10)[0].partition
        assert source.lag()[partition] == 0

    def test_shares_the_partitions_with_a_second_member(
        self, join: Callable[[], Source], produce: Callable[[list[Record]], None]
    ) -> None:
        first, second = join(), join()
        one, two = Recorder(), Recorder()
        first.subscribe(one)
        eventually(lambda: first.poll(0.1) or one.partitions)
        second.subscribe(two)
        with polling(second):
            eventually(lambda: first.poll(0.1) or (two.partitions and one.partitions == {0, 1, 2} - two.partitions))
        assert "revoked" in one.heard

    def test_can_commit_while_it_loses_its_partitions(
        self, join: Callable[[], Source], produce: Callable[[list[Record]], None]
    ) -> None:
        produce([Record(b"key", b"1")])
        first, second = join(), join()
        one, two = Recorder(), Recorder()
        first.subscribe(one)
        (record,) = poll_until(first, 1)
        one.when_revoked = lambda: first.commit({record.partition: record.offset + 1})
        second.subscribe(two)
        with polling(second) as polled:
            eventually(lambda: first.poll(0.1) or two.partitions)
            first.close()
            eventually(lambda: two.partitions == {0, 1, 2})
        assert not polled


class WriterContract:
    """Subclasses have the fixtures `writer` (to an empty collection), `stored` (its documents by event_id), and
    `letters` (the contents of its kept letters).
    """

    def test_stores_new_events(self, writer: Writer, stored: Callable[[], dict[str, Any]]) -> None:
        assert writer.write([document("a"), document("b")]) == Written(2, 0)
        assert stored().keys() == {"a", "b"}

    def test_counts_a_second_write_as_a_duplicate(self, writer: Writer) -> None:
        writer.write([document("a")])
        assert writer.write([document("a"), document("b")]) == Written(1, 1)

    def test_counts_a_repetition_in_a_batch_as_a_duplicate(self, writer: Writer) -> None:
        assert writer.write([document("a"), document("a")]) == Written(1, 1)

    def test_never_changes_a_stored_event(self, writer: Writer, stored: Callable[[], dict[str, Any]]) -> None:
        writer.write([document("a", customer_id="first")])
        writer.write([document("a", customer_id="second")])
        assert stored()["a"]["customer_id"] == "first"

    @pytest.mark.parametrize(
        "other",
        [
            {"customer_id": "ben"},
            {"event_type": "search"},
            {"properties": {"n": 2}},
            {"properties": None},
            {"event_name": "x"},
            {"user_id": "x"},
            {"traits": {"a": [1]}},
        ],
    )
    def test_reports_another_event_with_a_stored_id_as_a_conflict(self, writer: Writer, other: dict[str, Any]) -> None:
        writer.write([document("a", properties={"n": 1})])
        assert writer.write([document("a", properties={"n": 1}) | other, document("b")]).conflicts == ("a",)

    def test_reports_two_events_with_one_id_in_a_batch_as_a_conflict(self, writer: Writer) -> None:
        assert writer.write([document("a"), document("b"), document("a", customer_id="ben")]).conflicts == ("a",)

    @pytest.mark.parametrize(
        "again",
        [
            {},
            {"received_at": LATER},
            {"timestamp": LATER},
            {"context": {"battery": 3}},
            {"kafka": {"partition": 1, "offset": 7}},
            {"source": "new-key"},
        ],
        ids=str,
    )
    def test_a_second_attempt_to_send_an_event_is_no_conflict(self, writer: Writer, again: dict[str, Any]) -> None:
        sent = document("a", properties={"n": 2**63 - 1, "f": 1.0, "a.b": ["x\0", None, {"c": True}]})
        writer.write([sent])
        assert writer.write([sent | again]) == Written(0, 1)

    def test_reports_conflicts_in_a_batch_with_refused_events(self, writer: Writer) -> None:
        writer.write([document("a")])
        bad = document("b", properties={"n": 2**64})
        written = writer.write([document("a", customer_id="ben"), bad, document("c"), document("a")])
        assert (written.stored, written.duplicates, written.conflicts) == (1, 2, ("a",))

    def test_refuses_events_that_are_no_bson_and_stores_the_others(
        self, writer: Writer, stored: Callable[[], dict[str, Any]]
    ) -> None:
        bad = [document("b", properties={"n": 2**64}), document("d", properties={"a\0": 1})]
        written = writer.write([document("a"), bad[0], document("c"), bad[1], document("e")])
        assert (written.stored, written.duplicates, set(written.refused)) == (3, 0, {1, 3})
        assert stored().keys() == {"a", "c", "e"}

    def test_keeps_a_letter_of_any_size_once(self, writer: Writer, letters: Callable[[], list[bytes]]) -> None:
        large = b"0123456789" * 2_000_000
        for _ in range(2):
            writer.keep_letter("events-0-7", large)
        writer.keep_letter("events-0-8", b"small")
        assert sorted(letters()) == [large, b"small"]

    def test_is_available_after_it_has_stored_an_event(self, writer: Writer) -> None:
        writer.write([document("a")])
        assert writer.available()


def document(event_id: str, **fields: Any) -> dict[str, Any]:
    """An event as the consumer stores it."""
    moment = datetime(2026, 1, 31, 12, tzinfo=UTC)
    return {
        "event_id": event_id,
        "customer_id": "alice",
        "event_type": "click",
        "timestamp": moment,
        "received_at": moment,
        **fields,
    }


def fresh_name(prefix: str) -> str:
    """A topic, group or database that no other test uses."""
    return f"{prefix}-{uuid.uuid4().hex[:8]}"
