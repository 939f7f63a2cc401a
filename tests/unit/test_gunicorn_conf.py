"""gunicorn's hooks: the start, the end and the metrics of a worker."""

import os
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gunicorn
import pytest

from api.server.metrics_files import metrics_files
from api.server.worker import STOP_SECONDS, TESTED_GUNICORN

CONF = Path(__file__).parent.parent.parent / "api" / "gunicorn.conf.py"


class Delivery:
    """Records the calls to it."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def start(self) -> None:
        self.calls.append("start")

    def stop(self, timeout: float) -> None:
        self.calls.append(timeout)


class Refusals:
    """Has nothing to send."""

    def start(self) -> None: ...


@pytest.fixture
def conf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "metrics"))
    metrics_files.cache_clear()
    return runpy.run_path(str(CONF))


def worker(delivery: Delivery, pid: int | None = None, *, booted: bool = True) -> Any:
    return SimpleNamespace(
        pid=pid or os.getpid(),
        booted=booted,
        wsgi=SimpleNamespace(extensions={"delivery": delivery, "refusals": Refusals()}),
    )


def test_a_worker_starts_to_send_once_it_is_loaded(conf: dict[str, Any]) -> None:
    life = Delivery()
    conf["post_worker_init"](worker(life))
    assert life.calls == ["start"]


def test_a_worker_sends_its_remaining_events_before_it_exits(conf: dict[str, Any]) -> None:
    life = Delivery()
    conf["worker_exit"](None, worker(life))
    assert life.calls == [conf["DRAIN_SECONDS"]]


def test_the_master_sends_no_events_of_a_dead_worker(conf: dict[str, Any]) -> None:
    life = Delivery()
    conf["worker_exit"](None, worker(life, pid=1))
    assert life.calls == []


def test_a_worker_that_never_booted_has_nothing_to_send(conf: dict[str, Any]) -> None:
    life = Delivery()
    conf["worker_exit"](None, worker(life, booted=False))
    assert life.calls == []


def test_the_drain_fits_into_gunicorns_grace_period(conf: dict[str, Any]) -> None:
    # STOP_SECONDS covers the slowest body; kept-alive connections last only 2 s more.
    assert conf["DRAIN_SECONDS"] + STOP_SECONDS < conf["graceful_timeout"]


def test_the_metrics_of_an_earlier_run_are_deleted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "counter_1234.db").write_bytes(b"old")
    (tmp_path / "notes.txt").write_text("not ours")
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    metrics_files.cache_clear()
    runpy.run_path(str(CONF))
    assert not (tmp_path / "counter_1234.db").exists()
    assert (tmp_path / "notes.txt").exists()


def test_a_reload_continues_to_count_in_the_same_files(conf: dict[str, Any]) -> None:
    again = runpy.run_path(str(CONF))
    assert again["_metrics_files"] is conf["_metrics_files"]


def test_a_new_worker_counts_in_the_first_free_place(conf: dict[str, Any]) -> None:
    others = {100: SimpleNamespace(place=0), 102: SimpleNamespace(place=2)}
    new = SimpleNamespace()
    conf["pre_fork"](SimpleNamespace(WORKERS=others), new)
    assert new.place == 1


def test_a_wrong_setting_ends_the_start_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_THREADS", "many")
    with pytest.raises(SystemExit, match=r"^api: API_THREADS=many is not allowed: give a whole number from 1 to 256$"):
        runpy.run_path(str(CONF))


def test_another_version_of_gunicorn_ends_the_start_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gunicorn, "__version__", "99.0")
    with pytest.raises(SystemExit, match=r"^api: gunicorn 99.0 is installed, but the worker is only tested with 27"):
        runpy.run_path(str(CONF))


def test_the_tested_version_is_the_pinned_version() -> None:
    pinned = (CONF.parent.parent / "requirements" / "api.txt").read_text()
    assert f"\ngunicorn=={TESTED_GUNICORN} " in pinned
