"""The API as an OpenAPI document: its requests, from the marshmallow schemas, and its answers."""

import json
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from apispec.ext.marshmallow.openapi import OpenAPIConverter
from marshmallow import fields

from api.docs.sdk_paths import SDK_SCHEMAS, sdk_gets, sdk_posts
from api.journal.journal import JournalState
from api.protocols.paths import MAX_SDK_BATCH_BYTES
from common import events
from common.json_values import INT64_LEAST, INT64_MOST, MAX_KEY_LENGTH, MAX_KEYS, MAX_LEVELS

Json = dict[str, Any]

_ABOUT = f"""\
Send page views, clicks and purchases; each is stored exactly once.

- **A 202 is a promise.** The event is kept and will be stored, whichever part fails in between.
- **Repeat requests that got no answer.** An `event_id` is stored once, however often it is sent.
- **Bodies** are JSON in UTF-8, sent as `application/json`, or as `text/plain`, as browsers' `sendBeacon`
  does. They may be compressed (`Content-Encoding: gzip`, one member). An event may have up to
  {events.MAX_EVENT_BYTES // 1024} KiB, a batch up to {events.MAX_BATCH_BYTES // 1024**2} MiB, decompressed.
- **Errors** all have the form `Error`, whose `message` says what to fix: also those of unknown paths (404), of wrong
  methods (405, with `Allow`), and of malformed HTTP (400, 414, 417, 431, 501).
- **Every answer** carries an `X-Request-ID`: yours, if you sent one of up to 128 letters, digits and `._:-`.
"""


def openapi_document(*, needs_key: bool) -> bytes:
    """The document, as JSON. `needs_key`: whether the API accepts events only with a write key."""
    plugin = MarshmallowPlugin()
    spec = APISpec(
        title="Pulse Pipeline",
        version="v1",
        openapi_version="3.1.0",
        plugins=[plugin],
        info={"description": _ABOUT, "license": {"name": "MIT", "identifier": "MIT"}},
        tags=[
            {"name": "Events", "description": "Send them."},
            {
                "name": "SDKs",
                "description": "What the SDKs of Segment and RudderStack send, and CloudEvents. Each path may end with "
                "a slash, and bodies are JSON with any `Content-Type`. These paths also accept fields that "
                "are not described here, and repair values that could not be stored. `/v1/t`, `p`, `s`, `i`, "
                "`g` and `a` stand for the calls that begin with these letters, `/v1/b`, `/v1/import` and "
                "`/beacon/v1/batch` for `/v1/batch`.",
            },
            {"name": "Operation", "description": "For probes, dashboards and readers."},
        ],
    )
    converter = plugin.converter
    assert isinstance(converter, OpenAPIConverter)  # noqa: S101, APISpec has just made it
    converter.add_attribute_function(_fields_of_ours)  # type: ignore[no-untyped-call]
    spec.components.schema("Json", _ANY_JSON)
    spec.components.schema("Event", schema=events.EventSchema)
    spec.components.schema("Batch", schema=events.BatchSchema)
    for name, schema in (_ANSWER_SCHEMAS | SDK_SCHEMAS).items():
        spec.components.schema(name, schema)
    if needs_key:
        for name, scheme in _KEY_SCHEMES.items():
            spec.components.security_scheme(name, scheme)
        spec.components.security_scheme("basic", _BASIC)
    for path, operation in _posts(needs_key=needs_key).items():
        spec.path(path, operations={"post": {"tags": ["Events"], **operation}})
    secured: Json = {"security": [{name: []} for name in ("basic", *_KEY_SCHEMES)]} if needs_key else {}
    for path, operation in sdk_posts(_sdk_answers(needs_key=needs_key)).items():
        spec.path(path, operations={"post": {"tags": ["SDKs"], **secured, **operation}})
    for path, operation in sdk_gets(_REQUEST_ID).items():
        spec.path(path, operations={"get": {"tags": ["SDKs"], **operation}})
    for path, operation in _GETS.items():
        spec.path(path, operations={"get": {"tags": ["Operation"], **operation}})
    return json.dumps(spec.to_dict(), ensure_ascii=False, separators=(",", ":")).encode()


_JSON = "#/components/schemas/Json"
_ANY_OBJECT: Json = {
    "type": "object",
    "propertyNames": {"minLength": 1, "maxLength": MAX_KEY_LENGTH, "pattern": r"^[^$\x00][^\x00]*$"},
    "additionalProperties": {"$ref": _JSON},
    "maxProperties": MAX_KEYS,
}
_ANY_JSON: Json = {
    **_ANY_OBJECT,
    "type": ["null", "string", "number", "boolean", "array", "object"],
    "description": f"Any JSON, of at most {MAX_LEVELS} levels, including the event's own field. All objects of an "
    f"event may have {MAX_KEYS:,} keys together.",
    "minimum": INT64_LEAST,
    "maximum": INT64_MOST,
    "items": {"$ref": _JSON},
}


