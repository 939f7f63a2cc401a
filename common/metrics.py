"""The single list of metrics, for all processes. `python -m common.metrics` writes docs/metrics.md from it.

A label whose values are a tuple has only these, and their series exist from the start, at 0: so the first dead letter
is an increase, and not a new series that no alert sees. The other labels state the source of their values: clients
cannot invent them.
"""

import collections
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from common.build_info import VERSION, commit
from common.errors import NO_ROOM, RULES, InvalidEventError, RefusedDocumentError
from common.events import EVENT_TYPES, EventSchema, JsonObject

AnyMetric = TypeVar("AnyMetric", Counter, Gauge, Histogram)
Values = tuple[str, ...] | str
"""The values of a label: a closed set, or a description."""

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LONG_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)

REJECTED = (
    "invalid",
    "unreadable",
    "unauthorized",
    "not_found",
    "method_not_allowed",
    "too_slow",
    "no_length",
    "too_large",
    "unsupported_type",
    *NO_ROOM,
    "throttled",
    "crowded",
    "other",
)
"""The reasons for refusing a whole request."""

MENDED = ("not_finite", "large_integer", "surrogate", "nul_in_key", "dollar_key", "empty_key", "too_deep")
"""The faults of SDKs' values that the API repairs: see docs/sdks.md."""

_FIELDS = EventSchema().fields
_PARTS = tuple(f"{name}.*" for name, field in _FIELDS.items() if isinstance(field, JsonObject))
REFUSED_FIELDS = (*_FIELDS, *_PARTS, "(unknown)", "(request)")
"""The places of a fault: a field of an event, a part of a field, an unknown field, or no field."""


@dataclass(frozen=True, slots=True)
class Declared:
    """A metric, with the data for its documentation."""

    name: str
    kind: str
    meaning: str
    labels: Mapping[str, Values]


class Children(dict[Any, Any]):
    """A metric's children by the value of its label, or a tuple of values. Caches them, since a lookup costs as much as
    counting. Thread-safe.
    """

    def __init__(self, metric: Counter | Histogram) -> None:
        super().__init__()
        self._metric = metric

    def __missing__(self, values: str | tuple[str, ...]) -> Any:
        child = self[values] = self._metric.labels(*([values] if isinstance(values, str) else values))
        return child

    def count(self, values: Iterable[str]) -> None:
        """Increment each value's counter once, by the number of its occurrences."""
        for value, times in collections.Counter(values).items():
            self[value].inc(times)


