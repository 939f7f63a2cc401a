"""The README shows the programs' real output and measured figures."""

import json
import re
from datetime import UTC, datetime
from xml.etree import ElementTree as ET

import pytest

from common.settings import load_local_settings
from ops import tail
from ops.local.ready import CURL, HINT, parts
from tests import ROOT

README = (ROOT / "README.md").read_text()
PICTURE = "\n".join(
    "".join(line.itertext())
    for line in ET.parse(ROOT / "docs" / "images" / "terminal.svg").iter("{http://www.w3.org/2000/svg}text")
)
URL = "http://localhost:8080"


@pytest.mark.parametrize("shown", [README, PICTURE], ids=["page", "picture"])
def test_it_sends_the_event_that_make_run_proposes(shown: str) -> None:
    assert CURL.format(url=URL, key="") in re.sub(r" \\\n +", " ", shown)


def test_its_picture_has_the_lines_of_make_run_about_each_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_BROKER", "kafka")
    said = re.findall(r"ready    \| (.+) is ready after \d+\.\d s$", PICTURE, re.MULTILINE)
    assert sorted(said) == sorted(parts(load_local_settings()))


def test_its_picture_has_the_addresses_that_make_run_names() -> None:
    console, api, *_ = HINT.format(console="http://localhost:8084", url=URL, key="").splitlines()
    assert f"ready    | {console}\n" in PICTURE
    assert f"ready    | {api}\n" in PICTURE


def test_its_picture_shows_the_event_as_make_tail_does() -> None:
    event = json.loads(re.findall(r"'(\{.+\})'", CURL.format(url=URL, key=""))[0])
    event_id = re.findall(r'"event_id":"([^"]+)"', PICTURE)[0]
    stored = {**event, "event_id": event_id, "timestamp": datetime(2026, 11, 26, 9, 8, 40, tzinfo=UTC)}
    assert f"$ make tail\n{tail.line(stored, color=False)}\n" in PICTURE


def test_its_figures_are_medians_of_the_benchmarks() -> None:
    section = README.partition("## How fast it is\n")[2].partition("\n## ")[0]
    shown = re.findall(r"\| ([\d.,]+) (\S+) \|$", section.replace(" times |", " ratio |"), re.MULTILINE)
    rows = [line.split("|") for line in (ROOT / "docs" / "benchmarks.md").read_text().splitlines()]
    measured = {(row[4].strip(), row[2].strip()) for row in rows if len(row) > 5}
    assert shown
    assert [figure for figure in shown if figure not in measured] == []
