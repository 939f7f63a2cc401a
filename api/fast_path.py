"""The plain request for the two routes that take events, answered past Flask: valid events, sent in the usual way.

Flask stays the one truth: what is in any way unusual or wrong is not taken here, and so falls through to it. What is
taken is answered, counted and kept as through Flask, to the letter.
"""

import logging
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Any

import msgspec
from gunicorn import SERVER
from werkzeug.exceptions import Unauthorized

from api.auth import Cors, WriteKeys, secret_sent
from api.event_queue import EventQueue
from api.instrumentation import id_for
from api.intake import Receipt, accept_plain_batch, accept_plain_event
from common.errors import QueueFullError, RateError
from common.events import MAX_BATCH_BYTES, MAX_EVENT_BYTES
from common.metrics import ApiMetrics, Children

FastPath = Callable[[Any, bytes], bytes | None]
"""Takes a request, as gunicorn reads it, and its body; returns all of the answer, or None if it is for Flask."""

TRACK, BATCH = "/api/v1/track", "/api/v1/track/batch"
_UNUSUAL = frozenset({"CONTENT-ENCODING", "TRANSFER-ENCODING", "EXPECT", "UPGRADE"})
_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})*(?::[0-9]{1,5})?")
_ENCODER = msgspec.json.Encoder()


def fast_path(queue: EventQueue, metrics: ApiMetrics, keys: WriteKeys | None, cors: Cors) -> FastPath | None:
    """None where each request is to be logged, which Flask does."""
    if logging.getLogger("api").isEnabledFor(logging.DEBUG):
        return None
    authenticated = Children(metrics.authenticated)
    requests = Children(metrics.requests)
    durations = Children(metrics.request_duration)
    date = _Date()

    def answer(request: Any, body: bytes) -> bytes | None:
        started = time.perf_counter()
        path = request.path
        if request.method != "POST" or path not in (TRACK, BATCH) or request.query or request.version != (1, 1):
            return None
        headers = dict(request.headers)
        if (
            len(headers) < len(request.headers)
            or not _UNUSUAL.isdisjoint(headers)
            or headers.get("CONTENT-TYPE") != "application/json"
            or headers.get("CONNECTION", "keep-alive") != "keep-alive"
            or not _HOST.fullmatch(headers.get("HOST", ""))
            or len(body) > (MAX_EVENT_BYTES if path == TRACK else MAX_BATCH_BYTES)
        ):
            return None
        holder = None
        if keys is not None:
            secret = secret_sent(headers.get("AUTHORIZATION"), headers.get("X-API-KEY"), None)
            try:
                holder = keys.admit(secret, headers.get("ORIGIN"))
            except (Unauthorized, RateError):
                return None
        accept = accept_plain_event if path == TRACK else accept_plain_batch
        events = accept(body, Receipt(datetime.now(UTC), holder.key.name if holder else None))
        if events is None:
            return None
        try:
            queue.put(events)
        except QueueFullError:
            return None
        if holder is not None:
            holder.spend(len(events))
            authenticated[holder.key.name].inc()
        ids = [event.event_id for event in events]
        told = {"event_id": ids[0]} if path == TRACK else {"count": len(ids), "event_ids": ids}
        document = _ENCODER.encode({"status": "accepted", **told}) + b"\n"
        more = [
            *cors.headers(path, headers.get("ORIGIN", "")),
            ("X-Request-ID", id_for(headers.get("X-REQUEST-ID", ""))),
        ]
        head = (
            f"HTTP/1.1 202 ACCEPTED\r\nServer: {SERVER}\r\nDate: {date()}\r\nConnection: keep-alive\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(document)}\r\n"
            + "".join(f"{name}: {value}\r\n" for name, value in more)
            + "\r\n"
        )
        requests["POST", path, "202"].inc()
        durations["POST", path].observe(time.perf_counter() - started)
        return head.encode("latin-1") + document

    return answer


class _Date:
    """The date as HTTP has it, made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = ""

    def __call__(self) -> str:
        second = int(time.time())
        if second != self._second:
            self._second, self._text = second, formatdate(second, usegmt=True)
        return self._text
