"""Each alert has a test in alerts.test.yml, which `make lint` runs with promtool, and a runbook."""

from typing import Any

import pytest
import yaml

from ops.grafana.runbooks import anchor
from tests.observed import ALERTS, PROMETHEUS, RUNBOOKS

TESTS = yaml.safe_load((PROMETHEUS / "alerts.test.yml").read_text())["tests"]

each_alert = pytest.mark.parametrize("alert", list(ALERTS.values()), ids=list(ALERTS))


@each_alert
def test_promtool_tests_when_it_fires_and_when_it_does_not(alert: dict[str, Any]) -> None:
    checks = [check for case in TESTS for check in case["alert_rule_test"] if check["alertname"] == alert["alert"]]
    assert {bool(check.get("exp_alerts")) for check in checks} == {True, False}


@each_alert
def test_it_says_how_urgent_it_is(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in {"critical", "warning"}


@each_alert
def test_its_runbook_has_its_name_its_severity_and_a_first_command(alert: dict[str, Any]) -> None:
    page, _, section = alert["annotations"]["runbook_url"].partition("#")
    heading, text = next(runbook for runbook in RUNBOOKS.items() if anchor(runbook[0]) == section)
    assert page == "docs/operations.md"
    assert heading.replace(" ", "").lower() == alert["alert"].lower()
    assert text.startswith(f"`{alert['labels']['severity']}`")
    assert "\n```" in text
