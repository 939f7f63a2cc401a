"""The API as a process, without Kafka and journal: it accepts events up to its capacity, and then answers 503."""

from collections.abc import Iterator

import pytest
import requests

from ops.local.ports import free_port
from tests.clients import event
from tests.servers import ApiServer

CAPACITY = 100


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[requests.Response]]:
    """The answers to batches of 50 until long after the queue is full; the last answer is that of GET /health/ready."""
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


def test_it_accepts_events_up_to_its_capacity(answers: list[requests.Response]) -> None:
    assert [answer.status_code for answer in answers].count(202) == CAPACITY / 50


def test_it_answers_all_others_503(answers: list[requests.Response]) -> None:
    assert {answer.status_code for answer in answers} == {202, 503}


def test_its_503_has_a_retry_after(answers: list[requests.Response]) -> None:
    assert all(answer.headers["Retry-After"] == "1" for answer in answers[:-1] if answer.status_code == 503)


def test_it_is_not_ready_when_it_is_full(answers: list[requests.Response]) -> None:
    assert answers[-1].status_code == 503
