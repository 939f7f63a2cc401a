"""Nested JSON values: checks whether MongoDB can store them, with all faults or fast."""

import math
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import msgspec
from marshmallow import ValidationError

from common.errors import Fault

MAX_KEYS = 1_000
"""The limit for an event's objects, at all levels together."""
MAX_LEVELS = 16
"""The limit for nested objects and arrays: `properties` itself is the first level."""
MAX_INNER = 1_000
"""The limit for objects and arrays in an event."""
MAX_KEY_LENGTH = 256
INT64_LEAST, INT64_MOST = -(2**63), 2**63 - 1
HALF_CHARACTER = Fault("storable", "Must not contain half a character (a lone surrogate).")
TOO_MANY_KEYS = Fault("length", f"At most {MAX_KEYS:,} keys in an event, those of inner objects included.")
TOO_MANY_INNER = Fault("length", f"At most {MAX_INNER:,} objects and arrays in an event.")
_NOT_FINITE = Fault("storable", "Must be a finite number.")
_TOO_LARGE = Fault("storable", "Integers must fit into 64 bits.")
_TOO_DEEP = Fault("length", f"At most {MAX_LEVELS} levels of objects and arrays.")
_KEY_LENGTH = Fault("length", f"Length must be between 1 and {MAX_KEY_LENGTH}.")
_DOLLAR = Fault("storable", "Must not begin with '$'.")
_NUL = Fault("storable", "Must not hold a NUL character.")
_MOST_FAULTS = 100


def is_storable(text: str) -> bool:
    """Whether UTF-8 can encode a string."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class Judge:
    """Finds the faults of JSON values, and counts their keys and inner values.

    It stops at too many keys, inner values, or faults, since listing them all is not worth the time.
    """

    def __init__(self) -> None:
        self._keys = 0
        self._inner = 0
        self._faults = 0

    def faults_of(self, value: Any) -> Any:
        """A list of faults, or the faults of its parts by key or index; None if there are none."""
        try:
            found = self._faults_of_parts([(0, value)], MAX_LEVELS)
        except _CrowdError as error:
            return list(error.args)
        return found and found[0]

    def _faults_of_parts(self, parts: Iterable[tuple[Any, Any]], levels: int) -> dict[Any, Any] | None:
        found: dict[Any, Any] | None = None
        for name, part in parts:
            kind = part.__class__
            if kind in _NESTED:
                faults = self._faults_of_nested(part, levels)
                if not faults:
                    continue
            elif fault := _fault_of_scalar(part, kind):
                faults = self._one(fault)
            else:
                continue
            found = found or {}
            found[name] = faults
            if self._faults >= _MOST_FAULTS:
                break
        return found

    def _faults_of_nested(self, value: Any, levels: int) -> Any:
        self._inner += 1
        if self._inner > MAX_INNER:
            raise _CrowdError(TOO_MANY_INNER)
        if levels == 0:
            return self._one(_TOO_DEEP)
        if value.__class__ is list:
            return self._faults_of_parts(enumerate(value), levels - 1)
        self._keys += len(value)
        if self._keys > MAX_KEYS:
            raise _CrowdError(TOO_MANY_KEYS)
        found = self._faults_of_parts(value.items(), levels - 1)
        for key in value:
            if not _is_right_key(key):
                found = found or {}
                found[key] = _faults_of_key(key)
                self._faults += 1
        return found

    def _one(self, fault: Fault) -> list[Fault]:
        self._faults += 1
        return [fault]


class _CrowdError(Exception):
    """A limit of keys or inner values is exceeded."""


def _fault_of_scalar(value: Any, kind: type) -> Fault | None:
    if kind is str:
        return None if value.isascii() or is_storable(value) else HALF_CHARACTER
    if kind is int:
        return None if INT64_LEAST <= value <= INT64_MOST else _TOO_LARGE
    if kind is float:
        return None if math.isfinite(value) else _NOT_FINITE
    return None


def _is_right_key(key: str) -> bool:
    return 0 < len(key) <= MAX_KEY_LENGTH and key[0] != "$" and "\0" not in key and (key.isascii() or is_storable(key))


def _faults_of_key(key: str) -> list[Fault]:
    faults = []
    if not 0 < len(key) <= MAX_KEY_LENGTH:
        faults.append(_KEY_LENGTH)
    if key.startswith("$"):
        faults.append(_DOLLAR)
    if "\0" in key:
        faults.append(_NUL)
    if not is_storable(key):
        faults.append(HALF_CHARACTER)
    return faults


# ── The fast path: for values that msgspec has decoded as a SHALLOW_OBJECT ──

SHALLOW_LEVELS = 5
_MOST_KNOWN_KEYS = 4096
_NESTED = frozenset({dict, list})


def _of_levels(levels: int) -> Any:
    scalar = str | Annotated[int, msgspec.Meta(ge=INT64_LEAST, le=INT64_MOST)] | float | bool | None
    if levels == 0:
        return scalar
    inner = _of_levels(levels - 1)
    return scalar | list[inner] | dict[str, inner]  # type: ignore[valid-type]


SHALLOW_OBJECT: Any = dict[str, _of_levels(SHALLOW_LEVELS - 1)]  # type: ignore[misc]
"""A type for msgspec: objects of a few levels with storable values. (msgspec has no types for any depth.)"""


def quick_check() -> Callable[[dict[str, Any]], int]:
    """Returns a function for the size of a decoded SHALLOW_OBJECT, which raises ValidationError for invalid keys.

    The size is the number of keys, objects and arrays in it. The function checks a key only once, since keys come from
    a small vocabulary. It is thread-safe.
    """
    known: set[str] = set()
    all_known = known.issuperset

    def size_of_object(value: dict[str, Any]) -> int:
        if not all_known(value):
            _learn(value, known)
        size = 1 + len(value)
        for part in value.values():
            if part.__class__ in _NESTED:
                size += size_of_object(part) if part.__class__ is dict else size_of_array(part)
        return size

    def size_of_array(value: list[Any]) -> int:
        size = 1
        for part in value:
            if part.__class__ in _NESTED:
                size += size_of_object(part) if part.__class__ is dict else size_of_array(part)
        return size

    return size_of_object


def _learn(keys: Iterable[str], known: set[str]) -> None:
    for key in keys:
        if not _is_right_key(key):
            raise ValidationError({key: _faults_of_key(key)})
    if len(known) > _MOST_KNOWN_KEYS:
        known.clear()
    known.update(keys)
