"""Maps columns to fields of an event, and converts their text."""

import json
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.errors import InvalidEventError, PulseError
from common.events import format_timestamp, parse_timestamp

_SPEC = re.compile(r"(?P<field>[^:=]+)(?::(?P<type>[a-z]+))?")
# Python's own int and float accept the digits of every script, and read 1_0 as 10.
_INTEGER = re.compile(r"[+-]?[0-9]{1,30}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,30}\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_FIRST_MILLISECONDS = 1e11
"""As seconds, that would be in the year 5138."""


@dataclass(frozen=True, slots=True)
class Rule:
    """The source of a field's value; `type`: its conversion, None for no conversion."""

    field: str
    column: str
    type: str | None


@dataclass(frozen=True, slots=True)
class LineMapping:
    """Converts a line to an event. `values` are the same for each line; `translate` has, by field, the value for each
    word of the column.
    """

    rules: Sequence[Rule]
    values: Mapping[str, str]
    translate: Mapping[str, Mapping[str, Any]]


def load(file: Path | None, rules: Iterable[str], values: Iterable[str]) -> LineMapping:
    """The mapping of a TOML file, plus options: `FIELD[:TYPE]=COLUMN` and `FIELD=VALUE`. Raises PulseError."""
    try:
        told = tomllib.loads(file.read_text("utf-8")) if file else {}
    except (OSError, ValueError) as error:
        raise PulseError(f"{file} cannot be used as a mapping: {error}") from error
    if unknown := told.keys() - {"fields", "values", "translate"}:
        raise PulseError(
            f"{file} has {', '.join(sorted(unknown))}: a mapping has [fields], [values] and [translate.…]."
        )
    pairs = {**told.get("fields", {}), **dict(_pair(rule) for rule in rules)}
    return LineMapping(
        [rule(spec, column) for spec, column in pairs.items()],
        {**told.get("values", {}), **dict(_pair(value) for value in values)},
        told.get("translate", {}),
    )


def rule(spec: str, column: str) -> Rule:
    """A rule by `FIELD[:TYPE]`. Raises PulseError."""
    match = _SPEC.fullmatch(spec)
    if match is None or (match["type"] or "text") not in _TYPES:
        raise PulseError(f"{spec} is no field with a type: give FIELD or FIELD:TYPE, a type of {', '.join(_TYPES)}.")
    # `timestamp` is always a time, without the type.
    return Rule(match["field"], column, match["type"] or ("time" if match["field"] == "timestamp" else None))


def event_of(line: Mapping[str, Any], mapping: LineMapping) -> dict[str, Any]:
    """The event in a line. Raises InvalidEventError for a value of the wrong type."""
    event: dict[str, Any] = {} if mapping.rules else dict(line)
    for one in mapping.rules:
        value = _found(line, one.column)
        if value is None:
            continue
        translated = mapping.translate.get(one.field, {}).get(str(value))
        if translated is not None:
            value = translated
        elif one.type is not None:
            try:
                value = _TYPES[one.type](value)
            except (ValueError, TypeError, OverflowError):
                wrong = f"{one.column} is no {one.type}."
                raise InvalidEventError(f"{one.field}: {wrong}", {one.field: [wrong]}) from None
        _put(event, one.field, value)
    for name, value in mapping.values.items():
        _put(event, name, value)
    return event


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise PulseError(f"{text} is no pair: give FIELD=COLUMN for --map, FIELD=VALUE for --set.")
    return name, value


def _found(line: Mapping[str, Any], column: str) -> Any:
    """The value of a column, or of a.b in nested objects; None if missing."""
    if column in line:
        return line[column]
    value: Any = line
    for step in column.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _put(event: dict[str, Any], name: str, value: Any) -> None:
    """Set a field; a.b is b in the object a."""
    *outer, last = name.split(".")
    inside = event
    for step in outer:
        inside = inside.setdefault(step, {})
        if not isinstance(inside, dict):
            raise InvalidEventError(f"{name}: {step} is no object.", {name: [f"{step} is no object."]})
    inside[last] = value


def _integer(value: Any) -> int:
    if not _INTEGER.fullmatch(str(value)):
        raise ValueError(value)
    return int(value)


def _number(value: Any) -> int | float:
    if _INTEGER.fullmatch(str(value)):
        return int(value)
    if not _NUMBER.fullmatch(str(value)) or not math.isfinite(number := float(value)):
        raise ValueError(value)
    return number


def _boolean(value: Any) -> bool:
    try:
        return _BOOLEANS[str(value).lower()]
    except KeyError:
        raise ValueError(value) from None


def _time(value: Any) -> str:
    """RFC 3339; without an offset it is UTC; a number is seconds since 1970, a large one milliseconds."""
    text = str(value)
    try:
        return format_timestamp(parse_timestamp(text))
    except ValueError:
        pass
    if not _NUMBER.fullmatch(text):
        moment = datetime.fromisoformat(text)
        return format_timestamp((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC))
    seconds = float(text)
    seconds = seconds / 1000 if abs(seconds) >= _FIRST_MILLISECONDS else seconds
    try:
        return format_timestamp(datetime.fromtimestamp(seconds, UTC))
    except OSError:
        raise ValueError(value) from None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _json(value: Any) -> Any:
    return json.loads(value)


_TYPES: dict[str, Callable[[Any], Any]] = {
    "text": _text,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "time": _time,
    "json": _json,
}
