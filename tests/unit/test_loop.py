"""The consumer's loop on fakes: stored events, dead letters, commits, and their order."""

import json
from base64 import b64decode
from datetime import UTC, datetime
from typing import Any
from unittest.mock import Mock

import pytest
from kafka.errors import TopicAuthorizationFailedError
from prometheus_client import CollectorRegistry

from common.errors import TooManyDeadLettersError, TopicError
from common.kafka import KafkaError, ReceivedRecord, Record
from common.metrics import ConsumerMetrics
from common.retry import Backoff
from consumer.buffer import Buffer
from consumer.dead_letters import DeadLetters
from consumer.health import STUCK_SECONDS, Health
from consumer.loop import Loop
from consumer.policy import DeathLimit
from consumer.writer import Written
from tests.fakes import FakeBroker, FakeClock, FakeForgotten, FakeSender, FakeSource, FakeWriter, RefusesLarge

TOPIC, DLQ, GROUP = "events", "events.dlq", "group"
BATCH = 3
INTERVAL = 1.0


class Consumer:
    """A loop with all its parts, on a broker that several consumers can share."""

    def __init__(self, broker: FakeBroker, clock: FakeClock, *, max_ratio: float = 1.0) -> None:
        self.source = FakeSource(broker, TOPIC, GROUP)
        self.writer = FakeWriter()
        self.forgotten = FakeForgotten()
        self.letters = FakeSender(broker, DLQ)
        self.registry = CollectorRegistry()
        self.health = Health(clock)
        metrics = ConsumerMetrics(self.registry)
        self.dead_letters = DeadLetters(self.letters, TOPIC, self.writer, DLQ, metrics)
        self.loop = Loop(
            self.source,
            Buffer(BATCH, INTERVAL, clock),
            self.writer,
            self.forgotten,
            self.dead_letters,
            max_retries=3,
            death_limit=DeathLimit(max_ratio),
            metrics=metrics,
            health=self.health,
            backoff=Backoff(first=1.0, jitter=lambda: 0.0),
            clock=clock,
        )

    def start(self) -> "Consumer":
        self.source.subscribe(self.loop)
        return self

    def refuse_large_letters(self) -> FakeSender:
        """Limit records of the dead letter topic to 1,000 bytes."""
        sender = RefusesLarge(self.letters.broker, DLQ)
        self.dead_letters._sender = sender
        return sender

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def consumer(broker: FakeBroker, clock: FakeClock) -> Consumer:
    return Consumer(broker, clock).start()


def send(broker: FakeBroker, *ids: str, customer: str = "alice") -> None:
    for event_id in ids:
        event = {"event_id": event_id, "customer_id": customer, "event_type": "click"}
        times = dict.fromkeys(("timestamp", "received_at"), "2026-01-31T12:00:00Z")
        broker.append(TOPIC, Record(b"alice", json.dumps({**event, **times}).encode()))


def send_garbage(broker: FakeBroker, value: bytes | None = b"garbage") -> None:
    broker.append(TOPIC, Record(b"alice", value))


def committed(broker: FakeBroker) -> int:
    return sum(broker.groups[GROUP].committed.values())


def test_flushes_when_the_batch_is_full(broker: FakeBroker, consumer: Consumer) -> None:
    send(broker, "a", "b", "c")
    consumer.loop.step()
    assert consumer.writer.stored.keys() == {"a", "b", "c"}


def test_stores_the_place_of_an_events_first_record(broker: FakeBroker, consumer: Consumer) -> None:
    send(broker, "a", "b", "a")
    consumer.loop.step()
    places = {event_id: document["kafka"] for event_id, document in consumer.writer.stored.items()}
    assert places["a"] == {"partition": places["b"]["partition"], "offset": 0}
    assert places["b"]["offset"] == 1


def test_waits_with_less_than_a_batch(broker: FakeBroker, consumer: Consumer) -> None:
    send(broker, "a", "b")
    consumer.loop.step()
    assert consumer.writer.stored == {}


