"""Four kinds of users for locust, to select and start on the page of `make load-test-ui`.

`python -m locust --config loadtest/locust.conf [--host URL]`. All send events of generated shoppers. A 503 counts as a
failure, since it shows the limit, although a client that retries loses no event.
"""

import logging
import random
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count, islice
from typing import Any

from locust import FastHttpUser, between, constant_pacing, events, task
from locust.env import Environment

from common.errors import SettingsError
from common.events import MAX_BATCH_EVENTS, MAX_EVENT_BYTES
from common.settings import load_api_address, own_write_key, read_dotenv
from loadtest.client import Event
from loadtest.journeys import generated_journey

TRACK, TRACK_BATCH = "/api/v1/track", "/api/v1/track/batch"
JSON = {"Content-Type": "application/json"}


@events.init.add_listener  # type: ignore[untyped-decorator]
def read_settings(environment: Environment, **_: Any) -> None:
    """Read .env, and use its address of the API unless the command has a host.

    If locust has a page, the page shows failures, and the tables at the end and the exit code do not.
    """
    try:
        read_dotenv()
        environment.host = environment.host or load_api_address().url
    except SettingsError as error:
        sys.exit(str(error))
    if environment.web_ui:
        logging.getLogger("locust.stats_logger").setLevel(logging.WARNING)
        environment.process_exit_code = 0


class PulseUser(FastHttpUser):
    """Sends with the write key of this machine, if there is one."""

    abstract = True
    insecure = False
    connection_timeout = 5.0  # seconds, like network_timeout
    network_timeout = 30.0

    def __init__(self, environment: Environment) -> None:
        key = own_write_key()
        self.default_headers = {"X-API-Key": key} if key else None
        super().__init__(environment)
        self.events = shoppers(f"locust-{uuid.uuid4().hex[:12]}", random.Random())


class Shopper(PulseUser):
    """Sends page views, searches, clicks and purchases one by one, with pauses."""

    weight = 10
    wait_time = between(0.5, 3)

    @task
    def go_on(self) -> None:
        event = next(self.events)
        self.client.post(TRACK, json=event, name=f"shopper: {event['event_type']}")


class SingleEvents(PulseUser):
    """A server that sends twenty single events per second."""

    weight = 2
    wait_time = constant_pacing(0.05)

    @task
    def send(self) -> None:
        self.client.post(TRACK, json=next(self.events), name="single event")


class Batches(PulseUser):
    """A server that sends a batch of a hundred events per second."""

    weight = 1
    wait_time = constant_pacing(1)

    @task
    def send(self) -> None:
        batch = list(islice(self.events, MAX_BATCH_EVENTS))
        self.client.post(TRACK_BATCH, json={"events": batch}, name=f"batch of {MAX_BATCH_EVENTS}")


class Misbehaving(PulseUser):
    """A client that sends invalid requests. A refusal counts as a success, and any other answer as a failure."""

    weight = 1
    wait_time = between(0.5, 3)

    @task
    def bad_json(self) -> None:
        self._expect(400, "bad JSON", data='{"customer_id": "unknown", "event_type"', headers=JSON)

    @task
    def wrong_event_type(self) -> None:
        self._expect(400, "event_type", json={**next(self.events), "event_type": "teleport"})

    @task
    def too_large(self) -> None:
        self._expect(413, "too large", json={**next(self.events), "properties": {"text": "x" * MAX_EVENT_BYTES}})

    @task
    def wrong_content_type(self) -> None:
        self._expect(415, "Content-Type", json=next(self.events), headers={"Content-Type": "application/xml"})

    def _expect(self, status: int, fault: str, **request: Any) -> None:
        with self.client.post(TRACK, name=f"refused: {fault}", catch_response=True, **request) as answer:
            if answer.status_code == status:
                answer.success()
            else:
                answer.failure(f"answered {answer.status_code} instead of {status}")


def shoppers(origin: str, rng: random.Random) -> Iterator[Event]:
    """Endless events of random shoppers, one visit after the other. `origin` begins every event_id.

    The events have no timestamp, so they have the time of receipt.
    """
    for number in count(1):
        customer = f"customer-{rng.randint(1, 10_000):05}"
        for event in generated_journey(customer, f"{origin}-{number}", datetime.now(UTC), rng):
            yield {name: value for name, value in event.items() if name != "timestamp"}
