"""The API as an OpenAPI document: what it takes, from the marshmallow schemas, and everything it answers."""

import json
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from apispec.ext.marshmallow.openapi import OpenAPIConverter
from marshmallow import fields

from common import events

Json = dict[str, Any]

_ABOUT = f"""\
Send page views, clicks and purchases; each is stored exactly once.

- **A 202 is a promise.** The event is kept on disk and will be stored, whatever dies in between.
- **Send again what was not answered.** An `event_id` is stored once, however often it is sent.
- **Bodies** are JSON in UTF-8, sent as `application/json`, or as `text/plain`, which browsers' `sendBeacon` sends.
  A single event may have up to {events.MAX_EVENT_BYTES // 1024} KiB, also within a batch,
  and a batch up to {events.MAX_BATCH_BYTES // 1024**2} MiB.
- **Errors** all have the form `Error`, also those of paths that are not there (404) and of methods that a path does not
  take (405, with `Allow`). `message` says what to mend.
- **Every answer** carries an `X-Request-ID`: yours, if you sent one of up to 128 letters, digits and `._:-`.
"""


def openapi_document() -> bytes:
    """The document, as JSON."""
    plugin = MarshmallowPlugin()
    spec = APISpec(
        title="Pulse Pipeline",
        version="v1",
        openapi_version="3.1.0",
        plugins=[plugin],
        info={"description": _ABOUT, "license": {"name": "MIT", "identifier": "MIT"}},
        tags=[
            {"name": "Events", "description": "Send them."},
            {"name": "Operation", "description": "For probes, dashboards and readers."},
        ],
    )
    converter = plugin.converter
    assert isinstance(converter, OpenAPIConverter)  # noqa: S101, which APISpec has just made
    converter.add_attribute_function(_fields_of_ours)  # type: ignore[no-untyped-call]
    spec.components.schema("Event", schema=events.EventSchema)
    spec.components.schema("Batch", schema=events.BatchSchema)
    for name, schema in _ANSWER_SCHEMAS.items():
        spec.components.schema(name, schema)
    for path, operations in _PATHS.items():
        spec.path(path, operations=operations)
    return json.dumps(spec.to_dict(), ensure_ascii=False, separators=(",", ":")).encode()


def _fields_of_ours(converter: OpenAPIConverter, field: fields.Field[Any], ret: Json) -> Json:
    """What apispec cannot know of the kinds of fields in common/events.py, as JSON Schema."""
    match field:
        case events.Timestamp():
            # No year 0, and no offset that leads out of the years 1 to 9999.
            pattern = rf"^(?!0000|0001-01-01.+\+|9999-12-31.+-){events.RFC_3339.pattern}$"
            return {"type": "string", "format": "date-time", "pattern": pattern}
        case events.Scalar():
            return {"type": ["string", "number", "boolean"], "minimum": -(2**63), "maximum": 2**63 - 1}
        case events.Properties():
            assert field.key_field is not None  # noqa: S101, as they are made
            names = converter.field2property(field.key_field)
            return {"propertyNames": names, "maxProperties": ret.pop("maxLength")}
    return {}


