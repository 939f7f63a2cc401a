"""The console's app, for tests that need no server."""

import re
from typing import Any

from flask import Flask

from common.addresses import Address
from common.settings import ConsoleSettings, LogSettings, MongoSettings
from ops.console.app import create_app
from tests.servers import kafka_settings


def console_settings(**changes: Any) -> ConsoleSettings:
    """The settings of a console on this machine, without running servers."""
    values: dict[str, Any] = {
        "log": LogSettings("info", "text"),
        "kafka": kafka_settings("127.0.0.1:1", "events"),
        "mongo": MongoSettings("mongodb://127.0.0.1:1", "pulse", "events", None),
        "address": Address("127.0.0.1", 8084),
        "key": None,
        "hosts": frozenset(),
        "show_bodies": True,
        "api_urls": ("http://localhost:8080",),
        "consumer_urls": ("http://localhost:8083",),
        "public_api_url": "http://localhost:8080",
        "demo_key": None,
    }
    return ConsoleSettings(**{**values, **changes})


def build_console(**changes: Any) -> Flask:
    """The app without running threads."""
    return create_app(console_settings(**changes))


def token_of(app: Flask, **headers: str) -> str:
    """The CSRF token of the page."""
    page = app.test_client().get("/", headers=headers).text
    (token,) = re.findall(r'<meta name="csrf-token" content="([^"]+)">', page)
    return str(token)