class _Metrics:
    """Registers metrics with a registry, and keeps their declarations."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self.declared: list[Declared] = []
        build_info = self._gauge(
            "pulse_build_info",
            "Always 1; its labels show the running version.",
            across_workers="max",
            version="the release",
            commit="the commit of the build, or unknown",
        )
        build_info.labels(VERSION, commit()).set(1)

    def _counter(self, name: str, meaning: str, **labels: Values) -> Counter:
        return self._declare(Counter(name, meaning, tuple(labels), registry=self._registry), name, meaning, labels)

    def _gauge(
        self,
        name: str,
        meaning: str,
        *,
        across_workers: Literal["sum", "min", "max", "mostrecent"] = "sum",
        **labels: Values,
    ) -> Gauge:
        """`across_workers`: how to aggregate several processes: sum, min, max, or the most recent value."""
        mode: Any = f"live{across_workers}"
        gauge = Gauge(name, meaning, tuple(labels), registry=self._registry, multiprocess_mode=mode)
        return self._declare(gauge, name, meaning, labels)

    def _histogram(self, name: str, meaning: str, buckets: Iterable[float], **labels: Values) -> Histogram:
        histogram = Histogram(name, meaning, tuple(labels), registry=self._registry, buckets=tuple(buckets))
        return self._declare(histogram, name, meaning, labels)

    def _declare(self, metric: AnyMetric, name: str, meaning: str, labels: Mapping[str, Values]) -> AnyMetric:
        self.declared.append(Declared(name, type(metric).__name__.lower(), meaning, labels))
        known = [values for values in labels.values() if isinstance(values, tuple)]
        if known and len(known) == len(labels):
            for values in product(*known):
                metric.labels(*values)
        return metric


class ApiMetrics(_Metrics):
    """The API's metrics; a scrape sums gunicorn's workers, unless declared otherwise."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)

        # ── Requests ──
        method = "the request's, or (other): unknown, or no HTTP"
        path = "the route's template, such as /api/v1/track, or (unknown)"
        self.requests = self._counter(
            "pulse_api_requests_total", "Requests answered.", method=method, path=path, status="the answer's code"
        )
        self.request_duration = self._histogram(
            "pulse_api_request_duration_seconds",
            "From a request's arrival in the app to its answer.",
            _SECONDS,
            method=method,
            path=path,
        )
        self.authenticated = self._counter(
            "pulse_api_authenticated_requests_total",
            "Requests with a valid write key. Unused keys can be retired.",
            key="the key's name, from API_KEYS or its file",
        )
        self.throttled = self._counter(
            "pulse_api_throttled_requests_total",
            "Requests answered 429 because their write key had used up its rate.",
            key="the key's name, from API_KEYS or its file",
        )
        self.validation_errors = self._counter(
            "pulse_api_validation_errors_total",
            "Requests with invalid events: refused (400), or accepted only in part with ?partial=true.",
        )
        self.rejected = self._counter(
            "pulse_api_rejected_total",
            "Requests refused as a whole, by reason. Server-side: queue_full, journal_…, disk_full, sometimes crowded.",
            reason=REJECTED,
        )

        self.refused_fields = self._counter(
            "pulse_api_refused_fields_total",
            "Faults of refused events, by field and kind of rule; those of partial batches too. (unknown): a field "
            "that events do not have; (request): the JSON, the batch, the size of an event.",
            field=REFUSED_FIELDS,
            rule=RULES,
        )
        self.values_mended = self._counter(
            "pulse_api_values_mended_total",
            "Values of SDKs that could not be stored and were repaired, by kind of fault (docs/sdks.md).",
            kind=MENDED,
        )

        self.refused_kept = self._counter(
            "pulse_api_refused_kept_total", "Refused events, and refused requests, sent to KAFKA_REFUSED_TOPIC."
        )
        self.refused_dropped = self._counter(
            "pulse_api_refused_dropped_total",
            "Refused events, and refused requests, not sent there: over 10 a second, Kafka unavailable, or no topic.",
        )

        # ── Events, on their way to Kafka ──
        self.events_accepted = self._counter(
            "pulse_api_events_accepted_total", "Events answered 202.", event_type=EVENT_TYPES
        )
        self.events_produced = self._counter(
            "pulse_api_events_produced_total",
            "Events acknowledged by Kafka. Events sent again after a crash count again.",
            event_type=EVENT_TYPES,
        )
        self.produce_errors = self._counter(
            "pulse_api_produce_errors_total",
            "Failed attempts to send an event. The API retries until Kafka acknowledges it.",
        )
        self.refused = self._counter(
            "pulse_api_refused_events_total",
            "Events that Kafka will never accept, by where they are kept: in the dead letter topic, in refused.jsonl "
            "beside the journal, or nowhere because the journal is off.",
            kept_in=("dlq", "file", "nothing"),
        )

        # ── Events that wait for Kafka ──
        self.queue_depth = self._gauge("pulse_api_queue_depth", "Events in memory that Kafka has not acknowledged.")
        self.queue_filled = self._gauge(
            "pulse_api_queue_filled_ratio",
            "The used share of API_QUEUE_CAPACITY or API_QUEUE_MAX_BYTES, whichever is larger, 0 to 1, of the fullest "
            "worker.",
            across_workers="max",
        )
        self.journal_events = self._gauge(
            "pulse_api_journal_events",
            "Events on disk: those that Kafka has not acknowledged, including those in memory, and acknowledged ones "
            "that a full disk does not let the API delete yet.",
        )
        self.journal_bytes = self._gauge("pulse_api_journal_bytes", "The used part of the journal's limit.")
        self.journal_filled = self._gauge(
            "pulse_api_journal_filled_ratio",
            "The used share of API_JOURNAL_MAX_BYTES, 0 to 1, of the fullest worker.",
            across_workers="max",
        )
        self.set_aside = self._gauge(
            "pulse_api_journal_set_aside_events",
            "Readable accepted events in damaged journals that were set aside; 1 for a journal without any. They are "
            "not sent: `python -m api.journal` restores them. Updated at each scrape.",
            across_workers="mostrecent",
        )
        self.unopened = self._gauge(
            "pulse_api_journal_unopened",
            "Journals of dead workers that cannot be opened, as seen by the worker that found most; /health says why. "
            "Their events are not sent.",
            across_workers="max",
        )
        self.oldest_unsent = self._gauge(
            "pulse_api_oldest_unsent_timestamp_seconds",
            "Time of receipt of the oldest event that Kafka has not acknowledged, of all workers; +Inf if none.",
            across_workers="min",
        )


