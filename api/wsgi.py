"""gunicorn's entry point: the app, built once in each worker, after the fork."""

from api.app import create_app
from common.settings import load_api_settings

app = create_app(load_api_settings())