def test_flushes_less_than_a_batch_after_the_interval(broker: FakeBroker, consumer: Consumer, clock: FakeClock) -> None:
    send(broker, "a")
    consumer.loop.step()
    clock.advance(INTERVAL)
    consumer.loop.step()
    assert consumer.writer.stored.keys() == {"a"}


def test_commits_only_what_is_stored(broker: FakeBroker, consumer: Consumer) -> None:
    send(broker, "a", "b")
    consumer.loop.step()
    assert committed(broker) == 0
    send(broker, "c")
    consumer.loop.step()
    assert committed(broker) == 3


def test_commits_nothing_while_mongodb_is_unavailable(broker: FakeBroker, consumer: Consumer, clock: FakeClock) -> None:
    consumer.writer.up = False
    send(broker, "a", "b", "c")
    for _ in range(10):
        consumer.loop.step()
        clock.advance(1)
    assert committed(broker) == 0


def test_stores_all_events_once_mongodb_is_back(broker: FakeBroker, consumer: Consumer, clock: FakeClock) -> None:
    consumer.writer.up = False
    send(broker, "a", "b", "c")
    consumer.loop.step()
    send(broker, "d", "e", "f")
    consumer.writer.up = True
    clock.advance(1)
    consumer.loop.step()
    consumer.loop.step()
    assert consumer.writer.stored.keys() == set("abcdef")
    assert committed(broker) == 6


def test_waits_longer_after_each_failed_flush(broker: FakeBroker, consumer: Consumer, clock: FakeClock) -> None:
    consumer.writer.up = False
    send(broker, "a", "b", "c")
    for _ in range(15):
        consumer.loop.step()
        clock.advance(0.5)
    # At 0, 1, 3 and 7 seconds.
    assert len(consumer.writer.writes) == 4


def test_tries_again_as_soon_as_mongodb_is_back(broker: FakeBroker, consumer: Consumer, clock: FakeClock) -> None:
    consumer.writer.up = False
    send(broker, "a", "b", "c")
    for _ in range(10):
        consumer.loop.step()
        clock.advance(1)
    consumer.writer.up = True
    consumer.loop.step()
    assert consumer.writer.stored.keys() == {"a", "b", "c"}