def _fields_of_ours(_: OpenAPIConverter, field: fields.Field[Any], **__: Any) -> Json:
    """The JSON Schema of those field classes in common/events.py that apispec does not know."""
    match field:
        case events.Timestamp():
            # No year 0, and no offset that leads beyond the years 1 to 9999.
            pattern = rf"^(?!0000|0001-01-01.+\+|9999-12-31.+-){events.RFC_3339.pattern}$"
            return {"type": "string", "format": "date-time", "pattern": pattern}
        case events.JsonObject(name="context"):
            documented = {
                name: {"$ref": _JSON, "description": description}
                for name, description in events.DOCUMENTED_CONTEXT.items()
            }
            return {**_ANY_OBJECT, "properties": documented}
        case events.JsonObject():
            return _ANY_OBJECT
    return {}


# ── Schemas of answers ──


def _object(**properties: Json) -> Json:
    """An object with exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_TEXT: Json = {"type": "string"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_UP: Json = _object(status={"enum": ["up", "down"]})
_FAULTS: Json = {"$ref": "#/components/schemas/Faults"}
_ANSWER_SCHEMAS: Json = {
    "Accepted": _object(status={"const": "accepted"}, event_id=_TEXT),
    "AcceptedBatch": {
        **_object(
            status={"const": "accepted"},
            count=_COUNT,
            event_ids={
                "type": "array",
                "items": {"type": ["string", "null"]},
                "description": "In the order of the request; null for a rejected event.",
            },
            rejected={**_FAULTS, "description": "With `partial=true` only: the faults, by index."},
        ),
        "required": ["status", "count", "event_ids"],
    },
    "Error": _object(
        status={"const": "error"},
        message={**_TEXT, "description": "One line that names the first fault."},
        errors=_FAULTS,
        request_id={**_TEXT, "description": "The log has it too."},
    ),
    "Faults": {
        "type": "object",
        "description": "The faults, by field; in a batch by index and field. Beyond a few KiB they are only "
        "counted under `…`. Empty if the error is not about the event.",
        "additionalProperties": {"anyOf": [{"type": "array", "items": _TEXT}, _FAULTS]},
    },
    "Health": _object(
        status={
            "enum": ["ok", "degraded", "unavailable"],
            "description": "degraded: Kafka is unavailable, but events are kept, or a journal is set aside or cannot "
            "be opened; unavailable: the API cannot accept events.",
        },
        version={**_TEXT, "description": "The release that runs."},
        commit={**_TEXT, "description": "The commit that it was built from, or unknown."},
        oldest_unsent_seconds={"type": "number", "description": "Age of the oldest event that is not in Kafka yet."},
        checks=_object(
            kafka=_UP,
            producer=_UP,
            queue=_object(events=_COUNT, capacity=_COUNT),
            journal={
                "anyOf": [
                    _object(status={"const": "off"}),
                    _object(
                        status={"enum": [state.value for state in JournalState]},
                        events=_COUNT,
                        bytes=_COUNT,
                        max_bytes=_COUNT,
                        set_aside={"type": "array", "items": _object(file=_TEXT, events=_COUNT)},
                        unopened={"type": "object", "additionalProperties": _TEXT},
                    ),
                ]
            },
        ),
    ),
    "Probe": _object(status={"enum": ["ok", "unavailable"]}),
}


# ── Parts of operations ──


def _header(name: str, description: str, schema: Json) -> Json:
    return {name: {"description": description, "required": True, "schema": schema}}


_REQUEST_ID = _header("X-Request-ID", "The request's id in the log.", _TEXT)
_RETRY_AFTER = _header("Retry-After", "Seconds to wait.", {"type": "integer", "minimum": 1})
_CHALLENGE = _header("WWW-Authenticate", "How to send a key.", _TEXT)


def _answer(description: str, schema: str, example: Any, headers: Json | None = None) -> Json:
    """An answer in JSON."""
    body = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}, "example": example}}
    return {"description": description, "headers": {**_REQUEST_ID, **(headers or {})}, "content": body}


def _refusal(description: str, message: str, errors: Json | None = None, headers: Json | None = None) -> Json:
    """An answer that is an error; `message` and `errors` are an example."""
    example = {"status": "error", "message": message, "errors": errors or {}, "request_id": "b16d97a3b4ef4785"}
    return _answer(description, "Error", example, headers)


def _too_large(limit: int) -> Json:
    return _refusal("The body is too large.", f"The body may have at most {limit} bytes.")


def _body(schema: str, examples: Json) -> Json:
    """The request body, declared as JSON or, as browsers' sendBeacon does, as text."""
    reference = {"$ref": f"#/components/schemas/{schema}"}
    as_text = {"type": "string", "contentMediaType": "application/json", "contentSchema": reference}
    return {
        "required": True,
        "content": {
            "application/json": {
                "schema": reference,
                "examples": {name: {"value": examples[name]} for name in examples},
            },
            "text/plain": {
                "schema": as_text,
                "examples": {name: {"value": json.dumps(examples[name])} for name in examples},
            },
        },
    }


