"""The consumer's loop on fakes: what is stored, what is committed, and in which order."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from common.kafka import KafkaError, Record
from common.metrics import ConsumerMetrics
from common.retry import Backoff
from consumer.buffer import Buffer
from consumer.dead_letters import DeadLetters
from consumer.health import Health
from consumer.loop import Loop
from tests.fakes import FakeBroker, FakeClock, FakeSender, FakeSource, FakeWriter

TOPIC, DLQ, GROUP = "events", "events.dlq", "group"
BATCH = 3
INTERVAL = 1.0


class Consumer:
    """A loop with all its parts, on a broker that several can share."""

    def __init__(self, broker: FakeBroker, clock: FakeClock) -> None:
        self.source = FakeSource(broker, TOPIC, GROUP)
        self.writer = FakeWriter()
        self.letters = FakeSender(broker, DLQ)
        self.registry = CollectorRegistry()
        self.health = Health(clock)
        self.loop = Loop(
            self.source,
            Buffer(BATCH, INTERVAL, clock),
            self.writer,
            DeadLetters(self.letters, TOPIC),
            metrics=ConsumerMetrics(self.registry),
            health=self.health,
            backoff=Backoff(first=1.0, jitter=lambda: 0.0),
            clock=clock,
        )

    def start(self) -> "Consumer":
        self.source.subscribe(self.loop)
        return self

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


def send(broker: FakeBroker, *ids: str) -> None:
    for event_id in ids:
        event = {"event_id": event_id, "customer_id": "alice", "event_type": "click"}
        times = dict.fromkeys(("timestamp", "received_at"), "2026-01-31T12:00:00Z")
        broker.append(TOPIC, Record(b"alice", json.dumps({**event, **times}).encode()))


def send_garbage(broker: FakeBroker, value: bytes = b"garbage") -> None:
    broker.append(TOPIC, Record(b"alice", value))


def committed(broker: FakeBroker) -> int:
    return sum(broker.groups[GROUP].committed.values())


def test_flushes_when_the_batch_is_full(broker: FakeBroker, consumer: Consumer) -> None:
    send(broker, "a", "b", "c")
    consumer.loop.step()
    assert consumer.writer.stored.keys() == {"a", "b", "c"}


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


def test_commits_nothing_while_mongodb_is_away(broker: FakeBroker, consumer: Consumer, clock: FakeClock) -> None:
    consumer.writer.up = False
    send(broker, "a", "b", "c")
    for _ in range(10):
        consumer.loop.step()
        clock.advance(1)
    assert committed(broker) == 0


def test_stores_everything_once_mongodb_is_back(broker: FakeBroker, consumer: Consumer, clock: FakeClock) -> None:
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
    assert consumer.writer.writes == 4


def test_reads_nothing_more_while_it_cannot_store(broker: FakeBroker, consumer: Consumer) -> None:
    consumer.writer.up = False
    send(broker, "a", "b", "c")
    consumer.loop.step()
    send(broker, "d")
    consumer.loop.step()
    assert consumer.metric("pulse_consumer_events_consumed_total", event_type="click") == 3


def test_logs_an_outage_once_when_it_starts_and_once_when_it_ends(
    broker: FakeBroker, consumer: Consumer, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    consumer.writer.up = False
    send(broker, "a", "b", "c")
    for _ in range(20):
        consumer.loop.step()
        clock.advance(1)
    consumer.writer.up = True
    clock.advance(30)
    consumer.loop.step()
    assert [record.message for record in caplog.records if record.levelname != "INFO"] == [
        "flushing failed; trying until it works",
        "flushing works again",
    ]


def test_counts_duplicates(broker: FakeBroker, consumer: Consumer) -> None:
    send(broker, "a", "a", "b")
    consumer.loop.step()
    assert consumer.metric("pulse_consumer_duplicates_skipped_total") == 1


@pytest.mark.parametrize("value", [b"garbage", b"{}", b"\xff", b'{"customer_id":"a","event_type":"login"}'])
def test_a_record_that_does_not_decode_becomes_a_dead_letter_byte_for_byte(
    broker: FakeBroker, consumer: Consumer, value: bytes
) -> None:
    send(broker, "a", "b")
    send_garbage(broker, value)
    consumer.loop.step()
    (letter,) = broker.records(DLQ)
    assert (letter.key, letter.value) == (b"alice", value)


def test_a_dead_letter_says_why_and_where_from(broker: FakeBroker, consumer: Consumer) -> None:
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


def test_goes_on_when_a_commit_fails(broker: FakeBroker, consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(offsets: Mapping[int, int]) -> None:
        raise KafkaError("not a member any more")

    with monkeypatch.context() as away:
        away.setattr(consumer.source, "commit", refuse)
        send(broker, "a", "b", "c")
        consumer.loop.step()
    send(broker, "d", "e", "f")
    consumer.loop.step()
    assert committed(broker) == 6


def test_stores_and_commits_what_it_has_when_its_partitions_go(
    broker: FakeBroker, clock: FakeClock, consumer: Consumer
) -> None:
    send(broker, "a")
    consumer.loop.step()
    Consumer(broker, clock).start()
    consumer.loop.step()
    assert consumer.writer.stored.keys() == {"a"}
    assert committed(broker) == 1


def test_forgets_what_it_cannot_store_when_its_partitions_go(
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


def test_stop_commits_nothing_that_is_not_stored(broker: FakeBroker, clock: FakeClock) -> None:
    send(broker, "a")
    consumer = Consumer(broker, clock)
    consumer.writer.up = False
    steps = iter([False, False, True])
    consumer.loop.run(lambda: next(steps))
    assert committed(broker) == 0
    assert consumer.source.closed


def test_tells_lag_by_partition(broker: FakeBroker, consumer: Consumer) -> None:
    consumer.source.max_records = 1
    send(broker, "a", "b", "c")
    consumer.loop.step()
    partition = str(broker.records(TOPIC)[0].partition)
    assert consumer.metric("pulse_consumer_kafka_lag", partition=partition) == 2


def test_is_healthy_once_it_polls_has_partitions_and_mongodb_answers(
    broker: FakeBroker, consumer: Consumer, clock: FakeClock
) -> None:
    def good() -> bool:
        return consumer.health.report()[0]

    assert not good()
    send(broker, "a", "b", "c")
    consumer.loop.step()
    assert good()


def test_is_not_healthy_while_mongodb_is_away(broker: FakeBroker, consumer: Consumer) -> None:
    consumer.writer.up = False
    send(broker, "a", "b", "c")
    consumer.loop.step()
    report: dict[str, Any] = consumer.health.report()[1]
    assert report["checks"]["mongodb"] == {"status": "down"}


def test_is_not_healthy_when_the_loop_hangs(broker: FakeBroker, consumer: Consumer, clock: FakeClock) -> None:
    send(broker, "a", "b", "c")
    consumer.loop.step()
    clock.advance(60)
    assert consumer.health.report()[0] is False
