"""Faults of events: reported to clients within a size; logged and counted by field and rule, without contents."""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from common.errors import Fault, InvalidEventError
from common.events import EventSchema
from common.metrics import ApiMetrics, Children

_MOST_TOLD_BYTES = 8 * 1024
_LONGEST_NAME_BYTES = 100
_MOST_LOGGED = 20
_FIELDS = frozenset(EventSchema().fields)

logger = logging.getLogger(__name__)


class Faults:
    """Logs and counts faults. Thread-safe."""

    def __init__(self, metrics: ApiMetrics) -> None:
        self._validation_errors = metrics.validation_errors
        self._refused_fields = Children(metrics.refused_fields)

    def note(self, error: InvalidEventError) -> None:
        """Log and count why a request, or a part of it, was refused."""
        # An error without fields has only its message.
        faults = Counter(_by_field(error.errors or {"": [error.args[0]]}))
        self._validation_errors.inc()
        for fault, times in faults.items():
            self._refused_fields[fault].inc(times)
        most = {f"{field}: {rule}": times for (field, rule), times in faults.most_common(_MOST_LOGGED)}
        logger.info("events refused", extra={"faults": most})


def told(errors: Mapping[Any, Any]) -> dict[Any, Any]:
    """The errors for the client: the first of each event, and as many others as fit into a few KiB."""
    room = _MOST_TOLD_BYTES
    kept: dict[Any, Any] = {}
    for name, found in errors.items():
        if name == "events" and isinstance(found, Mapping):
            kept[name] = told(found)
        elif isinstance(name, int) and isinstance(found, Mapping):
            kept[name], room = _within(found, room)
        elif isinstance(name, int):
            kept[name] = found
        else:
            return _within(errors, room)[0]
    return kept


def _within(errors: Mapping[Any, Any], room: int) -> tuple[dict[Any, Any], int]:
    """The errors that fit, and always the first, if necessary without its path in the field; and the room left.

    Room is in bytes.
    """
    kept: dict[Any, Any] = {}
    left_out = 0
    for name, found in errors.items():
        shown = _short(name) if isinstance(name, str) else name
        messages = list(_messages(found))
        if shown in kept or (room <= 0 and kept):
            left_out += len(messages)
        elif room <= 0:
            kept[shown] = messages[:1]
            left_out += len(messages) - 1
        elif isinstance(found, Mapping):
            kept[shown], room = _within(found, room - len(json.dumps(shown)))
        else:
            kept[shown] = found
            room -= len(json.dumps({shown: found}))
    if left_out:
        kept["…"] = [f"And {left_out} more."]
    return kept, room


def _short(name: str) -> str:
    """A client's name for a field, cut if it is long, counting escapes."""
    shown = name[:_LONGEST_NAME_BYTES]
    while len(json.dumps(shown)) > _LONGEST_NAME_BYTES:
        shown = shown[: len(shown) * 3 // 4]
    return shown if shown == name else f"{shown}…"


def _by_field(errors: Mapping[Any, Any]) -> Iterator[tuple[str, str]]:
    """The field and rule of each fault, from closed sets (`common.metrics.REFUSED_FIELDS`, `common.events.RULES`)."""
    for name, found in errors.items():
        if isinstance(found, Mapping) and name not in _FIELDS:
            # By index, and above that by the batch's own field.
            yield from _by_field(found)
            continue
        for message in _messages(found):
            rule = message.rule if isinstance(message, Fault) else "other"
            if name in _FIELDS:
                yield f"{name}.*" if isinstance(found, Mapping) else name, rule
            else:
                yield "(unknown)" if rule == "unknown" else "(request)", rule


def _messages(found: Any) -> Iterator[str]:
    """All messages, at every level."""
    if isinstance(found, Mapping):
        for inner in found.values():
            yield from _messages(inner)
    else:
        yield from found
