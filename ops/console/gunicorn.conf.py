"""gunicorn's settings for the console: one process, whose threads each serve a viewer or a request."""

import sys
from typing import Any

from common.errors import SettingsError
from common.logs import log_settings, logging_config
from common.settings import load_console_settings, read_dotenv
from ops.console.live import MOST_VIEWERS

try:
    read_dotenv()
    _settings = load_console_settings()
except SettingsError as error:
    sys.exit(f"console: {error}")

bind = str(_settings.address.to_bind())
# Its state is in memory: a second process would have a different state.
workers = 1
worker_class = "gthread"
# Each viewer occupies a thread.
threads = MOST_VIEWERS + 16
keepalive = 30
logconfig_dict = logging_config(_settings.log)
forwarded_allow_ips = ""
# It would create a socket in the home directory, which a container may not have.
control_socket_disable = True
# Nothing is lost; a running replay stops after its chunk.
graceful_timeout = 5


def on_starting(server: Any) -> None:
    """In the master, before the worker."""
    del server
    log_settings("console", _settings)


def post_worker_init(worker: Any) -> None:
    """In the worker, with the app loaded."""
    worker.wsgi.extensions["console"].start(lambda: worker.alive)
