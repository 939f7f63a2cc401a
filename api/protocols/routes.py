"""The routes for SDKs, with the keys, bodies and answers that SDKs expect."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from flask import Blueprint, Response, g, jsonify, request

from api.auth import WriteKeys, admit
from api.body import read_body_of_any_type
from api.event_queue import EventQueue
from api.faults import Faults, told
from api.intake import accept_mapped
from api.protocols import cloudevents, segment
from api.protocols.conversion import convert
from api.protocols.messages import Envelope, Message, secret_in_body, secret_in_head
from api.protocols.paths import MAX_MESSAGES, MAX_NESTED, MAX_SDK_BATCH_BYTES
from api.refusals import Refusals
from api.routes import keep, receipt
from common.errors import Fault, InvalidEventError
from common.event_json import brackets_in, fault_lines, invalid, parse_any_json
from common.events import MAX_EVENT_BYTES
from common.metrics import ApiMetrics

_HOW = (
    "send it as user of 'Authorization: Basic', as 'Authorization: Bearer KEY', as 'X-API-Key: KEY', as ?writeKey=KEY, "
    "or as writeKey in the body."
)
_NO_OBJECT = Fault("type", "The body must be a JSON object.")
_TOO_MUCH = Fault("size", f"The body may have at most {MAX_NESTED:,} arrays and objects.")
_TOO_MANY = Fault("length", f"At most {MAX_MESSAGES:,} CloudEvents.")


ToEvent = Callable[[Message], dict[str, Any]]
"""Converts a message to an event; raises InvalidEventError."""


def sdk_routes(
    queue: EventQueue, faults: Faults, refusals: Refusals, keys: WriteKeys | None, metrics: ApiMetrics
) -> Blueprint:
    """The routes of all protocols except our own. They raise the errors that `responses` answers."""
    routes = Blueprint("sdks", __name__)
    door = _Door(queue, faults, refusals, keys, metrics)

    def post(path: str, view: Callable[[], Response]) -> None:
        routes.add_url_rule(path, path, view, methods=["POST"], strict_slashes=False)

    for path, call in segment.PATHS.items():
        post(path, partial(door.segment_call, call))
    for path in ("/v1/batch", "/v1/import", "/v1/b", "/beacon/v1/batch"):
        post(path, door.segment_batch)
    post("/api/v1/cloudevents", door.cloudevents)
    # analytics.js sends its own metrics, which Pulse drops.
    post("/v1/m", lambda: jsonify(success=True))
    routes.get("/v1/projects/<key>/settings", strict_slashes=False)(_settings)
    routes.get("/sourceConfig", strict_slashes=False)(_source_config)
    return routes


class _Door:
    """Checks the write key, and accepts the events in a request's body."""

    def __init__(
        self, queue: EventQueue, faults: Faults, refusals: Refusals, keys: WriteKeys | None, metrics: ApiMetrics
    ) -> None:
        self._queue = queue
        self._faults = faults
        self._refusals = refusals
        self._keys = keys
        self._metrics = metrics

    def segment_call(self, call: str) -> Response:
        """One message; `call` is its kind, from the path."""
        g.protocol = "segment"
        envelope = _envelope()
        message, odd = self._read(MAX_EVENT_BYTES)
        return self._answer_one(message, lambda each: segment.to_event(each, call, envelope), odd=odd)

    def segment_batch(self) -> Response:
        """A batch of messages, each with its own type."""
        g.protocol = "segment"
        envelope = _envelope()
        batch, odd = self._read(MAX_SDK_BATCH_BYTES)
        if not isinstance(batch, dict):
            raise InvalidEventError(_NO_OBJECT)
        messages = segment.messages_in(batch)
        return self._answer_many(messages, lambda each: segment.to_event(each, None, envelope), odd=odd)

    def cloudevents(self) -> Response:
        """One event or several, in any of the three modes."""
        g.protocol = "cloudevents"
        attributes = cloudevents.attributes_in(request.headers, request.content_type)
        if attributes and not request.mimetype.startswith("application/cloudevents"):
            self._admit(_secret_in_head())
            data = cloudevents.data_of(read_body_of_any_type(MAX_EVENT_BYTES), request.mimetype)
            return self._answer_one(attributes | data, cloudevents.to_event, odd=True)
        document, odd = self._read(MAX_SDK_BATCH_BYTES)
        if not isinstance(document, list):
            return self._answer_one(document, cloudevents.to_event, odd=odd)
        if len(document) > MAX_MESSAGES:
            raise InvalidEventError(_TOO_MANY)
        return self._answer_many(document, cloudevents.to_event, odd=odd)

    def _admit(self, secret: str | None) -> None:
        if self._keys is not None:
            admit(self._keys, secret, self._metrics, _HOW)

    def _read(self, limit: int) -> tuple[Any, bool]:
        """The parsed body, and whether it may have odd values. Checks the write key."""
        secret = _secret_in_head()
        if secret:
            self._admit(secret)
        body = read_body_of_any_type(limit)
        if brackets_in(body) > MAX_NESTED:
            raise InvalidEventError(_TOO_MUCH)
        document, odd = parse_any_json(body)
        if not secret:
            self._admit(secret_in_body(document))
        return document, odd

    def _take(self, messages: Sequence[Any], to_event: ToEvent, *, odd: bool) -> dict[int, Any]:
        """Keep the events of valid messages, and return the faults of the others, by index."""
        (events, errors), mended = convert(messages, to_event, odd=odd)
        if events:
            keep(self._queue, accept_mapped(events.values(), receipt()))
            for kind, times in mended.items():
                self._metrics.values_mended.labels(kind).inc(times)
        return errors

    def _answer_one(self, message: Any, to_event: ToEvent, *, odd: bool) -> Response:
        for found in self._take([message], to_event, odd=odd).values():
            raise invalid(found)
        return jsonify(success=True)

    def _answer_many(self, messages: Sequence[Any], to_event: ToEvent, *, odd: bool) -> Response:
        errors = self._take(messages, to_event, odd=odd)
        if not errors:
            return jsonify(success=True)
        refused = invalid({"batch": errors})
        if len(errors) == len(messages):
            raise refused
        self._faults.note(refused)
        self._refusals.keep_invalid(refused)
        rejected = {index: list(fault_lines(found)) for index, found in told(errors).items()}
        return jsonify(success=True, rejected=rejected)


def _settings(key: str) -> Response:
    """What analytics.js asks for before it sends anything, and then sends with this key.

    Without `metrics` it tells Segment how it fares itself.
    """
    integrations = {"Segment.io": {"apiKey": key, "apiHost": f"{request.host}/v1"}}
    return jsonify(integrations=integrations, metrics={"sampleRate": 0})


def _source_config() -> Response:
    """The settings that RudderStack's SDKs request first."""
    silent = {"enabled": False}
    source = {
        "id": "pulse",
        "name": "Pulse Pipeline",
        "enabled": True,
        "updatedAt": "2026-01-01T00:00:00.000Z",
        "config": {"statsCollection": {"errors": silent, "metrics": silent}},
        "dataplanes": {},
        "destinations": [],
    }
    return jsonify(source=source)


def _envelope() -> Envelope:
    tries = (
        request.headers.get("X-Retry-Count"),
        request.headers.get("rsa-retry-attempt"),
        request.args.get("retry_count"),
    )
    return Envelope.of(datetime.now(UTC), request.headers.get("SentAt"), request.headers.get("AnonymousId"), tries)


def _secret_in_head() -> str | None:
    in_query = request.args.get("writeKey") or request.args.get("key")
    return secret_in_head(request.headers.get("Authorization"), request.headers.get("X-API-Key"), in_query)
