"""The version and the commit, in metrics and health."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from prometheus_client import CollectorRegistry, generate_latest

from common import build_info
from common.metrics import ApiMetrics, ConsumerMetrics
from consumer.health import Health


@pytest.fixture(autouse=True)
def _asked_again(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("PULSE_REVISION", raising=False)
    build_info.commit.cache_clear()
    yield
    build_info.commit.cache_clear()


def test_an_image_has_the_commit_of_its_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULSE_REVISION", "abc1234")
    assert build_info.commit() == "abc1234"


def test_a_checkout_has_the_commit_that_git_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for command in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x", "--allow-empty"],
    ):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    head = subprocess.run(
        ["git", "-C", str(tmp_path), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout
    monkeypatch.setattr(build_info, "_ROOT", tmp_path)
    assert head.startswith(build_info.commit())


def test_a_folder_inside_of_another_checkout_does_not_have_its_commit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    subprocess.run(["git", "-C", str(tmp_path), "init", "-q"], check=True)
    (tmp_path / "pulse").mkdir()
    monkeypatch.setattr(build_info, "_ROOT", tmp_path / "pulse")
    assert build_info.commit() == "unknown"


@pytest.mark.parametrize("metrics", [ApiMetrics, ConsumerMetrics])
def test_both_processes_export_it_to_prometheus(
    monkeypatch: pytest.MonkeyPatch, metrics: type[ApiMetrics] | type[ConsumerMetrics]
) -> None:
    monkeypatch.setenv("PULSE_REVISION", "abc1234")
    registry = CollectorRegistry()
    metrics(registry)
    line = f'pulse_build_info{{commit="abc1234",version="{build_info.VERSION}"}} 1.0'
    assert line in generate_latest(registry).decode()


def test_the_api_shows_it_in_its_health(monkeypatch: pytest.MonkeyPatch, client: FlaskClient) -> None:
    monkeypatch.setenv("PULSE_REVISION", "abc1234")
    build_info.commit.cache_clear()
    health = client.get("/health").get_json()
    assert (health["version"], health["commit"]) == (build_info.VERSION, "abc1234")


def test_the_consumer_shows_it_in_its_health(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULSE_REVISION", "abc1234")
    report = Health().report()
    assert (report["version"], report["commit"]) == (build_info.VERSION, "abc1234")
