"""The plain request, answered past Flask: valid events or one valid message of an SDK, sent in the usual way.

Flask stays the single source of truth: every unusual or invalid request falls through to it. A request that is handled
here is answered, counted and kept exactly as by Flask.
"""

import logging
import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.utils import formatdate
from functools import partial
from typing import Any, NamedTuple

import msgspec
from gunicorn import SERVER
from werkzeug.exceptions import Unauthorized

from api.auth import Cors, KeyHolder, WriteKeys, secret_sent
from api.event_queue import EventQueue
from api.instrumentation import id_for
from api.intake import AcceptedEvent, Receipt, accept_mapped, accept_plain_batch, accept_plain_event
from api.protocols.conversion import convert
from api.protocols.messages import Envelope, secret_in_body, secret_in_head
from api.protocols.segment import PATHS, to_event
from common.errors import InvalidEventError, QueueFullError, RateError
from common.event_json import parse_any_json
from common.events import MAX_BATCH_BYTES, MAX_EVENT_BYTES
from common.metrics import ApiMetrics, Children

FastPath = Callable[[Any, bytes], bytes | None]
"""Takes a request, as gunicorn parsed it, and its body; returns the whole answer, or None to leave it to Flask."""

TRACK = "/api/v1/track"
Headers = dict[str, str]
"""By their names in upper case."""
Admit = Callable[[str | None], KeyHolder | None]
"""Returns the holder of a secret, or None if any client may send. Raises Unauthorized and RateError."""

NATIVE = frozenset({TRACK, "/api/v1/track/batch"})
_UNUSUAL = frozenset({"CONTENT-ENCODING", "TRANSFER-ENCODING", "EXPECT", "UPGRADE"})
_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})*(?::[0-9]{1,5})?")
_ENCODER = msgspec.json.Encoder()


def fast_path(queue: EventQueue, metrics: ApiMetrics, keys: WriteKeys | None, cors: Cors) -> FastPath | None:
    """None at log level debug, since only Flask logs each request."""
    if logging.getLogger("api").isEnabledFor(logging.DEBUG):
        return None
    authenticated = Children(metrics.authenticated)
    requests = Children(metrics.requests)
    durations = Children(metrics.request_duration)
    date = _Date()

    def answer(request: Any, body: bytes) -> bytes | None:
        started = time.perf_counter()
        path = request.path
        take = _native if path in NATIVE else _of_an_sdk if path in PATHS else None
        if take is None or request.method != "POST" or request.query or request.version != (1, 1):
            return None
        headers = dict(request.headers)
        if (
            len(headers) < len(request.headers)
            or not _UNUSUAL.isdisjoint(headers)
            or headers.get("CONNECTION", "keep-alive") != "keep-alive"
            or not _HOST.fullmatch(headers.get("HOST", ""))
        ):
            return None
        try:
            taken = take(path, headers, body, partial(keys.admit, origin=headers.get("ORIGIN")) if keys else _admit_all)
            if taken is None:
                return None
            queue.put(taken.events)
        except (InvalidEventError, QueueFullError, RateError, RecursionError, Unauthorized):
            return None
        if taken.holder is not None:
            taken.holder.spend(len(taken.events))
            authenticated[taken.holder.key.name].inc()
        document = taken.document + b"\n"
        more = [
            *cors.headers(path, headers.get("ORIGIN", "")),
            ("X-Request-ID", id_for(headers.get("X-REQUEST-ID", ""))),
        ]
        head = (
            f"HTTP/1.1 {taken.status}\r\nServer: {SERVER}\r\nDate: {date()}\r\nConnection: keep-alive\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(document)}\r\n"
            + "".join(f"{name}: {value}\r\n" for name, value in more)
            + "\r\n"
        )
        requests["POST", path, taken.status[:3]].inc()
        durations["POST", path].observe(time.perf_counter() - started)
        return head.encode("latin-1") + document

    return answer


class _Taken(NamedTuple):
    """The events of a request, who sends them, and how it is answered."""

    events: Sequence[AcceptedEvent]
    holder: KeyHolder | None
    status: str
    document: bytes


def _native(path: str, headers: Headers, body: bytes, admit: Admit) -> _Taken | None:
    if headers.get("CONTENT-TYPE") != "application/json":
        return None
    if len(body) > (MAX_EVENT_BYTES if path == TRACK else MAX_BATCH_BYTES):
        return None
    holder = admit(secret_sent(headers.get("AUTHORIZATION"), headers.get("X-API-KEY"), None))
    accept = accept_plain_event if path == TRACK else accept_plain_batch
    events = accept(body, Receipt(datetime.now(UTC), _source(holder)))
    if events is None:
        return None
    ids = [event.event_id for event in events]
    told = {"event_id": ids[0]} if path == TRACK else {"count": len(ids), "event_ids": ids}
    return _Taken(events, holder, "202 ACCEPTED", _ENCODER.encode({"status": "accepted", **told}))


def _of_an_sdk(path: str, headers: Headers, body: bytes, admit: Admit) -> _Taken | None:
    if len(body) > MAX_EVENT_BYTES:
        return None
    message, odd = parse_any_json(body)
    in_head = secret_in_head(headers.get("AUTHORIZATION"), headers.get("X-API-KEY"), None)
    holder = admit(in_head or secret_in_body(message))
    tries = (headers.get("X-RETRY-COUNT"), headers.get("RSA-RETRY-ATTEMPT"))
    envelope = Envelope.of(datetime.now(UTC), headers.get("SENTAT"), headers.get("ANONYMOUSID"), tries)
    (events, errors), mended = convert([message], lambda each: to_event(each, PATHS[path], envelope), odd=odd)
    if errors or mended:
        return None
    accepted = accept_mapped(events.values(), Receipt(datetime.now(UTC), _source(holder), "segment"))
    return _Taken(accepted, holder, "200 OK", b'{"success":true}')


def _admit_all(_: str | None) -> None:
    """Without keys."""


def _source(holder: KeyHolder | None) -> str | None:
    return holder.key.name if holder else None


class _Date:
    """The date in HTTP's format, computed once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = ""

    def __call__(self) -> str:
        second = int(time.time())
        if second != self._second:
            self._second, self._text = second, formatdate(second, usegmt=True)
        return self._text
