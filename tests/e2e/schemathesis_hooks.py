"""Hooks for schemathesis, which generates requests from the OpenAPI document."""

import json
from typing import Any

import schemathesis

from tests.sent import levels


def is_for_sdks(operation: dict[str, Any]) -> bool:
    """Whether the API accepts more than the document describes."""
    return bool(operation["tags"] == ["SDKs"])


@schemathesis.hook
def before_load_schema(_: Any, document: dict[str, Any]) -> None:
    """Give text/plain bodies the schema of JSON bodies, since schemathesis ignores `contentSchema`.

    A recursive schema takes it minutes: limit JSON values to two levels.
    """
    any_json = document["components"]["schemas"]["Json"]
    scalar = {name: any_json[name] for name in ("minimum", "maximum")}
    scalar["type"] = [name for name in any_json["type"] if name not in {"array", "object"}]
    any_json.update(items=scalar, additionalProperties=scalar)
    for path in document["paths"].values():
        if "post" in path and not is_for_sdks(path["post"]):
            content = path["post"]["requestBody"]["content"]
            content["text/plain"] = {"schema": content["application/json"]["schema"]}


@schemathesis.serializer("text/plain")
def as_json(_: Any, value: Any) -> bytes:
    return json.dumps(value).encode()


@schemathesis.hook
def filter_body(_: Any, body: Any) -> bool:
    """Drop 1e300: the API accepts it as a float, but JSON Schema counts it as an integer of 301 digits."""
    match body:
        case float():
            return abs(body) < 2**63
        case dict():
            return all(filter_body(_, value) for value in body.values())
        case list():
            return all(filter_body(_, value) for value in body)
    return True


@schemathesis.hook
def filter_case(_: Any, case: Any) -> bool:
    """Drop requests whose answer the document does not determine. With `partial=true`, the API accepts the valid events
    of an invalid batch. SDKs may send more than the document describes, and values may be nested more deeply.
    """
    partial = str((case.query or {}).get("partial")).lower() == "true"
    # An event, an object in it, and a value of two levels; a batch and its list add two levels.
    told = 5 if "batch" in case.path else 3
    forgiving = partial or is_for_sdks(case.operation.definition.raw) or levels(case.body) > told
    return not (forgiving and case.meta.generation.mode.is_negative)
