"""Every metric is declared once, used and documented, and clients cannot invent values of its labels."""

import re
from itertools import chain
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from api import responses
from common import metrics
from common.events import EVENT_TYPES
from common.metrics import ApiMetrics, ConsumerMetrics
from tests import ROOT
from tests.apps import build_app
from tests.fakes import FakeBroker
from tests.observed import METRICS

# These names must stay, since dashboards and alerts of users depend on them.
PROMISED = {
    "pulse_api_requests_total": ("method", "path", "status"),
    "pulse_api_request_duration_seconds": ("method", "path"),
    "pulse_api_events_produced_total": ("event_type",),
    "pulse_api_validation_errors_total": (),
    "pulse_api_produce_errors_total": (),
    "pulse_api_queue_depth": (),
    "pulse_api_events_accepted_total": ("event_type",),
    "pulse_api_journal_bytes": (),
    "pulse_api_journal_events": (),
    "pulse_api_rejected_total": ("reason",),
    "pulse_consumer_events_consumed_total": ("event_type",),
    "pulse_consumer_writes_total": ("status",),
    "pulse_consumer_write_duration_seconds": (),
    "pulse_consumer_buffer_size": (),
    "pulse_consumer_duplicates_skipped_total": (),
    "pulse_consumer_dlq_total": ("reason",),
    "pulse_consumer_kafka_lag": ("partition",),
    "pulse_consumer_end_to_end_seconds": (),
    "pulse_consumer_retries_total": (),
}


def sources(*folders: str, suffix: str = ".py") -> dict[Path, str]:
    return {path: path.read_text() for folder in folders for path in (ROOT / folder).rglob(f"*{suffix}")}


@pytest.mark.parametrize("name", PROMISED)
def test_the_promised_metrics_exist(name: str) -> None:
    assert tuple(METRICS[name].labels) == PROMISED[name]


@pytest.mark.parametrize("kind", [ApiMetrics, ConsumerMetrics])
def test_each_declared_metric_is_used(kind: type[ApiMetrics | ConsumerMetrics]) -> None:
    code = "".join(sources("api", "consumer").values())
    attributes = set(vars(kind(CollectorRegistry()))) - {"declared", "_registry"}
    unused = [name for name in attributes if not re.search(rf"metrics\.{name}\b", code)]
    assert unused == [], "neither api/ nor consumer/ uses them"


def test_no_metric_is_declared_elsewhere() -> None:
    code = sources("api", "consumer", "common", "ops", "loadtest")
    del code[ROOT / "common" / "metrics.py"]
    declaring = re.compile(r"\b(Counter|Gauge|Histogram|Summary|Info|Enum)\(\s*[\"']")
    assert [path for path, text in code.items() if declaring.search(text)] == []


def test_the_document_is_current() -> None:
    assert metrics.DOCUMENT.read_text() == metrics.document(), "run `make docs`"


@pytest.mark.parametrize("folder", ["docs", "ops", "kubernetes", "terraform"])
def test_docs_and_manifests_name_only_declared_metrics(folder: str) -> None:
    texts = chain.from_iterable(
        sources(folder, suffix=suffix).values() for suffix in (".md", ".py", ".yml", ".yaml", ".tf")
    )
    spoken = set(re.findall(r"\bpulse_(?:api|consumer)_[a-z_]*[a-z]", "".join(texts)))
    assert {name for name in spoken if re.sub("_(bucket|count|sum)$", "", name) not in METRICS} == set()


def test_series_with_closed_labels_exist_from_the_start() -> None:
    """Otherwise Prometheus would not see the first event as an increase."""
    registry = CollectorRegistry()
    ConsumerMetrics(registry)
    assert registry.get_sample_value("pulse_consumer_dlq_total", {"reason": "InvalidEventError"}) == 0


def test_clients_cannot_invent_label_values() -> None:
    client = build_app(FakeBroker()).test_client()
    for invented in ("made-up", "../etc"):
        client.open(f"/{invented}", method="BREW")
        client.post("/api/v1/track", json={"event_type": invented}, headers={"X-Request-ID": invented})
    exposed = client.get("/metrics").text
    assert 'method="(other)",path="(unknown)"' in exposed
    assert not re.search("made-up|etc|BREW", exposed)


def test_event_types_are_a_closed_set() -> None:
    assert METRICS["pulse_api_events_accepted_total"].labels == {"event_type": EVENT_TYPES}


def test_each_status_is_rejected_for_a_declared_reason() -> None:
    assert set(responses._REASONS.values()) - set(metrics.REJECTED) == set()
