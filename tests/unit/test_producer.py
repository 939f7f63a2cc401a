"""The thread that takes events to Kafka."""

from collections.abc import Iterator, Sequence

import pytest
from prometheus_client import CollectorRegistry

from api.event_queue import EventQueue
from api.intake import AcceptedEvent
from api.producer import Producer
from common.kafka import Record
from common.metrics import ApiMetrics
from common.retry import Backoff
from tests.fakes import FakeBroker, FakeSender
from tests.waiting import eventually

TOPIC = "events"


class Parts:
    """A producer with its queue, on a fake broker."""

    def __init__(self, sender: FakeSender | None = None) -> None:
        self.broker = FakeBroker()
        self.sender = sender or FakeSender(self.broker, TOPIC)
        self.broker = self.sender.broker
        self.registry = CollectorRegistry()
        self.queue = EventQueue(capacity=100_000)
        self.producer = Producer(self.queue, self.sender, ApiMetrics(self.registry), Backoff(first=0.001, most=0.01))

    def put(self, *values: int, key: bytes = b"key", size: int = 0) -> None:
        self.queue.put([AcceptedEvent(str(n), "click", Record(key, b"%d" % n + b" " * size)) for n in values])

    def delivered(self) -> list[int]:
        return [int(record.value or b"") for record in self.broker.records(TOPIC)]

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def parts() -> Iterator[Parts]:
    parts = Parts()
    parts.producer.start()
    yield parts
    parts.producer.stop(5)


def test_sends_what_is_put(parts: Parts) -> None:
    parts.put(1, 2, 3)
    eventually(lambda: parts.delivered() == [1, 2, 3])


def test_makes_room_once_kafka_has_acknowledged(parts: Parts) -> None:
    parts.put(1, 2, 3)
    eventually(lambda: parts.queue.unacknowledged == 0)
    assert parts.metric("pulse_api_events_produced_total", event_type="click") == 3


def test_keeps_events_while_kafka_is_away_and_sends_them_when_it_is_back(parts: Parts) -> None:
    parts.broker.up = False
    parts.put(1, 2)
    parts.put(3)
    eventually(lambda: len(parts.sender.sent) > 3)
    assert parts.queue.unacknowledged == 3
    parts.broker.up = True
    eventually(lambda: parts.delivered() == [1, 2, 3])


def test_says_that_it_fails_until_it_works_again(parts: Parts) -> None:
    parts.broker.up = False
    parts.put(1)
    eventually(lambda: parts.producer.failing)
    parts.broker.up = True
    eventually(lambda: not parts.producer.failing)


def test_logs_an_outage_once_when_it_starts_and_once_when_it_ends(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    parts.broker.up = False
    parts.put(1)
    eventually(lambda: len(parts.sender.sent) > 5)
    parts.broker.up = True
    eventually(lambda: not parts.producer.failing)
    assert [record.message for record in caplog.records] == [
        "Kafka does not take events; trying until it does",
        "Kafka takes events again",
    ]


class RefusesSome(FakeSender):
    """Does not acknowledge odd numbers the first time."""

    def send(self, records: Sequence[Record]) -> list[Exception | None]:
        first = not self.sent
        answers = super().send(records)
        return [
            OSError("refused") if first and int(record.value) % 2 else answer
            for record, answer in zip(records, answers, strict=True)
        ]


def test_sends_again_only_what_was_not_acknowledged() -> None:
    parts = Parts(RefusesSome(FakeBroker(), TOPIC))
    parts.put(*range(6))
    parts.producer.start()
    parts.producer.stop(5)
    assert [int(record.value) for record in parts.sender.sent[1]] == [1, 3, 5]


class Breaks(FakeSender):
    """Raises what nobody expects, the first time."""

    def send(self, records: Sequence[Record]) -> list[Exception | None]:
        if not self.sent:
            self.sent.append([])
            raise RuntimeError("a bug")
        return super().send(records)


def test_lives_on_after_an_unexpected_error() -> None:
    parts = Parts(Breaks(FakeBroker(), TOPIC))
    parts.producer.start()
    parts.put(1)
    eventually(lambda: parts.delivered() == [1])
    parts.producer.stop(5)


def test_splits_what_does_not_fit_into_one_batch(parts: Parts) -> None:
    parts.put(*range(40), size=60_000)
    eventually(lambda: parts.delivered() == list(range(40)))
    assert all(sum(len(record.value) for record in chunk) <= 1_000_000 for chunk in parts.sender.sent)


def test_stop_sends_what_waits() -> None:
    parts = Parts()
    parts.put(*range(5000))
    parts.producer.start()
    assert parts.producer.stop(10) == 0
    assert parts.delivered() == list(range(5000))


def test_stop_ends_the_thread_even_when_it_comes_right_behind_an_event() -> None:
    parts = Parts()
    parts.put(1)
    parts.producer.start()
    parts.producer.stop(5)
    assert not parts.producer.alive


def test_stop_says_how_many_events_it_could_not_send() -> None:
    parts = Parts()
    parts.broker.up = False
    parts.put(1, 2, 3)
    parts.producer.start()
    assert parts.producer.stop(0.05) == 3
