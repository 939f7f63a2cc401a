"""The dashboard, the alerts, the runbooks and the logs of a running pipeline."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple

import pytest
import requests

from common.kafka import KafkaSender, Record
from ops.grafana import dashboard
from ops.local.ports import free_port
from tests.clients import event
from tests.observed import ALERTS, METRICS, RUNBOOKS
from tests.servers import KafkaServer, MongoServer, Pipeline, Process, PrometheusServer
from tests.waiting import eventually


class Watched(NamedTuple):
    """A pipeline that processes all kinds of traffic, and the Prometheus that scrapes it."""

    pipeline: Pipeline
    prometheus: PrometheusServer


KEY = "s3cret-key"


class Traffic(threading.Thread):
    """Sends valid events, single and in batches, and invalid ones, until `enough` is set."""

    def __init__(self, url: str) -> None:
        super().__init__(name="traffic", daemon=True)
        self.enough = threading.Event()
        self._url = f"{url}/api/v1/track"

    def run(self) -> None:
        with requests.Session() as session:
            session.headers["X-API-Key"] = KEY
            for number in count(step=3):
                if self.enough.wait(0.02):
                    return
                session.post(self._url, json=event("alice", number), timeout=30)
                batch = [event("alice", number + 1), event("alice", number + 2)]
                session.post(f"{self._url}/batch", json={"events": batch}, timeout=30)
                session.post(f"{self._url}?key=wr0ng", json={"event_type": "nonsense"}, timeout=30)


@pytest.fixture(scope="module")
def watched(kafka: KafkaServer, mongo: MongoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    address = f"127.0.0.1:{free_port()}"
    exported = {"EXPORT_METRICS_ADDR": address, "EXPORT_URL": (folder / "exported").as_uri()}
    pipeline = Pipeline(kafka, mongo, folder, LOG_LEVEL="debug", API_KEYS=f"web={KEY}", **exported)
    exporter = Process([sys.executable, "-m", "ops.export", "serve"], folder / "exporter.log", pipeline.environ)
    prometheus = pipeline.watched_by_prometheus(folder, f"http://{address}")
    pipeline.start()
    exporter.start()
    prometheus.start()
    eventually(
        lambda: answers(prometheus) and len(prometheus.query("up == 1")) == 3,
        what="a scrape of all processes",
        every=0.1,
    )
    traffic = Traffic(pipeline.url)
    traffic.start()
    # After the first scrapes, so that Prometheus sees the increase.
    KafkaSender(pipeline.kafka, pipeline.kafka.topic).send([Record(b"key", b"no event")])
    yield Watched(pipeline, prometheus)
    traffic.enough.set()
    traffic.join()
    prometheus.kill()
    exporter.kill()
    pipeline.kill()


def answers(prometheus: PrometheusServer) -> bool:
    try:
        return requests.get(f"{prometheus.url}/-/ready", timeout=2).ok
    except requests.ConnectionError:
        return False


def expressions() -> Iterator[Any]:
    for panel in json.loads(dashboard.FILE.read_text())["panels"]:
        for target in panel.get("targets", []):
            yield pytest.param(target["expr"], id=f"{panel['title']}: {target['legendFormat']}")


@pytest.mark.parametrize("expr", list(expressions()))
def test_each_expression_of_the_dashboard_has_data(watched: Watched, expr: str) -> None:
    for variable, value in (("$__rate_interval", "15s"), ("$__range", "5m")):
        expr = expr.replace(variable, value)
    eventually(lambda: watched.prometheus.query(expr), what=expr, every=0.2)


@pytest.mark.parametrize("alert", list(ALERTS))
def test_each_alert_can_be_evaluated(watched: Watched, alert: str) -> None:
    watched.prometheus.query(ALERTS[alert]["expr"])


def test_the_first_dead_letter_fires_its_alert_and_no_other(watched: Watched) -> None:
    def firing() -> list[str]:
        return [series["metric"]["alertname"] for series in watched.prometheus.query('ALERTS{alertstate="firing"}')]

    assert eventually(firing, what="an alert", every=0.2) == ["DeadLettersArrive"]


def test_each_exposed_metric_is_declared(watched: Watched) -> None:
    names = requests.get(f"{watched.prometheus.url}/api/v1/label/__name__/values", timeout=10).json()["data"]
    exposed = {re.sub("_(bucket|count|sum|created)$", "", name) for name in names if name.startswith("pulse_")}
    assert {name for name in exposed if name not in METRICS and f"{name}_total" not in METRICS} == set()


@pytest.mark.parametrize("runbook", list(RUNBOOKS))
def test_the_first_command_of_each_runbook_works_as_written(watched: Watched, runbook: str) -> None:
    block = re.search(r"^```\w*\n(.*?)^```", RUNBOOKS[runbook], re.MULTILINE | re.DOTALL)
    assert block
    # A line with `$` is the command, and the others are its output; without a `$`, all lines are the command.
    command = re.search(r"^\$ (.*)$", block[1], re.MULTILINE)
    script = command[1] if command else block[1]
    for ours, theirs in (
        ("localhost:8080", watched.pipeline.url),
        ("localhost:8083", watched.pipeline.consumer_url),
        ("python -m", f"{sys.executable} -m"),
    ):
        script = script.replace(ours, theirs)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env=watched.pipeline.environ | {"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Some commands log to standard error.
    assert done.stdout or done.stderr


def logged(watched: Watched, message: str) -> list[dict[str, Any]]:
    """The log lines with this message. Each line must be one JSON object, including those of gunicorn."""
    lines = (watched.pipeline.api.output() + watched.pipeline.consumer.output()).splitlines()
    return [line for line in map(json.loads, lines) if line["message"] == message]


def test_each_accepted_event_is_logged_by_its_id_at_debug(watched: Watched) -> None:
    ids = {line["event_id"] for line in logged(watched, "event accepted")}
    assert {"alice-0", "alice-1", "alice-2"} <= ids


def test_each_request_is_logged_with_its_result(watched: Watched) -> None:
    line = logged(watched, "request answered")[-1]
    assert line.keys() >= {"timestamp", "level", "method", "path", "status", "milliseconds", "request_id"}


def test_successful_requests_are_logged_at_debug_and_others_at_info(watched: Watched) -> None:
    levels = {(line["status"], line["level"]) for line in logged(watched, "request answered")}
    assert levels == {(202, "DEBUG"), (400, "INFO"), (200, "DEBUG")}


@pytest.mark.parametrize("told", [KEY, "wr0ng", "nonsense", '"phone"', "no event"])
def test_the_logs_have_no_secrets_and_no_contents(watched: Watched, told: str) -> None:
    assert told not in watched.pipeline.api.output() + watched.pipeline.consumer.output()
