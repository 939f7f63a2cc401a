"""Repairs values of SDKs that could not be stored: after a refusal an SDK would drop its whole batch."""

import functools
import json
import math
import re
from collections import Counter
from typing import Any

import msgspec

from common.errors import InvalidEventError
from common.json_values import (
    INT64_LEAST,
    INT64_MOST,
    MAX_INNER,
    MAX_KEYS,
    MAX_LEVELS,
    TOO_MANY_INNER,
    TOO_MANY_KEYS,
)

_ENCODER = msgspec.json.Encoder()
_LONG = 16
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_REPLACEMENT = "\ufffd"
_DOLLAR = "\uff04"


class Mender:
    """Repairs the values of one event, and counts the repairs in `mended`, by kind (`common.metrics.MENDED`).

    | Sent | Stored |
    |---|---|
    | NaN, an infinity | null |
    | an integer beyond 64 bits | the nearest float |
    | a lone surrogate, NUL in a key | U+FFFD |
    | a key that begins with `$` | the same with `＄` (U+FF04) |
    | an empty key | `_` |
    | an array or object deeper than 16 levels | its JSON as a string |
    """

    def __init__(self) -> None:
        self.mended: Counter[str] = Counter()
        self._keys = 0
        self._inner = 0

    def mend(self, value: Any, level: int = 1) -> Any:
        """Repair a JSON value. `level`: its depth of objects and arrays, including itself.

        Raises InvalidEventError if there are more keys, objects or arrays than an event may have, and RecursionError
        if it is nested too deeply for Python.
        """
        kind = type(value)
        if kind is str:
            return value if value.isascii() else self._text(value)
        if kind is int:
            return value if INT64_LEAST <= value <= INT64_MOST else self._large(value)
        if kind is dict or kind is list:
            return self._nested(value, level)
        if kind is float and not math.isfinite(value):
            self.mended["not_finite"] += 1
            return None
        return value

    def _nested(self, value: Any, level: int) -> Any:
        if level > MAX_LEVELS:
            self.mended["too_deep"] += 1
            return self._text(_as_json(value))
        self._inner += 1
        if self._inner > MAX_INNER:
            raise InvalidEventError(TOO_MANY_INNER)
        if type(value) is dict:
            self._keys += len(value)
            if self._keys > MAX_KEYS:
                raise InvalidEventError(TOO_MANY_KEYS)
            mended: dict[str, Any] = {}
            for key, item in value.items():
                mended[self._key(key, value, mended)] = self.mend(item, level + 1)
            return mended
        if len(value) > _LONG and _are_plain(value):
            return value
        items = []
        # Not a comprehension, which would use another level of the call stack.
        for item in value:
            items.append(self.mend(item, level + 1))  # noqa: PERF401, as above
        return items

    def _text(self, text: str) -> str:
        if text.isascii() or not _LONE_SURROGATE.search(text):
            return text
        self.mended["surrogate"] += 1
        return _LONE_SURROGATE.sub(_REPLACEMENT, text)

    def _key(self, key: str, sent: dict[str, Any], mended: dict[str, Any]) -> str:
        """The storable form of the key, different from all keys beside it."""
        storable, kinds = _storable_key(key)
        if kinds:
            for kind in kinds:
                self.mended[kind] += 1
            while storable in sent or storable in mended:
                storable += "_"
        return storable

    def _large(self, integer: int) -> float | None:
        try:
            nearest = float(integer)
        except OverflowError:
            self.mended["not_finite"] += 1
            return None
        self.mended["large_integer"] += 1
        return nearest


# Keys come from a small vocabulary.
@functools.lru_cache(4096)
def _storable_key(key: str) -> tuple[str, tuple[str, ...]]:
    """The storable form of the key, and its faults."""
    kinds = []
    storable = key
    if not key:
        kinds.append("empty_key")
        storable = "_"
    if key.startswith("$"):
        kinds.append("dollar_key")
        storable = _DOLLAR + storable[1:]
    if "\0" in key:
        kinds.append("nul_in_key")
        storable = storable.replace("\0", _REPLACEMENT)
    if _LONE_SURROGATE.search(key):
        kinds.append("surrogate")
        storable = _LONE_SURROGATE.sub(_REPLACEMENT, storable)
    return storable, tuple(kinds)


def _are_plain(values: list[Any]) -> bool:
    """Whether all values are integers, floats or strings that need no repair: a fast check for long arrays."""
    kinds = set(map(type, values))
    if kinds == {int}:
        return bool(min(values) >= INT64_LEAST and max(values) <= INT64_MOST)
    if kinds == {float}:
        return math.isfinite(sum(values))
    return kinds == {str} and "".join(values).isascii()


def _as_json(value: Any) -> str:
    """The value as compact JSON; values that JSON does not have become null."""
    try:
        return _ENCODER.encode(value).decode()
    except (ValueError, OverflowError):
        # Lone surrogates, or integers beyond 64 bits.
        finite = json.loads(json.dumps(value), parse_constant=lambda _: None)
        return json.dumps(finite, ensure_ascii=False, separators=(",", ":"))
