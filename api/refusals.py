"""Sends refused events, with the reason, to a topic for the console. Best effort, never delays an answer."""

import contextlib
import functools
import json
import math
import queue
import re
import threading
import time
import zlib
from base64 import b64decode
from binascii import Error as NoBase64
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from flask import Request, g, request

from api.auth import WriteKeys
from api.faults import told
from common.errors import InvalidEventError
from common.event_json import first_fault, split_batch
from common.events import format_timestamp
from common.kafka import Record, RecordSender, never_takes
from common.logs import request_id
from common.metrics import ApiMetrics
from common.outage import Outage
from common.retry import Backoff
from common.threads import start_thread

MOST_A_SECOND = 10
MOST_WAITING = 100
BODY_BYTES = 4096

_HIDDEN = "(key taken out)"
_LONGEST_HEADER = 300
# More of the body than is kept, so that a key at the cut is still recognized.
_READ_BYTES = BODY_BYTES + 1024
_GZIP = b"\x1f\x8b"
# The members in which SDKs send a key. Their value may be truncated.
_KEY_IN_BODY = re.compile(r'("(?:write_?key|api_?key|x-api-key|authorization)"\s*:\s*")(?:[^"\\]|\\.)*', re.IGNORECASE)
_UNREAD = re.compile(rb"POST ([!-~]*)")
_HEADER = rb"\r\n%s:[ \t]*([!-~][ -~]*?)[ \t]*(?:\r\n|\Z)"
_USER_AGENT, _ORIGIN, _AUTHORIZATION, _API_KEY = (
    re.compile(_HEADER % name, re.IGNORECASE) for name in (b"user-agent", b"origin", b"authorization", b"x-api-key")
)
# The plain beginning of a path, and the rest, which may contain a key, as in /api/v1/track&key=….
_NOT_PLAIN = re.compile(r"([A-Za-z0-9/._-]{0,100}+).+", re.DOTALL)


def plain_path(path: str) -> str:
    """The part of the path that is safe to show."""
    return _NOT_PLAIN.sub(r"\1…", path)


def sent_body() -> bytes:
    """The current request's body or its beginning: the part already read, otherwise a new read. Does not block."""
    read: bytes | None = g.get("body")
    if read is None:
        with contextlib.suppress(Exception):  # a body can fail in many ways
            read = request.environ["wsgi.input"].read(_READ_BYTES)
    return read or b""


