"""The watchdog of the consumer's loop: reports a hang, and ends a stop that takes too long."""

import threading

import pytest

from consumer.health import STUCK_SECONDS, Health
from consumer.watchdog import STOP_SECONDS, STOP_SECONDS_WITHOUT_KAFKA, Watchdog
from tests.fakes import FakeClock


class Scene:
    """A watchdog whose clock a test moves."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.health = Health(self.clock)
        self.stopping = threading.Event()
        self.kafka_answers = True
        self.ended = 0
        self.watchdog = Watchdog(
            self.health, self.stopping, lambda: self.kafka_answers, clock=self.clock, end_process=self.end
        )

    def end(self) -> None:
        self.ended += 1

    def let_pass(self, seconds: float) -> None:
        self.watchdog.look()
        self.clock.advance(seconds)
        self.watchdog.look()


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_logs_once_that_the_loop_hangs_and_once_that_it_continues(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.let_pass(STUCK_SECONDS)
    scene.let_pass(1)
    scene.health.progressed()
    scene.let_pass(1)
    assert [record.message for record in caplog.records] == ["no progress; is Kafka reachable?", "progress again"]


def test_does_not_end_a_process_without_a_stop(scene: Scene) -> None:
    scene.let_pass(10 * STUCK_SECONDS)
    assert scene.ended == 0


def test_gives_a_stop_its_time(scene: Scene) -> None:
    scene.stopping.set()
    scene.let_pass(STOP_SECONDS - 1)
    assert scene.ended == 0


def test_ends_a_stop_that_takes_too_long(scene: Scene) -> None:
    scene.stopping.set()
    scene.let_pass(STOP_SECONDS)
    assert scene.ended == 1


def test_ends_a_stop_early_when_kafka_is_unavailable(scene: Scene) -> None:
    scene.kafka_answers = False
    scene.stopping.set()
    scene.let_pass(STOP_SECONDS_WITHOUT_KAFKA)
    assert scene.ended == 1


def test_gives_a_stop_without_kafka_a_moment(scene: Scene) -> None:
    scene.kafka_answers = False
    scene.stopping.set()
    scene.let_pass(STOP_SECONDS_WITHOUT_KAFKA - 1)
    assert scene.ended == 0


def test_a_stop_is_shorter_than_the_minute_of_its_supervisor() -> None:
    assert STOP_SECONDS < 60


def test_the_stacks_of_all_threads_are_logged_when_the_loop_hangs(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.let_pass(STUCK_SECONDS)
    assert "thread MainThread:" in vars(caplog.records[0])["stacks"]


def test_the_stacks_of_all_threads_are_logged_when_a_stop_takes_too_long(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.stopping.set()
    scene.let_pass(STOP_SECONDS)
    assert "thread MainThread:" in vars(caplog.records[-1])["stacks"]


def test_a_watchdog_that_fails_ends_the_process(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> bool:
        raise UnicodeError("label empty or too long")

    stopping, ended = threading.Event(), threading.Event()
    clock = FakeClock()
    watchdog = Watchdog(Health(clock), stopping, fail, clock=clock, end_process=ended.set)
    stopping.set()
    watchdog.look()
    clock.advance(STOP_SECONDS_WITHOUT_KAFKA)
    watchdog.start()
    assert ended.wait(10)
    assert [record.message for record in caplog.records] == ["the thread watchdog died"]
