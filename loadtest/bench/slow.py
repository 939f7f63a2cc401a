"""Our API without the fast ways: every event goes through marshmallow, every record through the client's `send`."""

from typing import Any

from api.app import create_app
from common import bulk_append, event_json
from common.settings import load_api_settings


def _takes_nothing(_: Any) -> None:
    """A decoder that leaves everything to its schema."""


for name in ("_FAST_EVENT", "_FAST_BATCH", "_FAST_STORED"):
    setattr(event_json, name, _takes_nothing)
bulk_append.supported = lambda: False

app = create_app(load_api_settings())