class Refusals:
    """Accepts refused events, up to a rate, and sends them from its own thread. Thread-safe."""

    def __init__(
        self,
        sender: RecordSender | None,
        metrics: ApiMetrics,
        keys: WriteKeys | None = None,
        *,
        with_bodies: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`sender`: to the topic; without one, refused events are only counted. `keys`: removed from all fields."""
        self._sender = sender
        self._metrics = metrics
        self._keys = keys
        self._with_bodies = with_bodies
        self._clock = clock
        self._lock = threading.Lock()
        self._lately: deque[float] = deque([-math.inf] * MOST_A_SECOND, MOST_A_SECOND)
        self._waiting: queue.Queue[Record] = queue.Queue(MOST_WAITING)

    def start(self) -> None:
        """Start sending. Call it in the serving process, after any fork. No other thread ever waits for this one."""
        if self._sender is not None:
            sender = self._sender
            start_thread("refusals", lambda: self._run(sender), on_death=lambda: None)

    def keep(
        self,
        status: int,
        reason: str,
        errors: Mapping[Any, Any] | Sequence[str] = (),
        *,
        message: str | None = None,
        index: int | None = None,
        body: Callable[[], bytes] = sent_body,
    ) -> None:
        """Keep Flask's current request, which was refused, or only the event at `index`. Never blocks.

        `reason`: from `common.metrics.REJECTED`. `errors`: marshmallow's messages, by field or as a list; `message`:
        one line, by default the first of them. `body`: returns the event as JSON, whose beginning is kept; called only
        if there is room. `g.source` and `g.protocol` are used if set.
        """
        if not self._has_room():
            return
        secrets = self._secrets(
            request.headers.get("Authorization"),
            *(request.headers.get("X-API-Key"), request.args.get("key"), request.args.get("writeKey")),
        )
        sent = body() if self._with_bodies else b""
        self._put(
            secrets,
            request_id=request_id.get(),
            status=status,
            reason=reason,
            message=first_fault(errors) if errors and message is None else message,
            protocol=g.get("protocol", "pulse"),
            route=_route(request),
            source=g.get("source"),
            index=index,
            errors=told(errors if isinstance(errors, Mapping) else {}),
            user_agent=request.headers.get("User-Agent"),
            origin=request.headers.get("Origin"),
            content_type=request.headers.get("Content-Type"),
            body=_text(sent) if self._with_bodies else None,
        )

    def keep_invalid(self, error: InvalidEventError) -> None:
        """Keep each invalid event, or message, of the current request's batch, or the whole request, with this
        error.
        """
        wrong = error.errors.get("events") or error.errors.get("batch")
        if not isinstance(wrong, Mapping):
            self.keep(400, "invalid", error.errors, message=str(error))
            return
        events = functools.cache(lambda: split_batch(sent_body()))
        for index, errors in wrong.items():
            self.keep(400, "invalid", errors, index=index, body=functools.partial(_nth, events, index))

    def keep_unread(self, status: int, reason: str, message: str, head: bytes, request_id: str) -> None:
        """Keep a request that the app never saw, from its head, if it was a POST. Never blocks."""
        to = _UNREAD.match(head)
        if to is None or not self._has_room():
            return
        path, _, query = to[1].decode("ascii").partition("?")
        in_query = re.findall(r"(?:^|&)(?:key|writeKey)=([^&]*)", query)
        self._put(
            self._secrets(_header(_AUTHORIZATION, head), _header(_API_KEY, head), *in_query),
            request_id=request_id,
            status=status,
            reason=reason,
            message=message,
            protocol=None,
            route=plain_path(path),
            source=None,
            index=None,
            errors={},
            user_agent=_header(_USER_AGENT, head),
            origin=_header(_ORIGIN, head),
            content_type=None,
            body=None,
        )

    def _has_room(self) -> bool:
        """Whether there is room for one more; uses up the second's quota if so, otherwise counts a drop."""
        now = self._clock()
        with self._lock:
            room = self._sender is not None and now - self._lately[0] >= 1 and not self._waiting.full()
            if room:
                self._lately.append(now)
        if not room:
            self._metrics.refused_dropped.inc()
        return room

    def _put(self, secrets: set[str], **fields: Any) -> None:
        fields = {"refused_at": format_timestamp(datetime.now(UTC)), **fields}
        for name in ("message", "route", "errors", "user_agent", "origin", "content_type", "body"):
            fields[name] = _without(secrets, fields[name])
        for name in ("user_agent", "origin", "content_type"):
            fields[name] = fields[name] and fields[name][:_LONGEST_HEADER]
        if fields["body"] is not None:
            fields["body"] = fields["body"].encode(errors="backslashreplace")[:BODY_BYTES].decode(errors="ignore")
        try:
            self._waiting.put_nowait(Record(None, json.dumps(fields).encode()))
        except queue.Full:
            self._metrics.refused_dropped.inc()

    def _secrets(self, authorization: str | None, *others: str | None) -> set[str]:
        """The strings that must not be kept: the valid keys, and any key that this request sent."""
        scheme, _, token = (authorization or "").partition(" ")
        found = {*(self._keys.secrets if self._keys else ()), token.strip() or scheme, *others}
        if scheme.lower() == "basic":
            with contextlib.suppress(NoBase64, ValueError):
                found.update(b64decode(token).decode(errors="replace").split(":", 1))
        return {secret for secret in found if secret}

    def _run(self, sender: RecordSender) -> None:
        outage = Outage("sending refused events to Kafka", Backoff(most=5.0))
        while True:
            records = [self._waiting.get()]
            with contextlib.suppress(queue.Empty):
                while len(records) < MOST_WAITING:
                    records.append(self._waiting.get_nowait())
            while records:
                # While Kafka is unavailable these wait, and so do later ones, as many as there is room for.
                unsent = list(zip(records, sender.send(records), strict=True))
                records = [record for record, error in unsent if error is not None and not never_takes(error)]
                self._metrics.refused_kept.inc(sum(error is None for _, error in unsent))
                self._metrics.refused_dropped.inc(sum(error is not None and never_takes(error) for _, error in unsent))
                errors = [error for _, error in unsent if error is not None]
                if errors:
                    time.sleep(outage.failed(errors[0], waiting=len(records)))
            outage.over()


def _route(of: Request) -> str:
    return of.url_rule.rule if of.url_rule else plain_path(of.path)


def _header(pattern: re.Pattern[bytes], head: bytes) -> str | None:
    found = pattern.search(head)
    return found[1].decode("ascii") if found else None


def _text(body: bytes) -> str:
    """The beginning of a body as text, with invalid UTF-8 escaped."""
    begin = body[:_READ_BYTES]
    if begin.startswith(_GZIP):
        with contextlib.suppress(zlib.error):
            begin = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(begin, _READ_BYTES)
    return _KEY_IN_BODY.sub(rf"\1{_HIDDEN}", begin.decode(errors="backslashreplace"))


def _nth(events: Callable[[], list[bytes]], index: int) -> bytes:
    """An event of the batch, or the whole batch if it cannot be split."""
    found = events()
    return found[index] if index < len(found) else sent_body()


def _without(secrets: set[str], value: Any) -> Any:
    """The value, with each secret removed from its strings and names: in plain form, and as escaped in JSON."""
    if not secrets:
        return value
    forms = secrets | {json.dumps(secret)[1:-1] for secret in secrets}
    # All in one pass, so that no secret is searched for in the replacement of another.
    any_of_them = re.compile("|".join(map(re.escape, sorted(forms, key=len, reverse=True))))

    def clean(part: Any) -> Any:
        match part:
            case str():
                return any_of_them.sub(_HIDDEN, part)
            case Mapping():
                return {clean(name): clean(inner) for name, inner in part.items()}
            case list():
                return [clean(inner) for inner in part]
        return part

    return clean(value)
