"""The metrics files of gunicorn's workers."""

import itertools
import os
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector

from api.instrumentation import _METHODS
from api.server.metrics_files import SIZES, MetricsFiles
from common.errors import SettingsError
from common.metrics import ApiMetrics
from tests.apps import running_app
from tests.fakes import FakeBroker

_PATHS = 20
_STATUSES = 20
_OTHER_STATUSES = 5
_KEYS = 100


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MetricsFiles:
    """The files of two places, in the folder that PROMETHEUS_MULTIPROC_DIR names."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "metrics"))
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    return MetricsFiles(2)


def worker_counts(files: MetricsFiles, place: int, events: int, waiting: int) -> ApiMetrics:
    """Start a worker in this place, and let it set metrics."""
    files.count_in(place)
    metrics = ApiMetrics(CollectorRegistry())
    metrics.events_accepted.labels("click").inc(events)
    metrics.queue_depth.set(waiting)
    return metrics


def scraped() -> dict[str, float]:
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    lines = generate_latest(registry).decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def blocks(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_blocks * 512 for file in folder.glob("*.db")}


def test_all_blocks_are_reserved_before_a_worker_writes(files: MetricsFiles) -> None:
    assert blocks(files.folder) == {f"{kind}_{place}.db": size for kind, size in SIZES.items() for place in range(2)}


def test_no_file_grows_when_every_possible_series_exists(files: MetricsFiles) -> None:
    metrics = worker_counts(files, 0, 1, 1)
    paths = [f"/a/path/that/is/rather/long/{number}" for number in range(_PATHS)]
    for method, path in itertools.product([*_METHODS, "(other)"], paths):
        metrics.request_duration.labels(method, path).observe(1)
        for status in range(_STATUSES if method == "POST" else _OTHER_STATUSES):
            metrics.requests.labels(method, path, str(400 + status)).inc()
    for number in range(_KEYS):
        metrics.authenticated.labels(f"{number:064}").inc()
    assert {file.name: file.stat().st_size for file in files.folder.glob("*_0.db")} == {
        f"{kind}_0.db": size for kind, size in SIZES.items()
    }


def test_the_next_worker_in_a_place_continues_its_counters(files: MetricsFiles) -> None:
    worker_counts(files, 0, 3, 0)
    worker_counts(files, 1, 10, 0)
    files.forget_gauges(0)
    worker_counts(files, 0, 4, 0)
    assert scraped()['pulse_api_events_accepted_total{event_type="click"}'] == 17


def test_gauges_of_a_dead_worker_do_not_count(files: MetricsFiles) -> None:
    worker_counts(files, 0, 0, 5)
    worker_counts(files, 1, 0, 7)
    files.forget_gauges(0)
    assert scraped()["pulse_api_queue_depth"] == 7


def test_a_place_keeps_its_blocks_when_its_worker_dies(files: MetricsFiles) -> None:
    worker_counts(files, 0, 1, 1)
    before = blocks(files.folder)
    files.forget_gauges(0)
    assert blocks(files.folder) == before


@pytest.mark.parametrize("broken", [b"", b"\xff", b"\xff\xff\0\0", (100).to_bytes(4, "little") + bytes(200)])
def test_a_place_with_a_broken_file_is_created_again(files: MetricsFiles, broken: bytes) -> None:
    (files.folder / "counter_0.db").write_bytes(broken)
    files.reserve(0)
    worker_counts(files, 0, 3, 0)
    assert scraped()['pulse_api_events_accepted_total{event_type="click"}'] == 3


@pytest.mark.parametrize("broken", [b"", b"\xff", b"\xff\xff\0\0", (100).to_bytes(4, "little") + bytes(200)])
def test_a_broken_file_is_left_out_of_the_answer(files: MetricsFiles, broken: bytes) -> None:
    files.count_in(0)
    with running_app(FakeBroker()) as app:
        app.extensions["metrics"].events_accepted.labels("click").inc(3)
        (files.folder / "counter_7.db").write_bytes(broken)
        answer = app.test_client().get("/metrics")
    assert answer.status_code == 200
    assert 'pulse_api_events_accepted_total{event_type="click"} 3.0' in answer.text


def test_without_a_configured_folder_a_temporary_one_is_used_and_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    ours = MetricsFiles(1)
    assert os.environ["PROMETHEUS_MULTIPROC_DIR"] == str(ours.folder)
    assert len(list(ours.folder.glob("*.db"))) == len(SIZES)
    ours.remove()
    assert not ours.folder.exists()


def test_the_folder_of_a_killed_gunicorn_is_removed_at_the_next_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    killed = MetricsFiles(1)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    alive = MetricsFiles(1)
    # The operating system closes the lock file when the last of the killed processes is dead.
    lock: Any = killed._lock
    lock.close()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    new = MetricsFiles(1)
    assert not killed.folder.exists()
    assert alive.folder.exists()
    alive.remove()
    new.remove()


def test_a_folder_that_cannot_be_used_stops_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "file"))
    with pytest.raises(
        SettingsError, match=r"^PROMETHEUS_MULTIPROC_DIR=.*/file is not allowed: give a folder with 1\.8"
    ):
        MetricsFiles(1)
