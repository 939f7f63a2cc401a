"""The examples of docs/api.md and the README run unchanged and print the output on the page."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
from playwright.sync_api import Browser, Page

from ops.local.ready import CURL
from tests import ROOT
from tests.servers import ApiServer, api_without_kafka
from tests.waiting import eventually

URL = "http://localhost:8080"
RETRIES = "Sending again"
NEED_A_KEY = {"Write keys", "From a browser"}


class Example(NamedTuple):
    """A code example, and its output on the page."""

    section: str
    language: str
    code: str
    prints: str


def examples(*languages: str) -> list[Example]:
    found = []
    for section in re.split(r"^## ", (ROOT / "docs" / "api.md").read_text(), flags=re.MULTILINE)[1:]:
        title = section.partition("\n")[0]
        blocks = re.findall(r"^```(\w+)\n(.*?)^```\n(?:```json\n(.*?)^```\n)?", section, re.MULTILINE | re.DOTALL)
        found += [Example(title, *block) for block in blocks if block[0] in languages]
    return found


def values(printed: str) -> list[Any]:
    """The JSON values in the output, without generated ids."""
    left = re.sub(r"evt_[0-9a-f-]{36}", "evt_…", printed)
    left = re.sub(r'("request_id": ?)"\w+"', r'\1"…"', left).strip()
    found = []
    while left:
        value, end = json.JSONDecoder().raw_decode(left)
        found.append(value)
        left = left[end:].lstrip()
    return found


def command(example: Example, api: ApiServer) -> list[str]:
    program = [sys.executable, "-c"] if example.language == "python" else ["bash", "-euo", "pipefail", "-c"]
    return [*program, example.code.replace(URL, api.url)]


class Apis(NamedTuple):
    """An API without write keys, and one with a write key."""

    open: ApiServer
    keyed: ApiServer


@pytest.fixture(scope="module")
def apis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apis]:
    keyed = {"API_KEYS": "web=sesame", "API_CORS_ORIGINS": "*"}
    with (
        api_without_kafka(tmp_path_factory.mktemp("open")) as open_api,
        api_without_kafka(tmp_path_factory.mktemp("keyed"), **keyed) as keyed_api,
    ):
        yield Apis(open_api, keyed_api)


@pytest.fixture
def page(browser: Browser, apis: Apis) -> Iterator[Page]:
    """A page with another origin than the API's: the same server under another name."""
    page = browser.new_page()
    page.goto(f"{apis.keyed.url.replace('127.0.0.1', 'localhost')}/health/live")
    yield page
    page.close()


def title(example: Example) -> str:
    return f"{example.section}-{example.language}"


@pytest.mark.parametrize("example", examples("sh", "python"), ids=title)
def test_an_example_prints_the_output_on_the_page(example: Example, apis: Apis) -> None:
    api = apis.keyed if example.section in NEED_A_KEY else apis.open
    done = subprocess.run(command(example, api), capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert values(done.stdout) == values(example.prints)


def test_the_event_that_the_readme_and_make_run_propose_is_accepted(apis: Apis) -> None:
    """tests/unit/test_readme.py checks that both propose the same event."""
    curl = ["bash", "-c", CURL.format(url=apis.open.url, key="")]
    done = subprocess.run(curl, capture_output=True, text=True, timeout=60, check=True)
    assert values(done.stdout) == [{"status": "accepted", "event_id": "evt_…"}]


def test_fetch_can_send_and_read_the_answer(page: Page, apis: Apis) -> None:
    fetch, _ = examples("js")
    printed: list[str] = []
    page.on("console", lambda message: printed.append(message.text) if message.type == "log" else None)
    page.evaluate(f"async () => {{ {fetch.code.replace(URL, apis.keyed.url)} }}")
    assert values("".join(printed)) == values(fetch.prints)


def test_a_beacon_arrives_when_the_visitor_leaves_its_page(page: Page, apis: Apis) -> None:
    _, beacon = examples("js")
    page.evaluate(beacon.code.replace(URL, apis.keyed.url))
    page.goto("about:blank")
    arrived = 'pulse_api_events_accepted_total{event_type="custom"} 1.0'
    eventually(lambda: arrived in requests.get(f"{apis.keyed.url}/metrics", timeout=10).text, what="the beacon")


def test_the_example_with_retries_waits_until_there_is_room(tmp_path: Path) -> None:
    """It continues after a restart of the API, too."""
    (sender,) = (example for example in examples("python") if example.section == RETRIES)
    with api_without_kafka(tmp_path, API_JOURNAL_DIR="", API_QUEUE_CAPACITY="100") as api:
        fill = {"events": [{"customer_id": "bob", "event_type": "click"}] * 100}
        assert requests.post(f"{api.url}/api/v1/track/batch", json=fill, timeout=10).status_code == 202
        with subprocess.Popen(command(sender, api), stdout=subprocess.PIPE, text=True) as running:
            refused = 'pulse_api_rejected_total{reason="queue_full"} '
            eventually(lambda: refused in requests.get(f"{api.url}/metrics", timeout=10).text, what="a 503")
            api.kill()
            # The restart empties the queue in memory: there is room again.
            api.start()
            printed, _ = running.communicate(timeout=60)
        assert values(printed) == values(sender.prints)
