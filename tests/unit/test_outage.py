"""An outage: its log lines and its pauses."""

import pytest

from common.outage import Outage
from common.retry import Backoff
from tests.fakes import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def outage(clock: FakeClock) -> Outage:
    return Outage("storing events", Backoff(first=1.0, most=30.0, jitter=lambda: 0.0), clock)


def test_logs_its_begin_every_minute_and_its_end(
    outage: Outage, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(13):
        outage.failed(OSError("away"))
        clock.advance(10)
    outage.over()
    assert [record.getMessage() for record in caplog.records] == [
        "storing events failed; retrying",
        "storing events still fails",
        "storing events still fails",
        "storing events works again",
    ]


def test_names_a_new_cause_at_once_and_each_only_once(
    outage: Outage, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """For example, a broker comes back and has no memory."""
    for error in (OSError("away"), TimeoutError("no memory"), OSError("away"), TimeoutError("no memory")):
        outage.failed(error)
        clock.advance(1)
    assert [record.__dict__["error"] for record in caplog.records] == ["away", "no memory"]


def test_logs_its_duration(outage: Outage, clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    outage.failed(OSError("away"))
    clock.advance(75)
    outage.over()
    assert caplog.records[-1].__dict__["seconds"] == 75


def test_logs_an_error_without_text(outage: Outage, caplog: pytest.LogCaptureFixture) -> None:
    outage.failed(TimeoutError())
    assert caplog.records[-1].__dict__["error"] == "TimeoutError()"


def test_its_pauses_grow(outage: Outage) -> None:
    assert [outage.failed(OSError("away")) for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]


def test_the_next_outage_begins_with_a_short_pause(outage: Outage) -> None:
    outage.failed(OSError("away"))
    outage.failed(OSError("away"))
    outage.over()
    assert outage.failed(OSError("away")) == 1


def test_logs_nothing_without_a_failure(outage: Outage, caplog: pytest.LogCaptureFixture) -> None:
    outage.over()
    assert caplog.records == []


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


@pytest.fixture
def patient(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> Outage:
    caplog.set_level("INFO")
    return Outage("following orders", Backoff(first=1.0, most=30.0), clock, patience=60.0)


def test_a_wait_for_servers_at_the_start_is_no_outage(
    patient: Outage, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    for error in (OSError("away"), TimeoutError("no topic")):
        patient.failed(error)
        clock.advance(10)
    patient.over()
    assert messages(caplog) == ["following orders waits for its servers"]


def test_patience_has_an_end(patient: Outage, clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    patient.failed(OSError("away"))
    clock.advance(60)
    patient.failed(OSError("away"))
    assert messages(caplog)[1:] == ["following orders failed; retrying"]


def test_patience_ends_with_the_first_success(
    patient: Outage, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    patient.over()
    clock.advance(1)
    patient.failed(OSError("away"))
    assert messages(caplog) == ["following orders failed; retrying"]
