"""gunicorn's settings, and a worker's life: start sending after the fork, send what is left before the exit."""

import gc
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger

from api.connection_counts import ConnectionCounts
from common.errors import JournalError, SettingsError
from common.logs import logging_config
from common.settings import load_api_settings

try:
    _settings = load_api_settings()
except SettingsError as error:
    sys.exit(f"api: {error}")

bind = str(_settings.address)
workers = _settings.workers
threads = _settings.threads
worker_class = "api.connections.PatientWorker"
keepalive = 30
logconfig_dict = logging_config(_settings.log)
# A new worker may have to read through a large journal before it answers (1 GiB took 20 s).
timeout = 300
# It would write a socket below the home directory, which a container may not have.
control_socket_disable = True

# All of a stop has to fit into graceful_timeout, or gunicorn kills the worker: answering what is in flight (kept-alive
# connections linger up to 2 s, chunked bodies may take up to 5 s), sending what is queued, and a margin.
graceful_timeout = 30
DRAIN_SECONDS = 24.0


class _WithoutAccessLog(Logger):  # type: ignore[misc]  # gunicorn has no types
    """`api/instrumentation.py` logs requests: gunicorn need not put together a line that nobody prints."""

    access_log_enabled = False


logger_class = _WithoutAccessLog

_metrics_dir_is_ours = "PROMETHEUS_MULTIPROC_DIR" not in os.environ


def fresh_metrics_dir() -> None:
    """Give prometheus_client an empty folder for its workers' files; it looks for it when first imported."""
    if _metrics_dir_is_ours:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="pulse-metrics-")
        return
    folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    folder.mkdir(parents=True, exist_ok=True)
    for left_over in folder.glob("*.db"):
        left_over.unlink()


_connection_counts = ConnectionCounts()


def pre_fork(server: Any, worker: Any) -> None:
    """In the master: the worker is to see how many connections the others have."""
    del server
    worker.counts = _connection_counts


def post_worker_init(worker: Any) -> None:
    """In the worker, with the app loaded."""
    try:
        worker.wsgi.extensions["worker"].start()
    except JournalError as error:
        # The status by which gunicorn knows that another worker would fare no better.
        worker.log.critical("the API cannot start: %s", error)
        sys.exit(Arbiter.WORKER_BOOT_ERROR)
    # What is there now stays: the collector need not look through it again and again (docs/decisions.md, 37).
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def worker_exit(server: Any, worker: Any) -> None:
    """In the worker, its requests answered; gunicorn may call it in the master too, for a worker already gone."""
    del server
    if worker.pid == os.getpid() and worker.booted:
        worker.wsgi.extensions["worker"].stop(DRAIN_SECONDS)


def child_exit(server: Any, worker: Any) -> None:
    """In the master: a dead worker no longer counts in the gauges, and takes no connections."""
    del server
    worker.counts.forget(worker.age)
    # Only now: whatever imports prometheus_client has to come after fresh_metrics_dir.
    from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415

    mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


def on_exit(server: Any) -> None:
    """In the master, at the end."""
    del server
    if _metrics_dir_is_ours:
        shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)


fresh_metrics_dir()
