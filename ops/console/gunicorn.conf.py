"""gunicorn's settings for the console: one process, whose threads each hold a viewer or answer a request."""

import sys
from typing import Any

from common.errors import SettingsError
from common.logs import logging_config
from common.settings import load_console_settings, read_dotenv
from ops.console.live import MOST_VIEWERS

try:
    read_dotenv()
    _settings = load_console_settings()
except SettingsError as error:
    sys.exit(f"console: {error}")

bind = str(_settings.address.to_bind())
# What it knows is in its memory: a second process would know something else.
workers = 1
worker_class = "gthread"
# Each viewer holds a thread.
threads = MOST_VIEWERS + 16
keepalive = 30
logconfig_dict = logging_config(_settings.log)
forwarded_allow_ips = ""
# It would write a socket below the home directory, which a container may not have.
control_socket_disable = True
# Nothing is lost with it; a replay that is under way stops after its chunk.
graceful_timeout = 5


def post_worker_init(worker: Any) -> None:
    """In the worker, with the app loaded."""
    worker.wsgi.extensions["console"].start(lambda: worker.alive)
