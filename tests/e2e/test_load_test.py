"""The load test, on a real pipeline and on an API elsewhere, and locust's page in a browser."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from ops.local import ports
from tests import ROOT
from tests.servers import ApiServer, Pipeline, Process, api_without_kafka

KEY = {"API_KEYS": "web=secret"}


def load_test(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the load test with ten batches. Its chart goes into `folder`."""
    command = [sys.executable, "-m", "loadtest.load_test", "--batches", "10", *arguments]
    environ = {**os.environ, **env, "LOCAL_DATA_DIR": str(folder)}
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=100, check=False)


def test_every_event_is_found_in_kafka_and_in_mongodb(pipeline: Pipeline, tmp_path: Path) -> None:
    address = pipeline.url.removeprefix("http://")
    done = load_test(tmp_path, **{**pipeline.environ, "API_ADDR": address})
    assert (done.returncode, done.stderr) == (0, "")
    for place in ("accepted", "in Kafka", "in MongoDB"):
        assert f"{place:<14}1,000 of 1,000\n" in done.stdout
    assert len(pipeline.documents()) == 1_000
    assert (tmp_path / "load-test.png").stat().st_size > 0


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API that requires a key, and whose Kafka and MongoDB are unknown."""
    with api_without_kafka(tmp_path_factory.mktemp("api"), **KEY) as api:
        yield api


@pytest.fixture(scope="module")
def refused(elsewhere: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """A load test without the key."""
    return load_test(tmp_path_factory.mktemp("refused"), "--url", elsewhere.url)


def test_refused_events_fail_the_load_test_and_are_reported_with_the_reason(
    refused: subprocess.CompletedProcess[str],
) -> None:
    assert refused.returncode == 1
    assert "refused       1,000\n              1,000 events: HTTP 401, " in refused.stdout


def test_events_of_an_api_elsewhere_are_reported_as_not_known(refused: subprocess.CompletedProcess[str]) -> None:
    assert "in Kafka      not known: KAFKA_BROKERS does not say where" in refused.stdout
    assert "in MongoDB    not known: MONGO_URI does not say where" in refused.stdout


@pytest.fixture
def page(browser: Browser, elsewhere: ApiServer, tmp_path: Path) -> Iterator[Page]:
    """Locust's page."""
    port = ports.free_port()
    command = [sys.executable, "-m", "locust", "--config", "loadtest/locust.conf", "--web-port", str(port)]
    api = {"API_ADDR": elsewhere.url.removeprefix("http://"), **KEY}
    locust = Process([*command, "--web-host", "127.0.0.1"], tmp_path / "locust.log", api)
    locust.start()
    ports.wait_until_answers(port, 60)
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{port}")
    yield page
    page.close()
    locust.kill()


def test_a_run_can_be_started_watched_and_stopped_on_locusts_page(page: Page, elsewhere: ApiServer) -> None:
    expect(page.get_by_label("Host")).to_have_value(elsewhere.url)
    page.get_by_label("Ramp up").fill("20")
    page.get_by_role("button", name="Start").click()
    for name in ("single event", "batch of 100", "shopper: page_view"):
        expect(page.get_by_role("cell", name=name, exact=True)).to_be_visible()
    expect(page.get_by_text("refused:").first).to_be_visible()
    everything = page.get_by_role("row").filter(has_text="Aggregated").get_by_role("cell")
    assert int(everything.nth(2).inner_text()) > 0
    assert everything.nth(3).inner_text() == "0"
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("STOPPED")).to_be_visible()
