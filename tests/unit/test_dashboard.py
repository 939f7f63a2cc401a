"""The dashboard is complete and consistent. tests/e2e/test_observability.py tests it with data."""

import json
import re
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from ops.grafana import dashboard
from tests import ROOT

BOARD: dict[str, Any] = json.loads(dashboard.FILE.read_text())
PANELS: list[dict[str, Any]] = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
DATA_PANELS = [panel for panel in PANELS if panel["type"] != "text"]


def name(panel: dict[str, Any]) -> str:
    return f"{panel['id']} {panel['title']}"


def test_the_file_is_current() -> None:
    assert dashboard.FILE.read_text() == dashboard.render(), "run `make docs`"


def test_it_follows_grafanas_schema() -> None:
    """Reading a dashboard by the schema drops unknown fields and fails for missing ones."""
    assert json.loads(JSONEncoder().encode(Dashboard.from_json(BOARD))) == BOARD


def test_each_panel_has_an_id_of_its_own() -> None:
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(ids) == len(set(ids))


def test_no_two_panels_cover_each_other() -> None:
    covered = [
        (x, y)
        for panel in BOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(covered) == len(set(covered))
    assert all(x < 24 for x, _ in covered)


@pytest.mark.parametrize("panel", DATA_PANELS, ids=name)
def test_each_panel_has_a_description(panel: dict[str, Any]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    assert panel["description"].endswith(".")
    assert defaults["unit"]
    assert defaults["noValue"]
    assert all(target["legendFormat"] for target in panel["targets"])


@pytest.mark.parametrize("panel", DATA_PANELS, ids=name)
def test_each_panel_queries_the_provisioned_data_source(panel: dict[str, Any]) -> None:
    provisioned = (ROOT / "ops/grafana/provisioning/datasources/prometheus.yml").read_text()
    sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
    assert all(source == {"type": "prometheus", "uid": "prometheus"} for source in sources)
    assert "uid: prometheus\n" in provisioned


def test_each_number_at_the_top_has_thresholds_and_a_runbook() -> None:
    numbers = [panel for panel in PANELS if panel["type"] == "stat"]
    assert all(len(panel["fieldConfig"]["defaults"]["thresholds"]["steps"]) > 1 and panel["links"] for panel in numbers)


def test_links_lead_to_panels_that_exist() -> None:
    linked = set(re.findall(r"/d/(\w+)\?viewPanel=(\d+)", json.dumps(BOARD)))
    texts = {(BOARD["uid"], str(panel["id"])) for panel in PANELS if panel["type"] == "text"}
    assert linked <= texts


def test_rates_use_an_interval_that_fits_the_step() -> None:
    expressions = [
        target["expr"] for panel in DATA_PANELS if panel["type"] == "timeseries" for target in panel["targets"]
    ]
    assert all("[$__rate_interval]" in expr for expr in expressions if "rate(" in expr)


def test_scrapes_and_the_data_source_have_the_same_interval() -> None:
    """Otherwise Grafana draws gaps."""
    pace = re.search(r"scrape_interval: (\w+)", (ROOT / "ops/prometheus/prometheus.yml").read_text())
    assert pace
    assert f"timeInterval: {pace[1]}\n" in (ROOT / "ops/grafana/provisioning/datasources/prometheus.yml").read_text()


def test_compose_mounts_the_dashboards_where_grafana_looks_for_them() -> None:
    provider = yaml.safe_load((ROOT / "ops/grafana/provisioning/dashboards/pulse.yml").read_text())["providers"][0]
    grafana = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["grafana"]
    folder = provider["options"]["path"]
    assert f"./ops/grafana/dashboards:{folder}:ro" in grafana["volumes"]
    assert grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == f"{folder}/{dashboard.FILE.name}"
