"""The calls for each SDK: one call of each kind, and a given number of others."""

import json
import math
from pathlib import Path
from typing import Any

GIVEN = Path(__file__).with_name("calls.json").read_text()
# Only SDKs for Python send these; JSON in the other languages does not have them.
ODD = [math.nan, math.inf, 2**64]
# The repaired keys: docs/sdks.md, "What is mended".
MENDED_KEYS = {"$set": "＄set", "$position": "＄position"}

Call = dict[str, Any]


def calls(client: str, sdk: str, more: int = 0) -> list[Call]:
    """The calls of a client of an SDK; the `call` in the message's context identifies each."""
    given: list[Call] = json.loads(GIVEN.replace("WHO", client))
    numbers: list[Any] = [*range(more), *(ODD if "python" in sdk and "cloudevents" not in sdk else [])]
    message = {"userId": f"{client}-ada", "timestamp": "2026-01-31T12:00:08.000+00:00", "event": "Counted"}
    given += [{"call": "track", "message": {**message, "properties": {"number": number}}} for number in numbers]
    for number, call in enumerate(given):
        call["message"]["context"] = {**call["message"].get("context", {}), "call": number}
    return [_as_cloudevent(call) for call in given] if "cloudevents" in sdk else given


def kept(value: Any, sdk: str) -> Any:
    """A value as stored."""
    if isinstance(value, dict):
        # Segment's SDK for Java omits null.
        left_out = [key for key, inner in value.items() if inner is None] if sdk == "segment_java" else []
        return {MENDED_KEYS.get(key, key): kept(inner, sdk) for key, inner in value.items() if key not in left_out}
    if isinstance(value, list):
        return [kept(inner, sdk) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return float(value) if isinstance(value, int) and value >= 2**63 else value


def _as_cloudevent(call: Call) -> Call:
    message = call["message"]
    attributes = {
        "type": message.get("event", message.get("name", call["call"])),
        "source": "https://shop.example/checkout",
        "subject": message.get("userId", message.get("anonymousId")),
        "time": message["timestamp"],
        "call": message["context"]["call"],
    }
    data = message.get("properties", message.get("traits", {}))
    return {"call": "send", "message": {"attributes": attributes, "data": data}}