def _object(**properties: Json) -> Json:
    """An object of an answer: exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_TEXT: Json = {"type": "string"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_UP: Json = _object(status={"enum": ["up", "down"]})
_PROBE: Json = _object(status={"enum": ["ok", "unavailable"]})

_ANSWER_SCHEMAS: Json = {
    "Accepted": _object(status={"const": "accepted"}, event_id=_TEXT),
    "AcceptedBatch": _object(
        status={"const": "accepted"},
        count={**_COUNT, "description": "How many."},
        event_ids={"type": "array", "items": _TEXT, "description": "In the order of the request."},
    ),
    "Error": _object(
        status={"const": "error"},
        message={**_TEXT, "description": "One line that names the first fault."},
        errors={"$ref": "#/components/schemas/Faults"},
        request_id={**_TEXT, "description": "The log has it too."},
    ),
    "Faults": {
        "type": "object",
        "description": "All faults, by field; in a batch by index and field; `_schema` stands for the whole.",
        "additionalProperties": {
            "anyOf": [{"type": "array", "items": _TEXT}, {"$ref": "#/components/schemas/Faults"}],
        },
    },
    "Health": _object(
        status={
            "enum": ["ok", "degraded", "unavailable"],
            "description": "degraded: Kafka is away, but events are kept; unavailable: no event can be taken.",
        },
        oldest_unsent_seconds={"type": "number", "description": "Age of the oldest event that Kafka does not have."},
        checks=_object(
            kafka=_UP,
            producer=_UP,
            queue=_object(events=_COUNT, capacity=_COUNT),
            journal={
                "anyOf": [
                    _object(status={"const": "off"}),
                    _object(status={"enum": ["up", "full"]}, events=_COUNT, bytes=_COUNT, max_bytes=_COUNT),
                ]
            },
        ),
    ),
    "Probe": _PROBE,
}


def _answer(description: str, schema: str, example: Any, headers: Json | None = None) -> Json:
    """An answer in JSON, as every answer with its request id."""
    body = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}, "example": example}}
    return {"description": description, "headers": {**_REQUEST_ID, **(headers or {})}, "content": body}


def _refusal(description: str, message: str, errors: Json | None = None, headers: Json | None = None) -> Json:
    example = {"status": "error", "message": message, "errors": errors or {}, "request_id": "b16d97a3b4ef4785"}
    return _answer(description, "Error", example, headers)


def _other(description: str, media_type: str) -> Json:
    """An answer that is a text for somebody else's program."""
    return {"description": description, "headers": _REQUEST_ID, "content": {media_type: {"schema": _TEXT}}}


def _body(schema: str, examples: Json) -> Json:
    """What is posted, declared as JSON or, as browsers' sendBeacon has it, as text."""
    reference = {"$ref": f"#/components/schemas/{schema}"}
    as_text = {"type": "string", "contentMediaType": "application/json", "contentSchema": reference}
    return {
        "required": True,
        "content": {
            "application/json": {"schema": reference, "examples": examples},
            "text/plain": {
                "schema": as_text,
                "examples": {name: {**one, "value": json.dumps(one["value"])} for name, one in examples.items()},
            },
        },
    }


_REQUEST_ID: Json = {
    "X-Request-ID": {"description": "What the log knows the request by.", "required": True, "schema": _TEXT}
}
_RETRY_AFTER: Json = {
    "Retry-After": {"description": "Seconds to wait.", "required": True, "schema": {"type": "integer", "minimum": 1}}
}
_MISSING = ["Missing data for required field."]
_PAGE_VIEW: Json = {"customer_id": "alice", "event_type": "page_view", "properties": {"page": "/"}}
_PURCHASE: Json = {
    "event_id": "order-1207-paid",
    "customer_id": "alice",
    "event_type": "purchase",
    "timestamp": "2026-01-31T12:00:00Z",
    "properties": {"sku": "mug-blue", "quantity": 2, "total": 25.5, "gift": False},
    "context": {"device": "phone", "session_id": "s-42", "ip": "192.0.2.7", "user_agent": "Mozilla/5.0"},
}

_REFUSALS: Json = {
    "413": _refusal("The body is too large.", f"The body may have at most {events.MAX_EVENT_BYTES} bytes."),
    "415": _refusal(
        "The body is not declared as JSON or text, or is encoded.", "Content-Type must be application/json."
    ),
    "500": _refusal(
        "A fault of ours. Send the request again with the same `event_id`s.",
        "Something went wrong on our side; the log has it under this request_id.",
    ),
    "503": _refusal(
        "No room for more events that wait for Kafka. Nothing of the request was taken: send it again.",
        "Too many events are waiting for Kafka; try again in 1 s.",
        headers=_RETRY_AFTER,
    ),
}
_HEALTH = {
    "status": "ok",
    "oldest_unsent_seconds": 0.0,
    "checks": {
        "kafka": {"status": "up"},
        "producer": {"status": "up"},
        "queue": {"events": 0, "capacity": 10_000},
        "journal": {"status": "up", "events": 0, "bytes": 12_288, "max_bytes": 1024**3},
    },
}