def _get(operation: str, summary: str, *answers: tuple[str, Json], description: str = "") -> Json:
    return {"operationId": operation, "summary": summary, "description": description, "responses": dict(answers)}


def _text(description: str, media_type: str, schema: Json) -> Json:
    return {"description": description, "headers": _REQUEST_ID, "content": {media_type: {"schema": schema}}}


# ── The operations ──

_KEY_SCHEMES: Json = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A write key."},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "A write key."},
    "query": {
        "type": "apiKey",
        "in": "query",
        "name": "key",
        "description": "A write key, for beacons, which cannot send headers.",
    },
}
_BASIC: Json = {"type": "http", "scheme": "basic", "description": "A write key as the user, without a password."}
_MISSING = ["Missing data for required field."]
_EVENT_ID = "evt_93ace1b4-bec0-4517-a6e2-2a6945157bba"
_PAGE_VIEW: Json = {"customer_id": "alice", "event_type": "page_view", "properties": {"page": "/"}}
_PURCHASE: Json = {
    "event_id": "order-1207-paid",
    "customer_id": "alice",
    "event_type": "purchase",
    "timestamp": "2026-01-31T12:00:00Z",
    "event_name": "Order Completed",
    "user_id": "alice",
    "anonymous_id": "a-7f3c",
    "previous_id": "a-7f3c",
    "group_id": "acme",
    "properties": {
        "total": 40.5,
        "coupon": None,
        "products": [
            {"sku": "mug-blue", "price": 12.75, "quantity": 2},
            {"sku": "tea-assam", "price": 15, "quantity": 1, "gift": True},
        ],
    },
    "context": {
        "device": "phone",
        "session_id": "s-42",
        "ip": "192.0.2.7",
        "user_agent": "Mozilla/5.0",
        "screen": {"width": 390, "height": 844},
    },
    "traits": {"plan": "pro", "seats": 12},
}


def _sdk_answers(*, needs_key: bool) -> Json:
    """The answers to SDKs, by status."""

    def refusal(description: str, message: str, code: str, headers: Json | None = None) -> Json:
        answer = _refusal(description, message, headers=headers)
        content = answer["content"]["application/json"]
        content["schema"] = {"$ref": "#/components/schemas/SdkError"}
        content["example"] |= {"success": False, "code": code}
        return answer

    answers = {
        "200": _answer(
            "Accepted: they will be stored, except those in `rejected`.",
            "SdkTaken",
            {"success": True, "rejected": {"3": ["properties: Must be a JSON object."]}},
        ),
        "400": refusal("No message is valid, or the body is not JSON.", "The body is empty.", "invalid"),
        "408": refusal("The request arrived too slowly.", "The request did not arrive in time.", "too_slow"),
        "411": refusal("There is no body.", "The request needs a body.", "no_length"),
        "413": refusal(
            "The body is too large.", f"The body may have at most {MAX_SDK_BATCH_BYTES} bytes.", "too_large"
        ),
        "415": refusal("The encoding is not gzip.", "Content-Encoding must be gzip.", "unsupported_type"),
        "429": refusal(
            "There is no room for more events, or the key has used up its rate. Nothing was accepted.",
            "Too many events are waiting for Kafka; try again in 4 s.",
            "journal_full",
            _RETRY_AFTER,
        ),
        "500": refusal("An error in the API.", "Something went wrong on our side.", "our_fault"),
    }
    if needs_key:
        answers["401"] = refusal("There is no valid write key.", "A write key is needed.", "unauthorized", _CHALLENGE)
    return answers


