"""The API's Flask app on fakes, for tests that need no server."""

from collections.abc import Iterator
from contextlib import contextmanager

from flask import Flask

from api.app import create_app
from api.intake import AcceptedEvent
from common.addresses import Address
from common.settings import AccessSettings, ApiSettings, JournalSettings, LogSettings
from tests.fakes import FakeBroker, FakeSender
from tests.servers import kafka_settings

TOPIC, DLQ, REFUSED = "events", "events.dlq", "events.refused"


def build_app(
    broker: FakeBroker,
    access: AccessSettings | None = None,
    capacity: int = 100,
    journal: JournalSettings | None = None,
) -> Flask:
    """The app without running threads: accepted events stay in its queue."""
    # No server listens on port 1, so a health check fails at once.
    kafka = kafka_settings("127.0.0.1:1", TOPIC)
    log, address = LogSettings("info", "text"), Address("", 8080)
    settings = ApiSettings(
        log,
        kafka,
        address,
        1,
        4,
        queue_capacity=capacity,
        queue_max_bytes=2**26,
        journal=journal,
        access=access or AccessSettings(),
    )
    return create_app(settings, FakeSender(broker, TOPIC), FakeSender(broker, DLQ), FakeSender(broker, REFUSED))


@contextmanager
def running_app(broker: FakeBroker, access: AccessSettings | None = None, capacity: int = 100) -> Iterator[Flask]:
    """The app with its producer, which sends to the fake broker."""
    app = build_app(broker, access, capacity)
    app.extensions["delivery"].start()
    yield app
    app.extensions["delivery"].stop(0)


def take_accepted(app: Flask) -> list[AcceptedEvent]:
    """The events that an app without running threads has accepted since the last call."""
    queue = app.extensions["delivery"].queue
    taken = queue.take(1_000_000, 2**30, 0.0)
    queue.acknowledge(taken)
    accepted: list[AcceptedEvent] = taken.events
    return accepted
