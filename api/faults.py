"""What was wrong with events: told to clients within a size; logged and counted by field and rule, never contents."""

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
    """Logs and counts faults. Threads may share it."""

    def __init__(self, metrics: ApiMetrics) -> None:
        self._validation_errors = metrics.validation_errors
        self._refused_fields = Children(metrics.refused_fields)

    def note(self, error: InvalidEventError) -> None:
        """Note why a request was refused, or a part of it."""
        # Without a field its message is what is wrong.
        faults = Counter(_by_field(error.errors or {"": [error.args[0]]}))
        self._validation_errors.inc()
        for fault, times in faults.items():
            self._refused_fields[fault].inc(times)
        most = {f"{field}: {rule}": times for (field, rule), times in faults.most_common(_MOST_LOGGED)}
        logger.info("events refused", extra={"faults": most})


def told(errors: Mapping[Any, Any]) -> dict[Any, Any]:
    """The errors as clients get them: of each event the first, and so many others as fit into some KiB."""
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
    """Those that fit, and the first in any case, if need be without its place in the field; and how much room is left.

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
    """A name that a client made up, cut if it is long, escapes counted."""
    shown = name[:_LONGEST_NAME_BYTES]
    while len(json.dumps(shown)) > _LONGEST_NAME_BYTES:
        shown = shown[: len(shown) * 3 // 4]
    return shown if shown == name else f"{shown}…"


def _by_field(errors: Mapping[Any, Any]) -> Iterator[tuple[str, str]]:
    """Each fault's field and rule, of closed sets (`common.metrics.REFUSED_FIELDS`, `common.events.RULES`)."""
    for name, found in errors.items():
        if isinstance(found, Mapping) and name not in _FIELDS:
            # By index, and above that the batch's own field.
            yield from _by_field(found)
            continue
        for message in _messages(found):
            rule = message.rule if isinstance(message, Fault) else "other"
            if name in _FIELDS:
                yield f"{name}.*" if isinstance(found, Mapping) else name, rule
            else:
                yield "(unknown)" if rule == "unknown" else "(request)", rule


def _messages(found: Any) -> Iterator[str]:
    """All of them, whatever they are about."""
    if isinstance(found, Mapping):
        for inner in found.values():
            yield from _messages(inner)
    else:
        yield from found
