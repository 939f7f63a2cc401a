"""The console computes the figures of its flow from /metrics."""

import socket

import pytest

from ops.console.figures import BOXES, Figures, each_address, parse
from tests.fakes import FakeClock

API = """# HELP pulse_api_events_accepted_total x
pulse_api_events_accepted_total{{event_type="click"}} {accepted}
pulse_api_events_accepted_total{{event_type="a }} b"}} 1
pulse_api_events_produced_total{{event_type="click"}} {produced}
pulse_api_journal_events {waiting}
pulse_api_queue_depth 1.0
pulse_api_oldest_unsent_timestamp_seconds {oldest}
something_else 5
broken line
"""


class Processes:
    """An API and a consumer whose figures a test sets."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.accepted = 100
        self.waiting = 0
        self.oldest = "+Inf"
        self.up = True
        self.figures = Figures(["http://api:1"], ["http://consumer:1"], self.fetch, self.clock)

    def fetch(self, url: str) -> str:
        if url == "http://consumer:1":
            return 'pulse_consumer_events_stored_total 7\npulse_consumer_kafka_lag{partition="0"} 4\n'
        if not self.up:
            raise OSError("refused")
        return API.format(accepted=self.accepted, produced=self.accepted, waiting=self.waiting, oldest=self.oldest)

    def read(self, seconds: float = 2) -> None:
        self.clock.advance(seconds)
        self.figures.read()


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Processes:
    monkeypatch.setattr("ops.console.figures.each_address", lambda url: [url])
    return Processes()


def test_values_are_summed_over_labels_without_unreadable_lines() -> None:
    assert parse(API.format(accepted=9, produced=8, waiting=3, oldest="+Inf")) == {
        "pulse_api_events_accepted_total": 10,
        "pulse_api_events_produced_total": 8,
        "pulse_api_journal_events": 3,
        "pulse_api_queue_depth": 1,
    }


def test_each_box_has_its_total_its_rate_and_the_number_that_waits(processes: Processes) -> None:
    processes.waiting = 5
    processes.read()
    flow = processes.figures.flow()
    assert tuple(flow) == BOXES
    assert (flow["accepted"]["total"], flow["accepted"]["per_second"], flow["accepted"]["waiting"]) == (101, 0, 5)
    assert (flow["stored"]["total"], flow["in_kafka"]["waiting"]) == (7, 4)


def test_a_rate_covers_only_the_last_seconds(processes: Processes) -> None:
    processes.read()
    processes.accepted += 40
    processes.read()
    assert processes.figures.flow()["accepted"]["per_second"] == 20


def test_a_restarted_process_reduces_no_total(processes: Processes) -> None:
    processes.read()
    processes.accepted = 10
    processes.read()
    assert processes.figures.flow()["accepted"]["total"] == 101 + 11


def test_the_age_of_the_oldest_event_is_known_while_an_event_waits(processes: Processes) -> None:
    processes.read()
    assert processes.figures.oldest("pulse_api_oldest_unsent_timestamp_seconds") == 0
    processes.oldest = "1795000000.5"
    processes.read()
    assert processes.figures.oldest("pulse_api_oldest_unsent_timestamp_seconds") == 1795000000.5


def test_fifteen_minutes_are_kept(processes: Processes) -> None:
    for _ in range(200):
        processes.accepted += 20
        processes.read(10)
    history = processes.figures.flow()["accepted"]["history"]
    assert (len(history), set(history)) == (90, {2.0})


def test_an_unreachable_process_is_named_and_its_totals_stay(processes: Processes) -> None:
    processes.read()
    processes.up = False
    processes.read()
    assert processes.figures.problems() == {"API": ["http://api:1: refused"], "consumer": []}
    assert processes.figures.flow()["accepted"]["total"] == 101


def test_a_name_with_several_addresses_means_each_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"10.0.0.{n}", 8080)) for n in (2, 1, 2)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)
    assert each_address("http://pods:8080") == ["http://10.0.0.1:8080", "http://10.0.0.2:8080"]
    assert each_address("https://pods:8080") == ["https://pods:8080"]


def test_localhost_is_read_once() -> None:
    assert each_address("http://localhost:8080") == ["http://localhost:8080"]