def _posts(*, needs_key: bool) -> Json:
    refusals = {
        "408": _refusal(
            "The request arrived too slowly.", "The request did not arrive in time: send it again, all of it at once."
        ),
        "411": _refusal(
            "There is no body.", "The request needs a body, and a Content-Length that says how long it is."
        ),
        "415": _refusal(
            "The body is declared neither as JSON nor as text, or its encoding is not gzip.",
            "Content-Type must be application/json.",
        ),
        "500": _refusal(
            "An error in the API. Send the request again, with the same `event_id`s.",
            "Something went wrong on our side; the log has it under this request_id.",
        ),
        "503": _refusal(
            "There is no room for more events. Nothing was accepted: send the request again.",
            "Too many events are waiting for Kafka; try again in 1 s.",
            headers=_RETRY_AFTER,
        ),
    }
    key: Json = {}
    if needs_key:
        key = {"security": [{name: []} for name in _KEY_SCHEMES]}
        refusals["401"] = _refusal(
            "There is no valid write key.",
            "A write key is needed: send it as 'Authorization: Bearer KEY', as 'X-API-Key: KEY' or, from a beacon, "
            "as ?key=KEY.",
            headers=_CHALLENGE,
        )
        refusals["429"] = _refusal(
            "The write key has used up its rate. Nothing was accepted: send the request again.",
            "This write key is for 500 events a second; try again in 1 s.",
            headers=_RETRY_AFTER,
        )
    return {
        "/api/v1/track": {
            "operationId": "track",
            "summary": "Send one event",
            **key,
            "requestBody": _body("Event", {"a page view": _PAGE_VIEW, "every field": _PURCHASE}),
            "responses": {
                "202": _answer(
                    "Accepted: it will be stored.", "Accepted", {"status": "accepted", "event_id": _EVENT_ID}
                ),
                "400": _refusal(
                    "The event, or the JSON, is invalid.",
                    "event_type: Missing data for required field.",
                    {"event_type": _MISSING},
                ),
                "413": _too_large(events.MAX_EVENT_BYTES),
                **refusals,
            },
        },
        "/api/v1/track/batch": {
            "operationId": "trackBatch",
            "summary": "Send up to 100 events",
            **key,
            "parameters": [
                {
                    "name": "partial",
                    "in": "query",
                    "description": "false: accept all events or no event; true: accept the valid ones, reject others.",
                    "schema": {"type": "boolean", "default": False},
                }
            ],
            "requestBody": _body("Batch", {"two": {"events": [_PAGE_VIEW, _PURCHASE]}}),
            "responses": {
                "202": _answer(
                    "Accepted and will be stored: all events, or with `partial=true` at least one.",
                    "AcceptedBatch",
                    {"status": "accepted", "count": 2, "event_ids": [_EVENT_ID, "order-1207-paid"]},
                ),
                "400": _refusal(
                    "An event, or the JSON, is invalid. No event was accepted.",
                    "events[1].event_type: Missing data for required field.",
                    {"events": {"1": {"event_type": _MISSING}}},
                ),
                "413": _too_large(events.MAX_BATCH_BYTES),
                **refusals,
            },
        },
    }


_HEALTH: Json = {
    "status": "ok",
    "version": "0.2.0",
    "commit": "unknown",
    "oldest_unsent_seconds": 0.0,
    "checks": {
        "kafka": {"status": "up"},
        "producer": {"status": "up"},
        "queue": {"events": 0, "capacity": 10_000},
        "journal": {
            "status": "up",
            "events": 0,
            "bytes": 12_288,
            "max_bytes": 1024**3,
            "set_aside": [],
            "unopened": {},
        },
    },
}
_GOOD: Json = {"status": "ok"}
_BAD: Json = {"status": "unavailable"}
_UNCHANGED: Json = {"description": "Not changed since `If-None-Match`.", "headers": _REQUEST_ID}
_GETS: Json = {
    "/health": _get(
        "health",
        "Everything at a glance",
        ("200", _answer("The API accepts events.", "Health", _HEALTH)),
        ("503", _answer("The API cannot accept events.", "Health", _HEALTH | _BAD)),
    ),
    "/health/live": _get(
        "live",
        "Liveness probe",
        ("200", _answer("Alive.", "Probe", _GOOD)),
        ("503", _answer("Only a restart can help.", "Probe", _BAD)),
    ),
    "/health/ready": _get(
        "ready",
        "Readiness probe",
        ("200", _answer("Ready.", "Probe", _GOOD)),
        ("503", _answer("The API cannot accept events.", "Probe", _BAD)),
        description="Whether the API can accept events, independent of the state of Kafka.",
    ),
    "/metrics": _get(
        "metrics",
        "Prometheus metrics",
        ("200", _text("All workers summed.", "text/plain", _TEXT)),
    ),
    "/openapi.json": _get(
        "openapi",
        "This document",
        ("200", _text("OpenAPI 3.1.", "application/json", {"type": "object"})),
        ("304", _UNCHANGED),
    ),
    "/docs": _get(
        "docs",
        "This page",
        ("200", _text("It shows this document.", "text/html", _TEXT)),
        ("304", _UNCHANGED),
    ),
    "/pulse.js": _get(
        "snippet",
        "The browser snippet",
        ("200", _text("JavaScript for `<script async src=… data-key=…>`.", "text/javascript", _TEXT)),
        ("304", _UNCHANGED),
        description="Records page views, clicks and custom events of a web page.",
    ),
}
