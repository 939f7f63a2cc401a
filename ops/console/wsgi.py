"""gunicorn's entry point: the console's app, built in its one worker."""

from common.settings import load_console_settings
from ops.console.app import create_app

app = create_app(load_console_settings())
