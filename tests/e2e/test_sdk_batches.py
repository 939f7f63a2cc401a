"""The largest batches of SDKs: the API as a process accepts each as a whole or not at all."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests

from api.protocols.paths import MAX_MESSAGES, MAX_SDK_BATCH_BYTES
from tests.servers import ApiServer, api_without_kafka


def batch_of(customer: str) -> bytes:
    """A batch with the maximum number of messages, and almost the maximum size."""
    pad = "x" * (MAX_SDK_BATCH_BYTES // MAX_MESSAGES - 150)
    messages = [
        {
            "type": "track",
            "event": "e",
            "userId": customer,
            "messageId": f"{customer}-{number}",
            "properties": {"p": pad},
        }
        for number in range(MAX_MESSAGES)
    ]
    body = json.dumps({"batch": messages}).encode()
    assert MAX_SDK_BATCH_BYTES * 0.9 < len(body) < MAX_SDK_BATCH_BYTES
    return body


def waiting(api: ApiServer) -> int:
    """The number of events in the journal."""
    events: int = requests.get(f"{api.url}/health", timeout=30).json()["checks"]["journal"]["events"]
    return events


def post(api: ApiServer, path: str, **sent: Any) -> int:
    return requests.post(f"{api.url}{path}", timeout=60, **sent).status_code


def test_large_batches_and_single_events_are_all_kept_at_once(tmp_path: Path) -> None:
    with api_without_kafka(tmp_path, API_WORKERS="1") as api, ThreadPoolExecutor(8) as clients:
        batches = [clients.submit(post, api, "/v1/batch", data=batch_of(f"c{number}")) for number in range(4)]
        event = {"customer_id": "alice", "event_type": "click"}
        singles = [clients.submit(post, api, "/api/v1/track", json=event) for _ in range(100)]
        calls = [clients.submit(post, api, "/v1/track", json={"event": "e", "userId": "u"}) for _ in range(100)]
        assert {answer.result() for answer in batches + calls} == {200}
        assert {answer.result() for answer in singles} == {202}
        assert waiting(api) == 4 * MAX_MESSAGES + 200
        api.kill()
        api.start()
        api.wait_until_ready()
        assert waiting(api) == 4 * MAX_MESSAGES + 200


def test_a_batch_that_does_not_fit_is_refused_as_a_whole(tmp_path: Path) -> None:
    with api_without_kafka(tmp_path, API_WORKERS="1", API_JOURNAL_MAX_BYTES="1MiB") as api:
        answer = requests.post(f"{api.url}/v1/batch", data=batch_of("alice"), timeout=60)
        assert (answer.status_code, answer.json()["code"]) == (429, "journal_full")
        assert int(answer.headers["Retry-After"]) >= 1
        assert waiting(api) == 0


def test_a_body_over_the_limit_is_refused_before_it_is_received(tmp_path: Path) -> None:
    with api_without_kafka(tmp_path, API_WORKERS="1") as api:
        headers = {"Origin": "https://shop.example", "Authorization": "Basic a2V5Og=="}
        answer = requests.post(
            f"{api.url}/v1/batch", data=b" " * (MAX_SDK_BATCH_BYTES + 1), headers=headers, timeout=60
        )
        assert answer.status_code == 413
        assert answer.headers["Access-Control-Allow-Origin"] == "https://shop.example"
        assert answer.json()["success"] is False
