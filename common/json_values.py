"""JSON values, however nested: what of them MongoDB can store, told with all faults or found quickly."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

import msgspec
from marshmallow import ValidationError

from common.errors import Fault

MAX_KEYS = 1_000
"""In an event's objects, at all of their levels together."""
MAX_LEVELS = 16
"""Of objects and arrays in each other: `properties` itself is the first."""
MAX_KEY_LENGTH = 256
INT64 = range(-(2**63), 2**63)
HALF_CHARACTER = Fault("storable", "Holds half a character (a lone surrogate).")
TOO_MANY_KEYS = Fault("length", f"At most {MAX_KEYS:,} keys in an event, those of inner objects included.")
_NOT_FINITE = Fault("storable", "Must be a finite number.")
_TOO_LARGE = Fault("storable", "Integers must fit into 64 bits.")
_TOO_DEEP = Fault("length", f"At most {MAX_LEVELS} levels of objects and arrays.")
_KEY_LENGTH = Fault("length", f"Length must be between 1 and {MAX_KEY_LENGTH}.")
_DOLLAR = Fault("storable", "Must not begin with '$'.")
_NUL = Fault("storable", "Must not hold a NUL character.")
_MOST_FAULTS = 100


def is_storable(text: str) -> bool:
    """Whether UTF-8 can hold a text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def faults_in(value: Any) -> Any:
    """What is wrong with a JSON value: a list of faults, or those of its parts by key or index; None if it is right.

    Raises ValidationError for more keys than an event may have, and looks no further after some hundred faults: a crowd
    is not worth the time that a list of it takes.
    """
    return _Judge().faults_of(value, MAX_LEVELS)


def keys_in(value: Any) -> int:
    """How many keys a value of few levels has, at all of them."""
    if isinstance(value, dict):
        return len(value) + sum(map(keys_in, value.values()))
    return sum(map(keys_in, value)) if isinstance(value, list) else 0


class _Judge:
    """Looks through one value, and counts on its way."""

    def __init__(self) -> None:
        self._keys = 0
        self._faults = 0

    def faults_of(self, value: Any, levels: int) -> Any:
        """As `faults_in`; `levels`: how many more there may be."""
        kind = type(value)
        if kind is dict or kind is list:
            if levels == 0:
                fault = _TOO_DEEP
            elif kind is dict:
                return self._faults_of_object(value, levels - 1)
            else:
                return self._faults_of_parts(enumerate(value), levels - 1)
        elif kind is str and not value.isascii() and not is_storable(value):
            fault = HALF_CHARACTER
        elif kind is int and value not in INT64:
            fault = _TOO_LARGE
        elif kind is float and not math.isfinite(value):
            fault = _NOT_FINITE
        else:
            return None
        self._faults += 1
        return [fault]

    def _faults_of_object(self, value: Mapping[str, Any], levels: int) -> dict[Any, Any] | None:
        self._keys += len(value)
        if self._keys > MAX_KEYS:
            # Before any of them is judged.
            raise ValidationError(TOO_MANY_KEYS)
        of_keys = {key: faults for key in value if (faults := _faults_of_key(key))}
        self._faults += len(of_keys)
        of_parts = self._faults_of_parts(value.items(), levels)
        return {**(of_parts or {}), **of_keys} or None

    def _faults_of_parts(self, parts: Iterable[tuple[Any, Any]], levels: int) -> dict[Any, Any] | None:
        found = {}
        for name, part in parts:
            faults = self.faults_of(part, levels)
            if faults is not None:
                found[name] = faults
                if self._faults >= _MOST_FAULTS:
                    break
        return found or None


def _faults_of_key(key: str) -> list[Fault]:
    faults = []
    if not 1 <= len(key) <= MAX_KEY_LENGTH:
        faults.append(_KEY_LENGTH)
    if key.startswith("$"):
        faults.append(_DOLLAR)
    if "\0" in key:
        faults.append(_NUL)
    if not is_storable(key):
        faults.append(HALF_CHARACTER)
    return faults


# ── The quick way: for what msgspec has decoded as a SHALLOW_OBJECT ──

SHALLOW_LEVELS = 5
# Of one object. The objects of an event together stay below its limit.
_MOST_KEYS_TAKEN = MAX_KEYS // 4
_MOST_KNOWN_KEYS = 4096
_NESTED = frozenset({dict, list})


def _of_levels(levels: int) -> Any:
    scalar = str | Annotated[int, msgspec.Meta(ge=INT64[0], le=INT64[-1])] | float | bool | None
    if levels == 0:
        return scalar
    inner = _of_levels(levels - 1)
    return scalar | list[inner] | dict[str, inner]  # type: ignore[valid-type]


SHALLOW_OBJECT: Any = dict[str, _of_levels(SHALLOW_LEVELS - 1)]  # type: ignore[misc]
"""A type for msgspec: objects of few levels, whose values can be stored. (msgspec has no types for any depth.)"""


def quick_check() -> Callable[[dict[str, Any]], int]:
    """Makes what tells the number of keys in a decoded SHALLOW_OBJECT, or raises ValidationError unless all are right.

    A key is judged when it is first seen, since keys come from a small vocabulary. Threads may share what is made.
    """
    known: set[str] = set()
    all_known = known.issuperset

    def keys_in_object(value: dict[str, Any]) -> int:
        if not all_known(value):
            _learn(value, known)
        keys = len(value)
        for part in value.values():
            if part.__class__ in _NESTED:
                keys += keys_in_object(part) if part.__class__ is dict else keys_in_array(part)
        if keys > _MOST_KEYS_TAKEN:
            raise ValidationError(TOO_MANY_KEYS)
        return keys

    def keys_in_array(value: list[Any]) -> int:
        keys = 0
        for part in value:
            if part.__class__ in _NESTED:
                keys += keys_in_object(part) if part.__class__ is dict else keys_in_array(part)
        return keys

    return keys_in_object


def _learn(keys: Iterable[str], known: set[str]) -> None:
    for key in keys:
        if faults := _faults_of_key(key):
            raise ValidationError({key: faults})
    if len(known) > _MOST_KNOWN_KEYS:
        known.clear()
    known.update(keys)
