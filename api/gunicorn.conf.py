"""gunicorn's settings and hooks: a worker starts sending after the fork, and sends the rest before it exits."""

import itertools
import os
import sys
from typing import Any

import gunicorn
from gunicorn.arbiter import Arbiter

from api.server.connection_counts import ConnectionCounts
from api.server.metrics_files import metrics_files
from api.server.worker import TESTED_GUNICORN
from common.errors import JournalError, SettingsError
from common.garbage import collect_rarely
from common.logs import log_settings, logging_config
from common.settings import load_api_settings, read_dotenv

if gunicorn.__version__ != TESTED_GUNICORN:
    sys.exit(
        f"api: gunicorn {gunicorn.__version__} is installed, but the worker is only tested with {TESTED_GUNICORN}: "
        "install requirements/api.txt"
    )

try:
    read_dotenv()
    _settings = load_api_settings()
    # Twice as many slots as workers: after a HUP, old and new workers count at the same time.
    _metrics_files = metrics_files(2 * _settings.workers)
except SettingsError as error:
    sys.exit(f"api: {error}")

bind = str(_settings.address.to_bind())
workers = _settings.workers
threads = _settings.threads
worker_class = "api.server.worker.LoopWorker"
# Longer than a load balancer keeps an idle connection (Google's: 600 s), so that the load balancer closes first. If we
# did, a request sent at that moment would be answered 502.
keepalive = 620
logconfig_dict = logging_config(_settings.log)
# A new worker may have to read through a large journal before it answers (1 GiB took 20 s).
timeout = 300
# The heartbeat files go beside the metrics, since a full disk must not prevent the start of a worker.
worker_tmp_dir = str(_metrics_files.folder)
# The API reads no proxy header; an empty list of headers, trusted from all addresses, is the cheapest check.
forwarded_allow_ips = "*"
secure_scheme_headers: dict[str, str] = {}
forwarder_headers = ""
# It would create a socket in the home directory, which a container may not have.
control_socket_disable = True

# A stop must fit into graceful_timeout, or gunicorn kills the worker: answering requests in flight
# (`STOP_SECONDS` of api/server/worker.py), sending queued events, and a margin.
graceful_timeout = 30
DRAIN_SECONDS = 24.0

_connection_counts = ConnectionCounts()


def on_starting(server: Any) -> None:
    """In the master, once, before the first worker."""
    del server
    log_settings("api", _settings)


def pre_fork(server: Any, worker: Any) -> None:
    """In the master: give the worker the connection counts of the others, and a slot for its metrics."""
    worker.counts = _connection_counts
    taken = {other.place for other in server.WORKERS.values()}
    worker.place = next(place for place in itertools.count() if place not in taken)
    _metrics_files.reserve(worker.place)


def post_fork(server: Any, worker: Any) -> None:
    """In the worker, before the app is loaded."""
    del server
    _metrics_files.count_in(worker.place)


def post_worker_init(worker: Any) -> None:
    """In the worker, with the app loaded."""
    try:
        worker.wsgi.extensions["delivery"].start()
    except JournalError as error:
        # With this status gunicorn stops, since another worker would fail as well.
        worker.log.critical("the API cannot start: %s", error)
        sys.exit(Arbiter.WORKER_BOOT_ERROR)
    worker.wsgi.extensions["refusals"].start()
    collect_rarely()


def worker_exit(server: Any, worker: Any) -> None:
    """In the worker, after its last answer; gunicorn may also call it in the master, for a dead worker."""
    del server
    if worker.pid == os.getpid() and worker.booted:
        worker.wsgi.extensions["delivery"].stop(DRAIN_SECONDS)


def child_exit(server: Any, worker: Any) -> None:
    """In the master: remove a dead worker from the gauges and the connection counts."""
    del server
    worker.counts.forget(worker.age)
    _metrics_files.forget_gauges(worker.place)


def on_exit(server: Any) -> None:
    """In the master, before it exits."""
    del server
    _metrics_files.remove()