def test_keeps_its_place_in_the_group_while_mongodb_is_unavailable(
    broker: FakeBroker, consumer: Consumer, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer.writer.up = False
    send(broker, "a", "b", "c")
    consumer.loop.step()
    poll = Mock(return_value=[])
    monkeypatch.setattr(consumer.source, "poll", poll)
    for _ in range(5):
        consumer.loop.step()
    assert poll.call_count == 5


def test_no_event_becomes_a_dead_letter_while_mongodb_is_unavailable(
    broker: FakeBroker, consumer: Consumer, clock: FakeClock
) -> None:
    consumer.writer.up = False
    send(broker, "a", "b", "c")
    for _ in range(100):
        consumer.loop.step()
        clock.advance(10)
    assert broker.records(DLQ) == []


def test_reads_no_more_records_while_it_cannot_store(broker: FakeBroker, consumer: Consumer) -> None:
    consumer.writer.up = False
    send(broker, "a", "b", "c")
    consumer.loop.step()
    send(broker, "d")
    consumer.loop.step()
    assert consumer.metric("pulse_consumer_events_consumed_total", event_type="click") == 3


def test_counts_duplicates(broker: FakeBroker, consumer: Consumer) -> None:
    send(broker, "a", "a", "b")
    consumer.loop.step()
    assert consumer.metric("pulse_consumer_duplicates_skipped_total") == 1


def test_counts_and_names_other_events_with_an_id_that_is_stored_already(
    broker: FakeBroker, consumer: Consumer, caplog: pytest.LogCaptureFixture
) -> None:
    send(broker, "undefined", "b")
    send(broker, "undefined", customer="ben")
    consumer.loop.step()
    assert consumer.metric("pulse_consumer_conflicting_ids_total") == 1
    (line,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert vars(line)["event_ids"] == ("undefined",)


def test_names_at_most_ten_conflicting_ids_per_batch(
    broker: FakeBroker, consumer: Consumer, caplog: pytest.LogCaptureFixture
) -> None:
    send(broker, *map(str, range(30)))
    consumer.loop.step()
    send(broker, *map(str, range(30)), customer="ben")
    consumer.loop.step()
    (line,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert (vars(line)["events"], len(vars(line)["event_ids"])) == (30, 10)


@pytest.mark.parametrize("value", [b"garbage", b"{}", b"\xff", b"", None, b'{"customer_id":"a","event_type":"login"}'])
def test_a_record_that_does_not_decode_becomes_a_dead_letter_byte_for_byte(
    broker: FakeBroker, consumer: Consumer, value: bytes | None
) -> None:
    send(broker, "a", "b")
    send_garbage(broker, value)
    consumer.loop.step()
    (letter,) = broker.records(DLQ)
    assert (letter.key, letter.value) == (b"alice", value)


def test_a_dead_letter_has_its_reason_and_its_origin(broker: FakeBroker, consumer: Consumer) -> None:
    send(broker, "a", "b")
    send_garbage(broker)
    consumer.loop.step()
    headers = dict(broker.records(DLQ)[0].headers)
    partition = broker.records(TOPIC)[0].partition
    assert headers["dlq.error.class"] == b"InvalidEventError"
    assert headers["dlq.error.message"].startswith(b"The body is not valid JSON")
    assert headers["dlq.source.topic"] == TOPIC.encode()
    assert headers["dlq.source.partition"] == b"%d" % partition
    assert headers["dlq.source.offset"] == b"2"
    assert headers["dlq.attempts"] == b"1"
    assert headers["dlq.failed.first"].endswith(b"Z")


def test_the_rest_of_a_dead_letters_batch_is_stored(broker: FakeBroker, consumer: Consumer) -> None:
    send(broker, "a")
    send_garbage(broker)
    send(broker, "b")
    consumer.loop.step()
    assert consumer.writer.stored.keys() == {"a", "b"}
    assert committed(broker) == 3


def test_dead_letters_are_counted_by_reason(broker: FakeBroker, consumer: Consumer) -> None:
    for _ in range(3):
        send_garbage(broker)
    consumer.loop.step()
    assert consumer.metric("pulse_consumer_dlq_total", reason="InvalidEventError") == 3


def test_commits_nothing_until_the_dead_letter_topic_has_the_letter(
    broker: FakeBroker, consumer: Consumer, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as away:
        away.setattr(consumer.letters, "send", lambda records: [KafkaError("away")] * len(records))
        send(broker, "a", "b")
        send_garbage(broker)
        consumer.loop.step()
        assert committed(broker) == 0
    clock.advance(1)
    consumer.loop.step()
    assert committed(broker) == 3


def test_waiting_letters_cause_no_second_write_of_the_events(
    broker: FakeBroker, consumer: Consumer, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as away:
        away.setattr(consumer.letters, "send", lambda records: [KafkaError("away")] * len(records))
        send(broker, "a", "b")
        send_garbage(broker)
        consumer.loop.step()
    clock.advance(1)
    consumer.loop.step()
    assert consumer.writer.writes == [["a", "b"]]


def test_a_refused_document_is_retried_three_times_and_then_becomes_a_dead_letter(
    broker: FakeBroker, consumer: Consumer
) -> None:
    consumer.writer.refuses = {"b"}
    send(broker, "a", "b", "c")
    consumer.loop.step()
    assert consumer.writer.writes == [["a", "b", "c"], ["b"], ["b"], ["b"]]
    (letter,) = broker.records(DLQ)
    headers = dict(letter.headers)
    assert json.loads(letter.value or b"")["event_id"] == "b"
    assert (headers["dlq.error.class"], headers["dlq.attempts"]) == (b"RefusedDocumentError", b"4")
    assert headers["dlq.failed.first"] < headers["dlq.failed.last"]


def test_the_rest_of_a_refused_documents_batch_is_stored_once(broker: FakeBroker, consumer: Consumer) -> None:
    consumer.writer.refuses = {"b"}
    send(broker, "a", "b", "c")
    consumer.loop.step()
    assert consumer.writer.stored.keys() == {"a", "c"}
    assert committed(broker) == 3
    assert consumer.metric("pulse_consumer_duplicates_skipped_total") == 0


def test_a_document_that_mongodb_accepts_at_a_retry_becomes_no_dead_letter(
    broker: FakeBroker, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer.writer.refuses = {"b"}
    write = consumer.writer.write

    def accept_after_two(documents: Any) -> Written:
        if len(consumer.writer.writes) == 2:
            consumer.writer.refuses = set()
        return write(documents)

    monkeypatch.setattr(consumer.writer, "write", accept_after_two)
    send(broker, "a", "b", "c")
    consumer.loop.step()
    assert consumer.writer.stored.keys() == {"a", "b", "c"}
    assert broker.records(DLQ) == []


def test_no_event_becomes_a_dead_letter_when_mongodb_fails_during_the_retries(
    broker: FakeBroker, consumer: Consumer, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer.writer.refuses = {"b"}
    write = consumer.writer.write

    def go_away_after_two(documents: Any) -> Written:
        consumer.writer.up = len(consumer.writer.writes) != 2
        return write(documents)

    monkeypatch.setattr(consumer.writer, "write", go_away_after_two)
    send(broker, "a", "b", "c")
    consumer.loop.step()
    assert (broker.records(DLQ), committed(broker)) == ([], 0)
    consumer.writer.refuses = set()
    clock.advance(1)
    consumer.loop.step()
    assert (broker.records(DLQ), committed(broker)) == ([], 3)


def test_is_not_ready_while_letters_wait_for_their_topic(
    broker: FakeBroker, consumer: Consumer, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as away:
        away.setattr(consumer.letters, "send", lambda records: [TopicAuthorizationFailedError()] * len(records))
        send_garbage(broker)
        send(broker, "a", "b")
        consumer.loop.step()
        assert not consumer.health.ready
        problem = consumer.health.report()["checks"]["dead_letters"]["problem"]
        assert problem.startswith("events.dlq takes no dead letters, 1 wait (")
        assert problem.endswith("TopicAuthorizationFailedError): let this user write to it")
    clock.advance(1)
    consumer.loop.step()
    assert consumer.health.ready


def test_waiting_letters_do_not_count_after_their_partitions_are_revoked(
    broker: FakeBroker, consumer: Consumer, clock: FakeClock
) -> None:
    consumer.letters.broker = FakeBroker()
    consumer.letters.broker.up = False
    send_garbage(broker)
    consumer.loop.step()
    clock.advance(INTERVAL)
    consumer.loop.step()
    assert not consumer.health.ready
    other = Consumer(broker, clock).start()
    for _ in range(3):
        consumer.loop.step()
        other.loop.step()
    assert consumer.health.report()["checks"]["dead_letters"]["status"] != "down"


def test_only_letters_that_the_topic_refused_are_sent_again(
    broker: FakeBroker, consumer: Consumer, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as away:
        away.setattr(
            consumer.letters,
            "send",
            lambda records: [
                *FakeSender(broker, DLQ).send(records[:2]),
                KafkaError("one of its partitions is unavailable"),
            ],
        )
        for value in (b"1", b"2", b"3"):
            send_garbage(broker, value)
        consumer.loop.step()
        assert consumer.metric("pulse_consumer_dlq_total", reason="InvalidEventError") == 2
    clock.advance(1)
    consumer.loop.step()
    assert [letter.value for letter in broker.records(DLQ)] == [b"1", b"2", b"3"]
    assert committed(broker) == 3


LARGE = b"x" * 2000


def test_a_letter_too_large_for_its_topic_goes_to_mongodb_alone(broker: FakeBroker, consumer: Consumer) -> None:
    consumer.letters = consumer.refuse_large_letters()
    for value in (b"1", LARGE, b"3"):
        send_garbage(broker, value)
    consumer.loop.step()
    assert {letter.value for letter in broker.records(DLQ)} == {b"1", b"3"}
    partition = broker.records(TOPIC)[0].partition
    (content,) = consumer.writer.letters.items()
    assert content[0] == f"{TOPIC}-{partition}-1@0"
    assert b64decode(json.loads(content[1])["value"]) == LARGE
    assert consumer.metric("pulse_consumer_letters_too_large_total") == 1
    assert committed(broker) == 3


def test_a_letter_in_mongodb_has_the_headers_of_a_letter_in_kafka(broker: FakeBroker, consumer: Consumer) -> None:
    consumer.letters = consumer.refuse_large_letters()
    broker.append(TOPIC, Record(b"alice", LARGE, (("trace", b"\xff"),)))
    send(broker, "a", "b")
    consumer.loop.step()
    ((_, content),) = consumer.writer.letters.items()
    headers = {name: b64decode(value) for name, value in json.loads(content)["headers"]}
    assert (headers["trace"], headers["dlq.error.class"]) == (b"\xff", b"InvalidEventError")


def test_a_letter_too_large_waits_while_mongodb_refuses_it(
    broker: FakeBroker, consumer: Consumer, clock: FakeClock
) -> None:
    consumer.letters = consumer.refuse_large_letters()
    consumer.writer.up = False
    for _ in range(3):
        send_garbage(broker, LARGE)
    consumer.loop.step()
    assert (committed(broker), consumer.health.ready) == (0, False)
    consumer.writer.up = True
    clock.advance(1)
    consumer.loop.step()
    assert (committed(broker), len(consumer.writer.letters)) == (3, 3)


def test_counts_records_that_kafka_deleted_unread(broker: FakeBroker, consumer: Consumer) -> None:
    send(broker, *"abcdef")
    partition = broker.records(TOPIC)[0].partition
    broker.begins[TOPIC][partition] = 2
    broker.groups[GROUP].committed[partition] = 0
    consumer.loop.step()
    assert consumer.metric("pulse_consumer_records_lost_total", partition=str(partition)) == 2
    assert consumer.writer.stored.keys() == set("cdef")


def test_counts_records_that_kafka_deleted_only_once(broker: FakeBroker, consumer: Consumer, clock: FakeClock) -> None:
    """The loop commits their offsets although no other record arrives."""
    send(broker, "a", "b")
    partition = broker.records(TOPIC)[0].partition
    broker.begins[TOPIC][partition] = 2
    broker.groups[GROUP].committed[partition] = 0
    consumer.loop.step()
    clock.advance(INTERVAL)
    consumer.loop.step()
    consumer.source.die()
    second = Consumer(broker, clock).start()
    second.loop.step()
    assert second.metric("pulse_consumer_records_lost_total", partition=str(partition)) == 0


def test_the_count_of_lost_records_is_zero_before_the_first(consumer: Consumer) -> None:
    consumer.loop.step()
    assert consumer.registry.get_sample_value("pulse_consumer_records_lost_total", {"partition": "0"}) == 0


def test_stores_the_records_of_a_deleted_topic_without_a_commit_and_leaves(
    broker: FakeBroker, clock: FakeClock
) -> None:
    """With a committed offset of the old topic, the consumer would skip N records of its replacement."""
    consumer = Consumer(broker, clock)
    send(broker, "a", "b")
    poll = consumer.source.poll

    def deleted(timeout: float) -> list[ReceivedRecord]:
        if consumer.source.assigned:
            raise TopicError("deleted")
        return poll(timeout)

    consumer.source.poll = deleted  # type: ignore[method-assign]
    with pytest.raises(TopicError):
        consumer.loop.run(lambda: False)
    assert consumer.writer.stored.keys() == {"a", "b"}
    assert (committed(broker), consumer.source.closed, consumer.health.ready) == (0, True, False)


def test_stops_at_too_many_dead_letters(broker: FakeBroker, clock: FakeClock) -> None:
    consumer = Consumer(broker, clock, max_ratio=0.5)
    consumer.source.max_records = BATCH
    for _ in range(100):
        send_garbage(broker)
    with pytest.raises(TooManyDeadLettersError, match=r"^51 of .*; the newest is offset 50 of partition \d \(Inv"):
        consumer.loop.run(lambda: False)
    assert len(broker.records(DLQ)) == committed(broker) == 48


def test_replayed_records_do_not_count_towards_too_many_dead_letters(broker: FakeBroker, clock: FakeClock) -> None:
    consumer = Consumer(broker, clock, max_ratio=0.0).start()
    for _ in range(100):
        broker.append(TOPIC, Record(b"alice", b"garbage", (("dlq.replays", b"1"),)))
    for _ in range(3):
        consumer.loop.step()
    assert len(broker.records(DLQ)) == 100


def test_an_unexpected_error_ends_the_loop_without_a_commit(
    broker: FakeBroker, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(documents: Any) -> Written:
        raise AssertionError

    monkeypatch.setattr(consumer.writer, "write", fail)
    send(broker, "a", "b", "c")
    with pytest.raises(AssertionError):
        consumer.loop.step()
    assert committed(broker) == 0


def test_a_crash_between_write_and_commit_stores_nothing_twice(
    broker: FakeBroker, clock: FakeClock, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer.source, "commit", lambda offsets: None)
    send(broker, "a", "b", "c")
    consumer.loop.step()
    consumer.source.die()
    second = Consumer(broker, clock).start()
    second.writer.stored = consumer.writer.stored
    second.loop.step()
    assert consumer.writer.stored.keys() == {"a", "b", "c"}
    assert second.metric("pulse_consumer_duplicates_skipped_total") == 3


def test_a_crash_between_dead_letter_and_commit_loses_no_letter(
    broker: FakeBroker, clock: FakeClock, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer.source, "commit", lambda offsets: None)
    for _ in range(3):
        send_garbage(broker)
    consumer.loop.step()
    consumer.source.die()
    Consumer(broker, clock).start().loop.step()
    assert {dict(letter.headers)["dlq.source.offset"] for letter in broker.records(DLQ)} == {b"0", b"1", b"2"}


def test_the_next_commit_replaces_a_lost_commit(broker: FakeBroker, consumer: Consumer) -> None:
    send(broker, "a", "b", "c")
    with pytest.MonkeyPatch.context() as away:
        away.setattr(consumer.source, "commit", lambda offsets: None)
        consumer.loop.step()
    send(broker, "d", "e", "f")
    consumer.loop.step()
    assert committed(broker) == 6


def test_stores_and_commits_its_buffer_when_its_partitions_are_revoked(
    broker: FakeBroker, clock: FakeClock, consumer: Consumer
) -> None:
    send(broker, "a")
    consumer.loop.step()
    Consumer(broker, clock).start()
    consumer.loop.step()
    assert consumer.writer.stored.keys() == {"a"}
    assert committed(broker) == 1


def test_drops_its_buffer_when_its_partitions_are_revoked_and_mongodb_is_unavailable(
    broker: FakeBroker, clock: FakeClock, consumer: Consumer
) -> None:
    consumer.writer.up = False
    send(broker, "a")
    consumer.loop.step()
    other = Consumer(broker, clock).start()
    for _ in range(3):
        consumer.loop.step()
        other.loop.step()
    consumer.source.close()
    consumer.writer.up = True
    for _ in range(3):
        other.loop.step()
        clock.advance(INTERVAL)
    assert consumer.writer.stored == {}
    assert other.writer.stored.keys() == {"a"}


def test_stop_flushes_commits_and_leaves_the_group(broker: FakeBroker, clock: FakeClock) -> None:
    send(broker, "a")
    consumer = Consumer(broker, clock)
    steps = iter([False, False, True])
    consumer.loop.run(lambda: next(steps))
    assert consumer.writer.stored.keys() == {"a"}
    assert committed(broker) == 1
    assert consumer.source.closed


def test_stop_commits_only_stored_events(broker: FakeBroker, clock: FakeClock) -> None:
    send(broker, "a")
    consumer = Consumer(broker, clock)
    consumer.writer.up = False
    steps = iter([False, False, True])
    consumer.loop.run(lambda: next(steps))
    assert committed(broker) == 0
    assert consumer.source.closed


def test_reports_lag_by_partition(broker: FakeBroker, consumer: Consumer) -> None:
    consumer.source.max_records = 1
    send(broker, "a", "b", "c")
    consumer.loop.step()
    partition = str(broker.records(TOPIC)[0].partition)
    assert consumer.metric("pulse_consumer_kafka_lag", partition=partition) == 2


def test_reports_no_lag_of_a_partition_without_records(consumer: Consumer) -> None:
    consumer.loop.step()
    assert consumer.metric("pulse_consumer_kafka_lag", partition="0") == 0


def test_is_ready_once_it_polls_has_partitions_and_mongodb_answers(consumer: Consumer) -> None:
    assert not consumer.health.ready
    consumer.loop.step()
    assert consumer.health.ready


def test_is_alive_but_not_ready_while_mongodb_is_unavailable(
    broker: FakeBroker, consumer: Consumer, clock: FakeClock
) -> None:
    consumer.writer.up = False
    send(broker, "a", "b", "c")
    for _ in range(100):
        consumer.loop.step()
        clock.advance(10)
    assert (consumer.health.alive, consumer.health.ready) == (True, False)
    assert consumer.health.report()["checks"]["mongodb"] == {"status": "down"}


def test_is_not_ready_when_mongodb_fails_while_the_consumer_is_idle(consumer: Consumer) -> None:
    consumer.loop.step()
    assert consumer.health.ready
    consumer.writer.up = False
    consumer.loop.step()
    assert not consumer.health.ready


def test_is_neither_alive_nor_ready_when_the_loop_hangs(
    broker: FakeBroker, consumer: Consumer, clock: FakeClock
) -> None:
    send(broker, "a", "b", "c")
    consumer.loop.step()
    clock.advance(STUCK_SECONDS)
    assert (consumer.health.alive, consumer.health.ready) == (False, False)


def test_is_not_alive_when_it_lags_without_progress(
    broker: FakeBroker, consumer: Consumer, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer.loop.step()
    monkeypatch.setattr(consumer.source, "poll", lambda timeout: [])
    send(broker, "a")
    for _ in range(20):
        consumer.loop.step()
        clock.advance(STUCK_SECONDS / 20)
    assert not consumer.health.alive


def test_is_alive_when_there_is_nothing_to_do(consumer: Consumer, clock: FakeClock) -> None:
    for _ in range(20):
        consumer.loop.step()
        clock.advance(STUCK_SECONDS / 20)
    assert consumer.health.alive


LONG_AFTER = datetime(2100, 1, 1, tzinfo=UTC)


class TestForgottenCustomers:
    @pytest.fixture(autouse=True)
    def forgotten(self, consumer: Consumer) -> None:
        consumer.forgotten.before["alice"] = LONG_AFTER

    def test_their_events_are_skipped_counted_and_committed(self, broker: FakeBroker, consumer: Consumer) -> None:
        send(broker, "a", "c")
        send(broker, "b", customer="ben")
        consumer.loop.step()
        assert consumer.writer.stored.keys() == {"b"}
        assert consumer.metric("pulse_consumer_forgotten_total") == 2
        assert committed(broker) == 3

    def test_a_flush_of_their_events_alone_writes_nothing(self, broker: FakeBroker, consumer: Consumer) -> None:
        send(broker, "a", "b", "c")
        consumer.loop.step()
        assert consumer.writer.writes == []
        assert committed(broker) == 3

    def test_their_undecodable_records_become_no_letters(self, broker: FakeBroker, consumer: Consumer) -> None:
        send_garbage(broker)
        send(broker, "a", "b", customer="ben")
        consumer.loop.step()
        assert broker.records(DLQ) == []
        assert consumer.metric("pulse_consumer_forgotten_total") == 1
        assert committed(broker) == 3

    def test_events_written_with_an_old_list_are_checked_again(self, broker: FakeBroker, consumer: Consumer) -> None:
        consumer.forgotten.late = True
        send(broker, "a", "b", "c", customer="ben")
        consumer.loop.step()
        assert consumer.forgotten.asked == [["a", "b", "c"]] * 2
