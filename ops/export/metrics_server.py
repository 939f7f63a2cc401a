"""`python -m ops.export serve`: the metrics of the export, from the shared state instead of any one exporter.

So the alert comes too when no exporter runs.
"""

import logging
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, start_http_server

from common.addresses import Address
from common.errors import PulseError
from common.kafka import KafkaError
from common.metrics import ExportMetrics
from ops.export.report import Report

logger = logging.getLogger(__name__)

_PAUSE = 15.0


def serve(address: Address, ask: Callable[[], Report], every: Callable[[], None]) -> None:
    """Serve the metrics at an address, and call `every` after each query. Never returns; raises OSError."""
    registry = CollectorRegistry()
    metrics = ExportMetrics(registry)
    start_http_server(address.port, address.host or "::", registry=registry)
    while True:
        look(metrics, ask)
        every()
        time.sleep(_PAUSE)


def look(metrics: ExportMetrics, ask: Callable[[], Report]) -> None:
    """Query the state once, and set the metrics."""
    try:
        report = ask()
    except (PulseError, KafkaError, OSError) as error:
        logger.warning("how far the export is cannot be told", extra={"error": str(error)})
        metrics.up.set(0)
        return
    metrics.up.set(1)
    for state in ("written", "loaded"):
        metrics.rows.labels(state).set(report.rows.get(state, 0))
    for partition, records in report.waiting.items():
        metrics.lag_events.labels(str(partition)).set(records)
    metrics.lag_seconds.set(max(0.0, time.time() - report.oldest) if report.oldest else 0.0)
    metrics.open_loads.set(report.open_loads)
    metrics.failures.set(report.failed_loads)