class ConsumerMetrics(_Metrics):
    """The consumer's metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)

        # ── Records, from Kafka to MongoDB ──
        self.events_consumed = self._counter(
            "pulse_consumer_events_consumed_total", "Events read from Kafka and decoded.", event_type=EVENT_TYPES
        )
        self.lag = self._gauge(
            "pulse_consumer_kafka_lag",
            "Unread records, as of Kafka's last fetch; 0 before the first. It stays constant while the consumer cannot "
            "store events.",
            partition="the partition's number, of those this consumer has",
        )
        self.buffer_size = self._gauge("pulse_consumer_buffer_size", "Records read and not yet stored.")
        self.writes = self._counter(
            "pulse_consumer_writes_total",
            "Bulk writes. An error is one with an unknown outcome; it is retried.",
            status=("success", "error"),
        )
        self.write_duration = self._histogram(
            "pulse_consumer_write_duration_seconds", "Time of a bulk write, including failed ones.", _SECONDS
        )
        self.events_stored = self._counter("pulse_consumer_events_stored_total", "Events that are new in MongoDB.")
        self.duplicates_skipped = self._counter(
            "pulse_consumer_duplicates_skipped_total", "Events that were already stored."
        )
        self.conflicting_ids = self._counter(
            "pulse_consumer_conflicting_ids_total",
            "Of these, events that differ from the stored events with the same ids. They are not stored.",
        )
        self.forgotten = self._counter(
            "pulse_consumer_forgotten_total",
            "Records that were not stored, or deleted immediately, because their customer is forgotten.",
        )
        self.end_to_end = self._histogram(
            "pulse_consumer_end_to_end_seconds",
            "From an event's arrival at the API (its clock) until it is stored (the consumer's clock).",
            _LONG_SECONDS,
        )

        # ── What goes wrong ──
        self.retries = self._counter(
            "pulse_consumer_retries_total", "Flushes retried after MongoDB or the dead letter topic failed."
        )
        self.dead_letters = self._counter(
            "pulse_consumer_dlq_total",
            "Records that became dead letters, by the class of the error.",
            reason=(InvalidEventError.__name__, RefusedDocumentError.__name__),
        )
        self.letters_too_large = self._counter(
            "pulse_consumer_letters_too_large_total",
            "Of these, letters that are too large for the dead letter topic: they are in MongoDB.",
        )
        self.records_lost = self._counter(
            "pulse_consumer_records_lost_total",
            "Records that Kafka deleted before this consumer had read them, by its retention or by hand. They are "
            "lost; the number includes offsets without a record, such as transaction markers.",
            partition="the partition's number, of those this consumer has or had",
        )

        # ── Its own state, asked for at each scrape ──
        self.dependency_up = self._gauge(
            "pulse_consumer_dependency_up",
            "Whether (1 or 0; NaN: not known yet) the consumer is in its group and polls Kafka, MongoDB accepts "
            "writes, and the dead letter topic accepts letters.",
            dependency=("kafka", "mongodb", "dead_letters"),
        )
        self.progress_age = self._gauge(
            "pulse_consumer_progress_age_seconds",
            "Time since the last progress of its loop. Having nothing to do and waiting for MongoDB count as progress.",
        )


class ExportMetrics(_Metrics):
    """The progress of the export, read from its state four times a minute."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)

        self.rows = self._gauge(
            "pulse_export_rows",
            "Events in written files, by whether they are loaded; without BigQuery they never are.",
            state=("written", "loaded"),
        )
        self.lag_events = self._gauge(
            "pulse_export_lag_events",
            "Records that the consumer's group has committed but no written file covers.",
            partition="the partition's number",
        )
        self.lag_seconds = self._gauge(
            "pulse_export_lag_seconds", "Time since the oldest of these events was stored; 0 if there is none."
        )
        self.open_loads = self._gauge("pulse_export_open_loads", "Loads into BigQuery that are not done.")
        self.failures = self._gauge("pulse_export_failed_loads", "Jobs that failed, of the loads that are not done.")
        self.up = self._gauge("pulse_export_up", "Whether (1 or 0) the last query of Kafka and MongoDB succeeded.")


DOCUMENT = Path(__file__).parent.parent / "docs" / "metrics.md"

_PREFACE = """# Metrics

`make docs` writes this page from [common/metrics.py](../common/metrics.py); edit that file. The API serves its metrics
on port 8080, the consumer on 8083, the export on 8085, all under `/metrics`; [ops/prometheus](../ops/prometheus)
scrapes them, [the dashboard](../ops/grafana) shows them, and [operations.md](operations.md) has the runbooks.

A scrape of any of gunicorn's workers returns the sum of all, unless stated otherwise below. The series of a label with
a closed set of values exist from the start, at 0.
"""


_DOCUMENTED = (("API", ApiMetrics), ("Consumer", ConsumerMetrics), ("Export", ExportMetrics))


def document() -> str:
    """The text of docs/metrics.md."""
    parts = [_PREFACE]
    for title, metrics in _DOCUMENTED:
        rows = (_row(declared) for declared in metrics(CollectorRegistry()).declared)
        parts += [f"\n## {title}\n\n| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n", *rows]
    return "".join(parts)


def _row(declared: Declared) -> str:
    labels = "<br>".join(
        f"`{label}`: {values if isinstance(values, str) else ', '.join(values)}"
        for label, values in declared.labels.items()
    )
    return f"| `{declared.name}` | {declared.kind} | {labels} | {declared.meaning} |\n"


if __name__ == "__main__":
    DOCUMENT.write_text(document())
