"""The producer thread, which sends events to Kafka."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from api.event_queue import EventQueue
from api.intake import AcceptedEvent
from api.producer import Producer
from api.undeliverable import Undeliverable
from common.kafka import Record
from common.metrics import ApiMetrics
from common.retry import Backoff
from tests.fakes import FakeBroker, FakeSender, RefusesLarge
from tests.waiting import eventually

TOPIC, DLQ = "events", "events.dlq"


class Parts:
    """A producer with its queue, on a fake broker."""

    def __init__(
        self, sender: FakeSender | None = None, folder: Path | None = None, dlq: FakeSender | None = None
    ) -> None:
        self.broker = FakeBroker()
        self.sender = sender or FakeSender(self.broker, TOPIC)
        self.broker = self.sender.broker
        self.registry = CollectorRegistry()
        metrics = ApiMetrics(self.registry)
        self.queue = EventQueue(100_000, 2**30, metrics)
        self.died: list[bool] = []
        self.producer = Producer(
            self.queue,
            self.sender,
            Undeliverable(dlq or FakeSender(self.broker, DLQ), TOPIC, folder, metrics),
            metrics=metrics,
            backoff=Backoff(first=0.001, most=0.01),
            on_death=lambda: self.died.append(True),
        )

    def put(self, *values: int, key: bytes = b"key", size: int = 0) -> None:
        self.queue.put([AcceptedEvent(str(n), "click", key, b"%d" % n + b" " * size) for n in values])

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


def test_sends_the_events_of_the_queue(parts: Parts) -> None:
    parts.put(1, 2, 3)
    eventually(lambda: parts.delivered() == [1, 2, 3])


def test_makes_room_once_kafka_has_acknowledged(parts: Parts) -> None:
    parts.put(1, 2, 3)
    eventually(lambda: parts.queue.unacknowledged == 0)
    assert parts.metric("pulse_api_events_produced_total", event_type="click") == 3


def test_keeps_events_while_kafka_is_unavailable_and_sends_them_when_it_is_back(parts: Parts) -> None:
    parts.broker.up = False
    parts.put(1, 2)
    parts.put(3)
    eventually(lambda: len(parts.sender.sent) > 3)
    assert parts.queue.unacknowledged == 3
    parts.broker.up = True
    eventually(lambda: parts.delivered() == [1, 2, 3])


def test_reports_that_it_fails_until_it_works_again(parts: Parts) -> None:
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
        "sending events to Kafka failed; retrying",
        "sending events to Kafka works again",
    ]


class RefusesSome(FakeSender):
    """A sender that does not acknowledge odd numbers the first time."""

    def send(self, records: Sequence[Record]) -> list[Exception | None]:
        first = not self.sent
        answers = super().send(records)
        return [
            OSError("refused") if first and int(record.value or b"") % 2 else answer
            for record, answer in zip(records, answers, strict=True)
        ]


def test_sends_only_unacknowledged_events_again() -> None:
    parts = Parts(RefusesSome(FakeBroker(), TOPIC))
    parts.put(*range(6))
    parts.producer.start()
    parts.producer.stop(5)
    assert [int(record.value or b"") for record in parts.sender.sent[1]] == [1, 3, 5]


class Breaks(FakeSender):
    """A sender that raises an unexpected error the first time."""

    def send(self, records: Sequence[Record]) -> list[Exception | None]:
        if not self.sent:
            self.sent.append([])
            raise RuntimeError("a bug")
        return super().send(records)


def test_continues_after_an_unexpected_error() -> None:
    parts = Parts(Breaks(FakeBroker(), TOPIC))
    parts.producer.start()
    parts.put(1)
    eventually(lambda: parts.delivered() == [1])
    parts.producer.stop(5)


def test_splits_events_that_do_not_fit_into_one_batch(parts: Parts) -> None:
    parts.put(*range(40), size=60_000)
    eventually(lambda: parts.delivered() == list(range(40)))
    assert all(sum(len(record.value or b"") for record in chunk) <= 1_000_000 for chunk in parts.sender.sent)


def test_stop_sends_waiting_events() -> None:
    parts = Parts()
    parts.put(*range(5000))
    parts.producer.start()
    parts.producer.stop(10)
    assert parts.delivered() == list(range(5000))


def test_stop_directly_after_an_event_ends_the_thread() -> None:
    parts = Parts()
    parts.put(1)
    parts.producer.start()
    parts.producer.stop(5)
    assert not parts.producer.alive


def test_stop_leaves_events_that_it_cannot_send_in_time() -> None:
    parts = Parts()
    parts.broker.up = False
    parts.put(1, 2, 3)
    parts.producer.start()
    parts.producer.stop(0.05)
    assert parts.queue.unacknowledged == 3


def refusing(broker: FakeBroker, folder: Path | None = None, dlq: FakeSender | None = None) -> Parts:
    parts = Parts(RefusesLarge(broker, TOPIC), folder, dlq)
    parts.put(1)
    parts.put(2, size=2000)
    parts.put(3)
    parts.producer.start()
    return parts


def test_an_event_that_kafka_never_accepts_becomes_a_dead_letter() -> None:
    parts = refusing(FakeBroker())
    parts.producer.stop(5)
    (letter,) = parts.broker.records(DLQ)
    assert int(letter.value or b"") == 2
    assert dict(letter.headers)["dlq.error.class"] == b"MessageSizeTooLargeError"


def test_an_event_that_kafka_never_accepts_does_not_delay_others() -> None:
    parts = refusing(FakeBroker())
    parts.producer.stop(5)
    assert parts.delivered() == [1, 3]


def test_an_event_that_the_dead_letter_topic_refuses_too_is_kept_in_a_file(tmp_path: Path) -> None:
    broker = FakeBroker()
    parts = refusing(broker, tmp_path, RefusesLarge(broker, DLQ))
    parts.producer.stop(5)
    assert int((tmp_path / "refused.jsonl").read_bytes()) == 2
    assert parts.metric("pulse_api_refused_events_total", kept_in="file") == 1


def test_an_event_that_cannot_be_kept_anywhere_is_retried(tmp_path: Path) -> None:
    broker = FakeBroker()
    folder = tmp_path / "missing"
    parts = refusing(broker, folder, RefusesLarge(broker, DLQ))
    eventually(lambda: parts.producer.failing)
    folder.mkdir()
    parts.producer.stop(5)
    assert int((folder / "refused.jsonl").read_bytes()) == 2


def test_the_death_of_the_thread_is_reported(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    parts = Parts()
    monkeypatch.setattr(parts.queue, "take", lambda *_: 1 / 0)
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    parts.producer.start()
    eventually(lambda: parts.died)
    assert "thread producer:" in vars(caplog.records[-1])["stacks"]
