"""The journals that the API finds at its start."""

import os
from pathlib import Path

import pytest
import requests

from ops.local.ports import free_port
from tests.clients import event
from tests.servers import ApiServer, api_without_kafka
from tests.waiting import eventually

WITHOUT_PRIVILEGES = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]


@pytest.mark.parametrize("file", ["data.mdb", "owner.lock"])
def test_a_file_of_another_user_stops_the_start_and_keeps_its_events(tmp_path: Path, file: str) -> None:
    with api_without_kafka(tmp_path) as api:
        answer = requests.post(f"{api.url}/api/v1/track", json=event("alice", 1), timeout=10)
        assert answer.status_code == 202
    folder = tmp_path / "journal" / "worker-0"
    folder.joinpath(file).chmod(0)
    api = ApiServer(tmp_path, {"KAFKA_BROKERS": f"127.0.0.1:{free_port()}", "API_WORKERS": "1"})
    if os.geteuid() == 0:
        # Root may read all files.
        api.command[:0] = WITHOUT_PRIVILEGES
    before = len(api.output())
    api.start()
    assert api.child is not None
    assert api.child.wait(60) == 3
    said = [line for line in api.output()[before:].splitlines() if "API_JOURNAL_DIR: " in line]
    assert len(said) == 1
    assert f"{file}" in said[0]
    assert "Permission denied" in said[0]
    assert "Traceback" not in api.output()[before:]
    folder.joinpath(file).chmod(0o600)
    with api_without_kafka(tmp_path) as api:
        eventually(
            lambda: requests.get(f"{api.url}/health", timeout=10).json()["checks"]["journal"]["events"] == 1,
            what="the event",
        )
    assert list(folder.glob("damaged-*")) == []


def test_every_worker_counts_a_journal_set_aside_once(tmp_path: Path) -> None:
    with api_without_kafka(tmp_path, API_WORKERS="3") as api:
        aside = tmp_path / "journal" / "worker-0" / "damaged-20260131T120000Z-7-events.mdb"
        aside.touch()
        assert set_aside(api) == {"7.0"}
        aside.unlink()
        assert set_aside(api) == {"0.0"}


def set_aside(api: ApiServer) -> set[str]:
    """The values of the metric over connections to different workers."""
    found = set()
    sessions = [requests.Session() for _ in range(6)]
    for session in sessions:
        lines = session.get(f"{api.url}/metrics", timeout=10).text.splitlines()
        found |= {line.split()[1] for line in lines if line.startswith("pulse_api_journal_set_aside_events ")}
    for session in sessions:
        session.close()
    return found
