"""The consumer's HTTP server: health, probes and metrics."""

import socket
import threading
from typing import NoReturn

import pytest
import requests
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import ThreadingWSGIServer

from common.addresses import Address
from common.metrics import ConsumerMetrics
from consumer.health import MISSING, Health, serve
from ops.local.ports import free_port
from tests.fakes import FakeClock


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def url(health: Health) -> str:
    registry = CollectorRegistry()
    health.show_in(ConsumerMetrics(registry))
    address = Address("127.0.0.1", free_port())
    serve(address, health, registry)
    return address.url


def test_health_is_503_before_anything_works(url: str) -> None:
    answer = requests.get(f"{url}/health", timeout=5)
    assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")


@pytest.mark.parametrize(("path", "status"), [("/health/live", 200), ("/health/ready", 503)])
def test_before_anything_works_it_is_alive_and_not_ready(url: str, path: str, status: int) -> None:
    assert requests.get(url + path, timeout=5).status_code == status


def test_health_is_200_when_all_is_well(url: str, health: Health) -> None:
    health.polled()
    health.store(up=True)
    health.assigned(frozenset({2, 1}))
    answer = requests.get(f"{url}/health", timeout=5)
    assert answer.status_code == 200
    assert answer.json()["checks"]["kafka"]["partitions"] == [1, 2]


@pytest.mark.parametrize(("seconds", "status", "ready"), [(14, "up", True), (16, "stalled", True), (61, "down", False)])
def test_kafka_is_stalled_before_it_counts_as_down(seconds: float, status: str, ready: bool) -> None:
    clock = FakeClock()
    health = Health(clock)
    health.polled()
    health.store(up=True)
    health.assigned(frozenset({0}))
    clock.now += seconds
    assert (health.report()["checks"]["kafka"]["status"], health.ready) == (status, ready)


@pytest.fixture
def well(health: Health) -> Health:
    """The health of a consumer without problems."""
    health.kafka_tried()
    health.polled()
    health.store(up=True)
    health.assigned(frozenset({0}))
    health.topics_missing(frozenset())
    return health


def test_kafka_is_not_down_before_it_was_tried(health: Health) -> None:
    assert health.report()["checks"]["kafka"]["status"] == "not tried yet"


def test_health_shows_the_problem_of_mongodb(well: Health) -> None:
    well.store(up=False, problem="Index event_id_1 is not unique")
    assert well.report()["checks"]["mongodb"] == {"status": "down", "problem": "Index event_id_1 is not unique"}
    well.store(up=True)
    assert well.report()["checks"]["mongodb"] == {"status": "up"}


@pytest.mark.parametrize("part", ["kafka", "dead_letters"])
def test_it_is_not_ready_without_one_of_its_topics(url: str, well: Health, part: str) -> None:
    well.topics_missing(frozenset({part}))
    answer = requests.get(f"{url}/health", timeout=5)
    assert answer.status_code == requests.get(f"{url}/health/ready", timeout=5).status_code == 503
    check = answer.json()["checks"][part]
    assert (check["status"], check["problem"]) == ("down", MISSING)


def test_health_shows_the_cause_and_the_age_of_waiting_letters(url: str, well: Health) -> None:
    well.letters("the topic refuses letters")
    answer = requests.get(f"{url}/health", timeout=5)
    assert answer.status_code == requests.get(f"{url}/health/ready", timeout=5).status_code == 503
    check = answer.json()["checks"]["dead_letters"]
    assert (check["status"], check["problem"]) == ("down", "the topic refuses letters")
    assert check["waiting_seconds"] >= 0


def test_the_age_of_waiting_letters_is_that_of_the_first() -> None:
    clock = FakeClock()
    health = Health(clock)
    health.letters("the topic refuses letters")
    clock.advance(30)
    health.letters("the topic still refuses letters")
    assert health.report()["checks"]["dead_letters"]["waiting_seconds"] == 30


def test_it_is_ready_before_it_has_checked_the_dead_letter_topic() -> None:
    health = Health()
    health.polled()
    health.store(up=True)
    health.assigned(frozenset({0}))
    assert health.report()["checks"]["dead_letters"]["status"] == "not known yet"
    assert health.ready


def test_metrics_are_exposed(url: str) -> None:
    assert "pulse_consumer_buffer_size 0.0" in requests.get(f"{url}/metrics", timeout=5).text


def test_metrics_have_the_state_at_the_time_of_the_scrape() -> None:
    clock, registry = FakeClock(), CollectorRegistry()
    health = Health(clock)
    health.show_in(ConsumerMetrics(registry))
    health.polled()
    health.assigned(frozenset({0}))

    def state() -> tuple[float | None, ...]:
        up = "pulse_consumer_dependency_up"
        return (
            registry.get_sample_value(up, {"dependency": "kafka"}),
            registry.get_sample_value(up, {"dependency": "mongodb"}),
            registry.get_sample_value("pulse_consumer_progress_age_seconds"),
        )

    assert state() == (1, 0, 0)
    clock.now += 90
    assert state() == (0, 0, 90)


def test_other_paths_are_404_as_json(url: str) -> None:
    answer = requests.get(f"{url}/", timeout=5)
    assert (answer.status_code, answer.json()["status"]) == (404, "error")


needs_ipv6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")


@needs_ipv6
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_without_a_host_it_answers_on_every_interface(health: Health, host: str) -> None:
    port = free_port()
    serve(Address("", port), health, CollectorRegistry())
    assert requests.get(f"http://{host}:{port}/health/live", timeout=5).ok


@needs_ipv6
def test_it_answers_on_an_address_of_ipv6(health: Health) -> None:
    address = Address("::1", free_port())
    serve(address, health, CollectorRegistry())
    assert requests.get(f"{address.url}/health/live", timeout=5).ok


def test_the_death_of_the_server_calls_on_death(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(server: ThreadingWSGIServer) -> NoReturn:
        server.server_close()
        raise OSError("too many open files")

    heard = threading.Event()
    monkeypatch.setattr(ThreadingWSGIServer, "serve_forever", fail)
    serve(Address("127.0.0.1", free_port()), Health(), CollectorRegistry(), on_death=heard.set)
    assert heard.wait(10)
