"""A reload by SIGHUP, which replaces gunicorn's workers."""

import signal
from pathlib import Path

import pytest
import requests

from tests.clients import event
from tests.measures import metrics_folders
from tests.servers import ApiServer, Pipeline, api_without_kafka
from tests.waiting import eventually


def send(api: ApiServer, count: int) -> None:
    for number in range(count):
        answer = requests.post(f"{api.url}/api/v1/track", json=event("alice", number), timeout=10)
        assert answer.status_code == 202


def reload(api: ApiServer) -> None:
    before = api.worker_pids()
    assert api.child is not None
    api.child.send_signal(signal.SIGHUP)
    eventually(lambda: api.worker_pids() and not api.worker_pids() & before, what="other workers")
    api.wait_until_ready()


def test_counters_continue_over_reloads(pipeline: Pipeline) -> None:
    for count in (3, 6):
        send(pipeline.api, 3)
        assert pipeline.api.accepted() == count
        reload(pipeline.api)
    assert pipeline.api.accepted() == 6


def test_no_folder_of_metrics_is_left_behind_after_reloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    with api_without_kafka(tmp_path) as api:
        assert api.child is not None
        folders = metrics_folders(api.child.pid)
        reload(api)
        folders += metrics_folders(api.child.pid)
        assert all(folder.exists() for folder in folders)
        api.stop()
    assert folders
    assert not any(folder.exists() for folder in folders)


def test_the_settings_are_logged_once_not_by_each_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEYS", "web=s3cret")
    with api_without_kafka(tmp_path) as api:
        reload(api)
        api.stop()
        lines = [line for line in api.output().splitlines() if '"message": "settings"' in line]
        assert "s3cret" not in api.output()
    assert len(lines) == 1
    assert '"API_KEYS": "(not shown)"' in lines[0]
