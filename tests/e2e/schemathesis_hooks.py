"""What schemathesis has to be told before it makes up requests from the OpenAPI document."""

import json
from typing import Any

import schemathesis

from tests.sent import levels


def is_for_sdks(operation: dict[str, Any]) -> bool:
    """Whether more is taken than is described."""
    return bool(operation["tags"] == ["SDKs"])


@schemathesis.hook
def before_load_schema(_: Any, document: dict[str, Any]) -> None:
    """The text of a text/plain body is JSON of the same schema: it does not look into `contentSchema`.

    JSON in JSON without end takes it minutes: it is told of two levels.
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
    """JSON Schema takes 1e300, a float that is accepted, for an integer of 301 digits, which is not."""
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
    """Of a wrong batch the right events are taken with `partial=true`, SDKs may send more than is described, and
    what is nested further than it was told is right all the same: no answer is known beforehand.
    """
    partial = str((case.query or {}).get("partial")).lower() == "true"
    # An event, in it an object, in it a value of two levels; around it perhaps a batch and its list.
    told = 5 if "batch" in case.path else 3
    forgiving = partial or is_for_sdks(case.operation.definition.raw) or levels(case.body) > told
    return not (forgiving and case.meta.generation.mode.is_negative)
