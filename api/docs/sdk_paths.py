"""The paths of SDKs in the OpenAPI document: the requests that they are sure to accept."""

from typing import Any

from api.protocols.paths import MAX_MESSAGES
from api.protocols.segment import CALLS
from common.events import MAX_EVENT_ID_LENGTH, NO_IDS

Json = dict[str, Any]

_NOT_BLANK = r"[^\s\x1c-\x1f\x85]"
_ID: Json = {"type": "string", "minLength": 1, "maxLength": 256, "pattern": _NOT_BLANK}
_NAME: Json = {"type": "string", "minLength": 1, "maxLength": 200, "pattern": _NOT_BLANK}
_EVENT_ID: Json = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_EVENT_ID_LENGTH,
    "pattern": _NOT_BLANK,
    "not": {"enum": list(NO_IDS)},
}
_ANY_OBJECT: Json = {"$ref": "#/components/schemas/Event/properties/properties"}
_TIME: Json = {"$ref": "#/components/schemas/Event/properties/timestamp"}
_NAMED = {"track": "event", "page": "name", "screen": "name"}


def _message(call: str) -> Json:
    """The schema of a call's message."""
    one_of = "previousId" if call == "alias" else "anonymousId"
    named = {_NAMED[call]: _NAME} if call in _NAMED else {}
    return {
        "type": "object",
        "properties": {
            **named,
            **dict.fromkeys(("userId", "anonymousId", "previousId", "groupId"), _ID),
            "messageId": {**_EVENT_ID, "description": "Stored once, however often it is sent; generated if missing."},
            **dict.fromkeys(("properties", "traits", "context", "integrations"), _ANY_OBJECT),
            **dict.fromkeys(("timestamp", "originalTimestamp", "sentAt"), _TIME),
        },
        "required": ["event"] if call == "track" else [],
        "anyOf": [{"required": ["userId"]}, {"required": [one_of]}],
        "additionalProperties": False,
    }


def _cloudevent() -> Json:
    return {
        "type": "object",
        "properties": {
            "specversion": {"const": "1.0"},
            "id": _EVENT_ID,
            "source": _ID,
            "type": _NAME,
            "subject": _ID,
            "time": _TIME,
            "data": _ANY_OBJECT,
        },
        "required": ["specversion", "id", "source", "type"],
        "additionalProperties": False,
    }


_TAKEN: Json = {
    "type": "object",
    "properties": {
        "success": {"const": True},
        "rejected": {
            "type": "object",
            "description": "The faults of the messages that were not accepted, by index.",
            "additionalProperties": {"type": "array", "items": {"type": "string"}},
        },
    },
    "required": ["success"],
    "additionalProperties": False,
}
_ERROR: Json = {
    "type": "object",
    "properties": {
        "status": {"const": "error"},
        "message": {"type": "string", "description": "One line that names the first fault."},
        "errors": {"$ref": "#/components/schemas/Faults"},
        "request_id": {"type": "string", "description": "The log has it too."},
        "success": {"const": False},
        "code": {"type": "string", "description": "The reason, as in `pulse_api_rejected_total`."},
    },
    "required": ["status", "message", "errors", "request_id", "success", "code"],
    "additionalProperties": False,
}
SDK_SCHEMAS: Json = {"CloudEvent": _cloudevent(), "SdkTaken": _TAKEN, "SdkError": _ERROR}

_TRACK: Json = {
    "event": "Order Completed",
    "userId": "alice",
    "messageId": "5e9f1a3c-1",
    "properties": {"revenue": 25.5, "products": [{"sku": "mug-blue", "quantity": 2}]},
    "context": {"ip": "192.0.2.7"},
    "timestamp": "2026-01-31T12:00:00Z",
    "sentAt": "2026-01-31T12:00:01Z",
}
_CLOUDEVENT: Json = {
    "specversion": "1.0",
    "id": "5e9f1a3c-2",
    "source": "https://shop.example/",
    "type": "com.example.order.completed",
    "subject": "alice",
    "data": {"revenue": 25.5},
}


def sdk_posts(answers: Json) -> Json:
    """The operations by path. `answers`: those of each operation, by status."""
    of_calls = {
        f"/v1/{call}": {
            "operationId": call,
            "summary": f"A call of {call}",
            "requestBody": _body("application/json", _message(call), _TRACK if call == "track" else None),
        }
        for call in CALLS
    }
    track = _message("track")
    in_batch = {
        **track,
        "properties": {"type": {"const": "track"}, **track["properties"]},
        "required": ["type", "event"],
    }
    batch = {
        "type": "object",
        "properties": {
            "batch": {"type": "array", "items": in_batch, "maxItems": MAX_MESSAGES},
            "sentAt": _TIME,
            "context": {**_ANY_OBJECT, "description": "For messages without a context."},
        },
        "required": ["batch"],
        "additionalProperties": False,
    }
    cloudevents = _body("application/cloudevents+json", {"$ref": "#/components/schemas/CloudEvent"}, _CLOUDEVENT)
    cloudevents["content"]["application/cloudevents-batch+json"] = {
        "schema": {"type": "array", "items": {"$ref": "#/components/schemas/CloudEvent"}, "maxItems": MAX_MESSAGES}
    }
    operations = {
        **of_calls,
        "/v1/batch": {
            "operationId": "batch",
            "summary": "Calls of any kind, each with its type",
            "requestBody": _body("application/json", batch, {"batch": [{"type": "track", **_TRACK}]}),
        },
        "/api/v1/cloudevents": {
            "operationId": "cloudevents",
            "summary": "CloudEvents 1.0, in structured, batched or binary mode",
            "requestBody": cloudevents,
        },
    }
    return {path: {**operation, "responses": answers} for path, operation in operations.items()}


def sdk_gets(headers: Json) -> Json:
    """The requests that SDKs make before they send; `headers`: those of each answer."""
    key = {
        "name": "key",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
    }
    answer = {"content": {"application/json": {"schema": {"type": "object"}}}, "headers": headers}
    return {
        "/v1/projects/{key}/settings": {
            "operationId": "settings",
            "summary": "The settings that analytics.js requests first",
            "parameters": [key],
            "responses": {"200": {"description": "It may send, with this key.", **answer}},
        },
        "/sourceConfig": {
            "operationId": "sourceConfig",
            "summary": "The settings that RudderStack's SDKs request first",
            "responses": {"200": {"description": "They may send.", **answer}},
        },
    }


def _body(media_type: str, schema: Json, example: Json | None) -> Json:
    content = {"schema": schema} if example is None else {"schema": schema, "example": example}
    return {"required": True, "content": {media_type: content}}
