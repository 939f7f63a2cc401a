"""The API as a process, with no Kafka and no journal: it takes what it can keep, and then says so."""

from collections.abc import Iterator

import pytest
import requests

from ops.local.ports import free_port
from tests.clients import event
from tests.servers import ApiServer

CAPACITY = 100


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[requests.Response]]:
    """What batches of 50 are answered until long after the worker is full; the last answer is of GET /health/ready."""
    env = {
        "KAFKA_BROKERS": f"127.0.0.1:{free_port()}",
        "API_JOURNAL_DIR": "",
        "API_WORKERS": "1",
        "API_QUEUE_CAPACITY": str(CAPACITY),
    }
    api = ApiServer(tmp_path_factory.mktemp("api"), env)
    api.start()
    api.wait_until_ready()
    batch = {"events": [event("alice", number) for number in range(50)]}
    posted = [requests.post(f"{api.url}/api/v1/track/batch", json=batch, timeout=10) for _ in range(10)]
    yield [*posted, requests.get(f"{api.url}/health/ready", timeout=10)]
    api.kill()


def test_it_takes_as_many_events_as_fit(answers: list[requests.Response]) -> None:
    assert [answer.status_code for answer in answers].count(202) == CAPACITY / 50


def test_it_refuses_the_rest_with_503_and_nothing_else(answers: list[requests.Response]) -> None:
    assert {answer.status_code for answer in answers} == {202, 503}


def test_it_says_when_to_come_back(answers: list[requests.Response]) -> None:
    assert all(answer.headers["Retry-After"] == "1" for answer in answers[:-1] if answer.status_code == 503)


def test_it_is_not_ready_when_it_is_full(answers: list[requests.Response]) -> None:
    assert answers[-1].status_code == 503