_PATHS: Json = {
    "/api/v1/track": {
        "post": {
            "operationId": "track",
            "tags": ["Events"],
            "summary": "Send one event",
            "requestBody": _body(
                "Event",
                {
                    "least": {"summary": "The least there is", "value": _PAGE_VIEW},
                    "all": {"summary": "Every field", "value": _PURCHASE},
                },
            ),
            "responses": {
                "202": _answer(
                    "Accepted: it will be stored.",
                    "Accepted",
                    {"status": "accepted", "event_id": "evt_93ace1b4-bec0-4517-a6e2-2a6945157bba"},
                ),
                "400": _refusal(
                    "The event, or the JSON, is wrong.",
                    "event_type: Missing data for required field.",
                    {"event_type": _MISSING},
                ),
                **_REFUSALS,
            },
        }
    },
    "/api/v1/track/batch": {
        "post": {
            "operationId": "trackBatch",
            "tags": ["Events"],
            "summary": "Send up to 100 events",
            "description": "Either all of them are accepted, or none is.",
            "requestBody": _body("Batch", {"two": {"summary": "Two", "value": {"events": [_PAGE_VIEW, _PURCHASE]}}}),
            "responses": {
                "202": _answer(
                    "All accepted: they will be stored.",
                    "AcceptedBatch",
                    {
                        "status": "accepted",
                        "count": 2,
                        "event_ids": ["evt_93ace1b4-bec0-4517-a6e2-2a6945157bba", "order-1207-paid"],
                    },
                ),
                "400": _refusal(
                    "An event, or the JSON, is wrong. None was accepted.",
                    "events[1].event_type: Missing data for required field.",
                    {"events": {"1": {"event_type": _MISSING}}},
                ),
                **_REFUSALS,
                "413": _refusal("The body is too large.", f"The body may have at most {events.MAX_BATCH_BYTES} bytes."),
            },
        }
    },
    "/health": {
        "get": {
            "operationId": "health",
            "tags": ["Operation"],
            "summary": "Everything at a glance",
            "responses": {
                "200": _answer("Events can be taken.", "Health", _HEALTH),
                "503": _answer("No event can be taken.", "Health", {**_HEALTH, "status": "unavailable"}),
            },
        }
    },
    "/health/live": {
        "get": {
            "operationId": "live",
            "tags": ["Operation"],
            "summary": "Liveness probe",
            "responses": {
                "200": _answer("Alive.", "Probe", {"status": "ok"}),
                "503": _answer("Only a restart can help.", "Probe", {"status": "unavailable"}),
            },
        }
    },
    "/health/ready": {
        "get": {
            "operationId": "ready",
            "tags": ["Operation"],
            "summary": "Readiness probe",
            "description": "Whether events can be taken; not whether Kafka is there.",
            "responses": {
                "200": _answer("Ready.", "Probe", {"status": "ok"}),
                "503": _answer("No event can be taken.", "Probe", {"status": "unavailable"}),
            },
        }
    },
    "/metrics": {
        "get": {
            "operationId": "metrics",
            "tags": ["Operation"],
            "summary": "Prometheus metrics",
            "description": "All workers summed.",
            "responses": {"200": _other("Metrics in the format that `Accept` asks for.", "text/plain")},
        }
    },
    "/openapi.json": {
        "get": {
            "operationId": "openapi",
            "tags": ["Operation"],
            "summary": "This document",
            "responses": {
                "200": {
                    "description": "OpenAPI 3.1.",
                    "headers": _REQUEST_ID,
                    "content": {"application/json": {"schema": {"type": "object"}}},
                }
            },
        }
    },
    "/docs": {
        "get": {
            "operationId": "docs",
            "tags": ["Operation"],
            "summary": "This page",
            "responses": {"200": _other("A page to read this document.", "text/html")},
        }
    },
}
