"""Events for hypothesis: valid ones, faulty ones, and any JSON."""

import json
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from common.events import DOCUMENTED_CONTEXT, EVENT_TYPES, EventSchema

TIMES = ("timestamp", "received_at")

# All characters, including surrogates and NUL.
texts = st.text(st.characters(), max_size=30)
scalars = st.one_of(texts, st.integers(-(2**65), 2**65), st.floats(), st.booleans(), st.none())
json_values = st.recursive(
    st.one_of(scalars, st.integers()),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(texts, inner, max_size=5)),
    max_leaves=20,
)
keys = st.one_of(texts, st.sampled_from(["a.b", "$a", "a$", "", "_id", ".", "a\0", "é" * 256, "k" * 257, "__proto__"]))
times = st.one_of(
    st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
    # Some offsets have seconds, which RFC 3339 does not allow.
    st.datetimes(timezones=st.timezones()).map(datetime.isoformat),
    st.sampled_from(["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "1969-12-31T23:59:59.999Z", "now"]),
)

right_keys = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20).filter(
    lambda key: not key.startswith("$")
)
right_scalars = st.one_of(
    st.text(max_size=30),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
)

right_objects = st.dictionaries(
    st.one_of(right_keys, st.sampled_from([*DOCUMENTED_CONTEXT, "products", "a.b"])),
    st.recursive(
        st.one_of(right_scalars, st.none()),
        lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(right_keys, inner, max_size=5)),
        max_leaves=20,
    ),
    max_size=20,
)
objects = st.one_of(right_objects, right_objects, st.dictionaries(keys, json_values, max_size=20))
ids = st.text(min_size=1, max_size=260)

# Most are valid; otherwise the API would accept none.
events = st.fixed_dictionaries(
    {"customer_id": st.text(min_size=1, max_size=260), "event_type": st.sampled_from(EVENT_TYPES)},
    optional={
        "event_id": st.one_of(st.text(min_size=1, max_size=130), st.sampled_from(["null", "undefined", "nul", " "])),
        "timestamp": times,
        "event_name": st.text(min_size=1, max_size=205),
        **dict.fromkeys(("anonymous_id", "user_id", "previous_id", "group_id"), ids),
        **dict.fromkeys(("properties", "context", "traits"), objects),
    },
)


@st.composite
def faulty_events(draw: st.DrawFn) -> Any:
    """An event with some fields replaced by any JSON, or added."""
    event: dict[str, Any] = dict(draw(events))
    names = st.sampled_from([*EventSchema().fields, "_id", "_schema", "$set"])
    for name in draw(st.lists(st.one_of(names, texts), max_size=2)):
        event[name] = draw(json_values)
    return event


things = st.one_of(events, faulty_events(), json_values)
"""Any value in the place of an event."""


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """JSON with some bytes changed, or any bytes."""
    text = json.dumps(draw(st.one_of(things, st.fixed_dictionaries({"events": st.lists(things, max_size=3)}))))
    body = bytearray(text.encode())
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(body)))
        body[place : place + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return draw(st.one_of(st.just(bytes(body)), st.binary()))


def levels(value: Any) -> int:
    """The number of nested levels of objects and arrays."""
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(levels, value.values() if isinstance(value, dict) else value), default=0)


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal, including their types and the sign of zero."""
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, int) and not isinstance(one, bool):
        # pymongo has its own type for 64-bit integers.
        return isinstance(other, int) and not isinstance(other, bool) and one == other
    return type(one) is type(other) and repr(one) == repr(other)


def is_kept(sent: dict[str, Any], kept: dict[str, Any], *, microseconds: bool) -> bool:
    """Whether the kept event has all sent values. BSON dates have only milliseconds."""
    for name in sent.keys() - set(TIMES):
        if not same(sent[name], kept[name]):
            return False
    if "timestamp" not in sent:
        return True
    moment = datetime.fromisoformat(sent["timestamp"]).astimezone(UTC)
    if not microseconds:
        moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    return bool(moment == kept["timestamp"])
