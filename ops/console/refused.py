"""The events that the API refused recently, grouped by reason and field, each with its remedy."""

import json
import re
import shlex
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from common.kafka import ReceivedRecord

MOST_REFUSED = 1000
MOST_SHOWN = 200

_TRACK, _BATCH = "/api/v1/track", "/api/v1/track/batch"
_REMEDIES = {
    "invalid": "Fix the fields named above in the client, then send the event again.",
    "unreadable": "The request is malformed HTTP, or its body ended early: look at the client's library or the proxy.",
    "unauthorized": "Send one of the keys in API_KEYS, as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'.",
    "not_found": "Fix the path: events go to POST /api/v1/track and POST /api/v1/track/batch.",
    "method_not_allowed": "Events are sent with POST to /api/v1/track or /api/v1/track/batch.",
    "too_slow": "The request did not arrive within 30 s: send it at once, or look at the client's network.",
    "no_length": "Send a Content-Length with the body.",
    "too_large": "One event has at most 64 KiB, a batch 1 MiB: send smaller events, or fewer at once.",
    "unsupported_type": "Send 'Content-Type: application/json', and no Content-Encoding but gzip.",
}
# Of the fields of an event, what SDKs call them.
_SENT_AS = {
    "segment": {
        "event_id": "messageId",
        "customer_id": "userId",
        "user_id": "userId",
        "anonymous_id": "anonymousId",
        "previous_id": "previousId",
        "group_id": "groupId",
        "event_type": "type",
        "event_name": "event",
    },
    "cloudevents": {"event_id": "id", "customer_id": "subject", "event_name": "type", "properties": "data"},
}
_OTHER_IDS = {"user_id", "anonymous_id", "previous_id"}
_ROUTES_OF_PAGES = {"/v1/page", "/v1/screen", "/v1/p", "/v1/s"}
_OF_PAGES = re.compile(r'"type"\s*:\s*"(?:page|screen)"')
_REQUEST = "(request)"
_OTHERWISE = "The message says what is wrong with the request."


class Refused:
    """The newest refused events. Thread-safe."""

    def __init__(self, api_url: str, *, show_bodies: bool) -> None:
        self._lock = threading.Lock()
        self._refused: deque[dict[str, Any]] = deque(maxlen=MOST_REFUSED)
        self._api_url = api_url
        self._show_bodies = show_bodies

    def take(self, records: Sequence[ReceivedRecord]) -> None:
        """Add new records of the topic."""
        for record in records:
            try:
                found = json.loads(record.value or b"")
            except (ValueError, RecursionError):
                continue
            if isinstance(found, dict):
                with self._lock:
                    self._refused.append({"place": f"{record.partition}-{record.offset}", **found})

    @property
    def count(self) -> int:
        """The number of refused events in memory."""
        return len(self._refused)

    def answer(self) -> dict[str, Any]:
        """The groups, the largest first, and the newest refused events in full."""
        with self._lock:
            refused = list(self._refused)
        counts: Counter[tuple[str, str]] = Counter()
        newest: dict[tuple[str, str], Any] = {}
        for each in refused:
            for field in _fields(each):
                group = str(each.get("reason")), field
                counts[group] += 1
                newest[group] = each.get("refused_at")
        return {
            "groups": [
                {"reason": reason, "field": field, "count": count, "newest": newest[reason, field]}
                for (reason, field), count in counts.most_common()
            ],
            "refused": [self._shown(each) for each in reversed(refused[-MOST_SHOWN:])],
            "count": len(refused),
        }

    def find(self, wanted: str) -> list[dict[str, Any]]:
        """The refused events with this event_id, customer_id or request_id, the newest first."""
        with self._lock:
            refused = list(self._refused)
        return [self._shown(each) for each in reversed(refused) if _is_about(each, wanted)]

    def _shown(self, each: Mapping[str, Any]) -> dict[str, Any]:
        body = each.get("body") if self._show_bodies else None
        return {
            **each,
            "body": body,
            "fields": _fields(each),
            "marks": _marks(each),
            "remedy": _REMEDIES.get(str(each.get("reason")), _OTHERWISE),
            "curl": self._curl(each) if isinstance(body, str) else None,
        }

    def _curl(self, each: Mapping[str, Any]) -> str:
        """The request as a curl command. Only the refused event of a batch was kept."""
        route = str(each.get("route"))
        if route == _BATCH and each.get("index") is not None:
            route = _TRACK
        # Without these a terminal could execute something other than it shows.
        body = str(each["body"])
        if each.get("protocol") == "segment" and each.get("index") is not None:
            body = f'{{"batch":[{body}]}}'
        body = "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in body)
        words = ["curl", "-X", "POST", f"{self._api_url}{route}"]
        words += ["-H", f"Content-Type: {each.get('content_type') or 'application/json'}"]
        if each.get("source") or each.get("reason") == "unauthorized":
            words += ["-H", "X-API-Key: YOUR KEY"]
        return shlex.join([*words, "--data-raw", body])


def _fields(each: Mapping[str, Any]) -> list[str]:
    """The paths of the faulty fields; one word if the whole request is faulty."""
    errors = each.get("errors")
    found = list(dict.fromkeys(_paths(errors))) if isinstance(errors, Mapping) else []
    return found or [_REQUEST]


def _marks(each: Mapping[str, Any]) -> list[str]:
    """The paths of the faulty fields as they are in the body: SDKs have other names for them."""
    found = [path for path in _fields(each) if path != _REQUEST]
    names = _SENT_AS.get(str(each.get("protocol")))
    if names is None:
        return found
    if _OTHER_IDS & set(found):
        # It was made of one of these.
        found = [path for path in found if path != "customer_id"]
    if each.get("route") in _ROUTES_OF_PAGES or _OF_PAGES.search(str(each.get("body"))):
        names = names | {"event_name": "name"}
    return [_sent_as(path.removeprefix("extra."), names) for path in found]


def _sent_as(path: str, names: Mapping[str, str]) -> str:
    field = path.partition(".")[0]
    return names.get(field, field) + path[len(field) :]


def _paths(errors: Mapping[Any, Any], before: str = "") -> Iterator[str]:
    for name, inner in errors.items():
        step = f"[{name}]" if str(name).isdigit() and before else f".{name}" if before else str(name)
        if isinstance(inner, Mapping) and inner:
            yield from _paths(inner, before + step)
        else:
            yield before + step


def _is_about(each: Mapping[str, Any], wanted: str) -> bool:
    if each.get("request_id") == wanted:
        return True
    body = each.get("body")
    # It may be truncated, so search it as text.
    return isinstance(body, str) and json.dumps(wanted, ensure_ascii=False) in body
