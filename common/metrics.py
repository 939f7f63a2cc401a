"""The one list of metrics, of both processes. Each object registers its metrics with the registry it is given."""

import collections
from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LONG_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)


class Children(dict[Any, Any]):
    """A metric's children by the value of its label, or a tuple of values. Each is looked up once, since that costs as
    much as counting. Threads may share it.
    """

    def __init__(self, metric: Counter | Histogram) -> None:
        super().__init__()
        self._metric = metric

    def __missing__(self, values: str | tuple[str, ...]) -> Any:
        child = self[values] = self._metric.labels(*([values] if isinstance(values, str) else values))
        return child

    def count(self, values: Iterable[str]) -> None:
        """Raise each value's counter once, by how often the value is there."""
        for value, times in collections.Counter(values).items():
            self[value].inc(times)


class ApiMetrics:
    """What the API counts; summed over gunicorn's workers when scraped."""

    def __init__(self, registry: CollectorRegistry) -> None:
        # Requests, by method, route template (never the raw path) and status code.
        self.requests = Counter(
            "pulse_api_requests_total", "Requests answered.", ["method", "path", "status"], registry=registry
        )
        # From the request's arrival in Flask to its answer.
        self.request_duration = Histogram(
            "pulse_api_request_duration_seconds",
            "Time to answer a request.",
            ["method", "path"],
            buckets=_SECONDS,
            registry=registry,
        )
        # Answered 202.
        self.events_accepted = Counter(
            "pulse_api_events_accepted_total", "Events answered 202.", ["event_type"], registry=registry
        )
        # Acknowledged by Kafka; accepted minus produced is what waits.
        self.events_produced = Counter(
            "pulse_api_events_produced_total", "Events acknowledged by Kafka.", ["event_type"], registry=registry
        )
        # Requests refused because of what is in their body (400), or, with partial=true, taken only in part.
        self.validation_errors = Counter(
            "pulse_api_validation_errors_total", "Requests refused as invalid.", registry=registry
        )
        # Tries to send events that Kafka did not acknowledge; they are sent again.
        self.produce_errors = Counter(
            "pulse_api_produce_errors_total", "Failed tries to send events to Kafka.", registry=registry
        )
        # Requests refused for a reason other than their content: queue_full, journal_full, unauthorized.
        self.rejected = Counter(
            "pulse_api_rejected_total", "Requests refused, by reason.", ["reason"], registry=registry
        )
        # Requests with a valid write key, by the key's name: one that nobody uses any more can be retired.
        self.authenticated = Counter(
            "pulse_api_authenticated_requests_total", "Requests with a write key.", ["key"], registry=registry
        )
        # Accepted and not yet acknowledged by Kafka.
        self.queue_depth = Gauge(
            "pulse_api_queue_depth",
            "Events in memory that Kafka has not acknowledged.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        # Accepted and not yet acknowledged by Kafka, on disk; those in memory are among them.
        self.journal_events = Gauge(
            "pulse_api_journal_events", "Events in the journal.", registry=registry, multiprocess_mode="livesum"
        )
        self.journal_bytes = Gauge(
            "pulse_api_journal_bytes",
            "What the journal uses of API_JOURNAL_MAX_BYTES.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        # Records that Kafka will never take, by where they went: dlq, file or lost.
        self.refused = Counter(
            "pulse_api_refused_events_total", "Events that Kafka will never take.", ["kept_in"], registry=registry
        )


class ConsumerMetrics:
    """What the consumer counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        # Read from Kafka and decoded.
        self.events_consumed = Counter(
            "pulse_consumer_events_consumed_total", "Events read from Kafka.", ["event_type"], registry=registry
        )
        # Bulk writes, by outcome: success or error.
        self.writes = Counter("pulse_consumer_writes_total", "Bulk writes to MongoDB.", ["status"], registry=registry)
        self.write_duration = Histogram(
            "pulse_consumer_write_duration_seconds", "Time of a bulk write.", buckets=_SECONDS, registry=registry
        )
        # Read from Kafka and not yet stored.
        self.buffer_size = Gauge(
            "pulse_consumer_buffer_size", "Events waiting for the next bulk write.", registry=registry
        )
        # Events that were in MongoDB already.
        self.duplicates_skipped = Counter(
            "pulse_consumer_duplicates_skipped_total", "Events that were stored already.", registry=registry
        )
        # Records sent to the dead letter topic, by the class of the error.
        self.dead_letters = Counter("pulse_consumer_dlq_total", "Dead letters.", ["reason"], registry=registry)
        # Records in the partition behind the consumer's position.
        self.lag = Gauge("pulse_consumer_kafka_lag", "Records not yet read.", ["partition"], registry=registry)
        # From received_at (the API's clock) to stored (the consumer's).
        self.end_to_end = Histogram(
            "pulse_consumer_end_to_end_seconds",
            "Time from an event's arrival at the API until it is stored.",
            buckets=_LONG_SECONDS,
            registry=registry,
        )
        # Bulk writes tried again after MongoDB or Kafka failed.
        self.retries = Counter("pulse_consumer_retries_total", "Flushes tried again.", registry=registry)
