"""The declared metrics, the alerts on them, and the runbooks of the alerts."""

from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry

from common.metrics import ApiMetrics, ConsumerMetrics, ExportMetrics
from ops.grafana.runbooks import read_runbooks

PROMETHEUS = Path(__file__).parent.parent / "ops" / "prometheus"

METRICS = {
    declared.name: declared
    for declared in chain.from_iterable(
        metrics(CollectorRegistry()).declared for metrics in (ApiMetrics, ConsumerMetrics, ExportMetrics)
    )
}
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule
    for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
}
RUNBOOKS = {runbook.title: runbook.text for runbook in read_runbooks()}
