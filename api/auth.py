"""Access control: write keys with their origins and rates, and CORS."""

import hmac
import logging
import math
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flask import Blueprint, Flask, Response, g, request
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Unauthorized

from api.protocols.paths import is_for_sdks
from common.errors import RateError, SettingsError
from common.metrics import ApiMetrics
from common.settings import AccessSettings
from common.write_keys import WriteKey, read_write_keys

logger = logging.getLogger(__name__)

HOW = "send it as 'Authorization: Bearer KEY', as 'X-API-Key: KEY' or, from a beacon, as ?key=KEY."
_HOURS_TO_REMEMBER = 2
_ALLOWED_HEADERS = "Authorization, Content-Encoding, Content-Type, X-API-Key, X-Request-ID"
_SDK_HEADERS = (
    *("authorization", "content-type", "x-retry-count", "anonymousid", "sentat", "rsa-retry-attempt"),
    *("rsa-retry-reason", "rsa-since-first-attempt", "rsa-since-last-attempt"),
)
_HEADER_NAME = re.compile(r"[a-z0-9-]+")
_ALLOW_ORIGIN = "Access-Control-Allow-Origin"
_EXPOSE = ("Access-Control-Expose-Headers", "Retry-After, X-Request-ID")


class KeyHolder:
    """The holder of a write key, with its remaining quota of events. Thread-safe."""

    def __init__(self, key: WriteKey, clock: Callable[[], float] = time.monotonic) -> None:
        self.key = key
        self._clock = clock
        self._lock = threading.Lock()
        self._left = float(key.rate or 0)
        self._counted_at = clock()

    def check_rate(self) -> None:
        """Raises RateError while the rate is used up."""
        if self.key.rate is not None and (left := self._refill(self.key.rate)) <= 0:
            raise RateError(self.key.name, self.key.rate, math.ceil((1 - left) / self.key.rate))

    def spend(self, events: int) -> None:
        """Count accepted events. A request that exceeds the quota is accepted as a whole, however small the rate; the
        excess is subtracted from the following seconds.
        """
        if self.key.rate is not None:
            with self._lock:
                self._left -= events

    def _refill(self, rate: int) -> float:
        """The remaining quota: at most one second's worth."""
        with self._lock:
            now = self._clock()
            self._left = min(float(rate), self._left + (now - self._counted_at) * rate)
            self._counted_at = now
            return self._left


class WriteKeys:
    """The valid keys: those of the settings, and those of the file, which is read again when it changes.

    If the file becomes unreadable, or has an invalid line, the log says so and the keys stay unchanged.
    """

    def __init__(self, settings: AccessSettings) -> None:
        """Does not read the file yet."""
        self._fixed = tuple(map(KeyHolder, settings.keys))
        self._file = settings.keys_file
        self._from_file: tuple[KeyHolder, ...] = ()
        self._seen: object = "nothing yet"

    def admit(self, secret: str | None, origin: str | None, how: str = HOW) -> KeyHolder:
        """The holder of a valid key. Takes the same time for all secrets of the same length.

        Raises Unauthorized, with `how` to send a key, and RateError.
        """
        if self._file is not None:
            self._read_if_changed(self._file)
        found = None
        for holder in (*self._fixed, *self._from_file):
            if hmac.compare_digest(holder.key.secret.encode(), (secret or "").encode(errors="surrogatepass")):
                found = holder
        if found is None:
            raise _unauthorized(f"{'This write key is not valid' if secret else 'A write key is needed'}: {how}")
        if found.key.origins and (origin or "").lower() not in found.key.origins:
            raise _unauthorized("This write key is for pages of other origins: take another key here.")
        found.check_rate()
        return found

    @property
    def secrets(self) -> list[str]:
        """The secrets of the keys that were valid at the last request."""
        return [holder.key.secret for holder in (*self._fixed, *self._from_file)]

    def _read_if_changed(self, file: Path) -> None:
        # Take the stamp first: a change during the read causes another read.
        stamp = _stamp(file)
        if stamp == self._seen:
            return
        try:
            keys = read_write_keys(file)
        except SettingsError as error:
            logger.error("the write keys stay as they were", extra={"error": str(error)})  # noqa: TRY400, it says it all
        else:
            # Holders keep their used quota.
            known = {holder.key: holder for holder in self._from_file}
            self._from_file = tuple(known.get(key) or KeyHolder(key) for key in keys)
            logger.info("write keys read", extra={"keys": [key.name for key in keys]})
            if not self._from_file and not self._fixed:
                logger.warning("there are no write keys: no client can send events")
        # Set this last, or another thread would mistake the old keys for the new.
        self._seen = stamp


def require_key(routes: Blueprint, keys: WriteKeys, metrics: ApiMetrics) -> None:
    """Answer 401 to each request for these routes without a valid key."""

    @routes.before_request
    def check() -> None:
        if request.method == "OPTIONS":
            # A browser's preflight request cannot carry a key.
            return
        secret = secret_sent(
            request.headers.get("Authorization"), request.headers.get("X-API-Key"), request.args.get("key")
        )
        admit(keys, secret, metrics)


def admit(keys: WriteKeys, secret: str | None, metrics: ApiMetrics, how: str = HOW) -> None:
    """Admit the current request: sets `g.holder`, and `g.source` to the key's name. Raises as `WriteKeys.admit`."""
    g.holder = keys.admit(secret, request.headers.get("Origin"), how)
    g.source = g.holder.key.name
    metrics.authenticated.labels(g.source).inc()


def secret_sent(authorization: str | None, api_key: str | None, in_query: str | None) -> str | None:
    """The key of a request, from any place that may hold it."""
    # werkzeug would misread a token that contains '='.
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    return api_key or in_query


@dataclass(frozen=True, slots=True)
class Cors:
    """The origins whose pages may read answers: `origins`, or `sdk_origins` on the routes of SDKs."""

    origins: frozenset[str]
    sdk_origins: frozenset[str]

    def headers(self, path: str, origin: str) -> list[tuple[str, str]]:
        """The CORS headers of an answer at this path for a page of this origin."""
        for_sdks = is_for_sdks(path)
        if not for_sdks and not path.startswith("/api/"):
            return []
        origins = self.sdk_origins if for_sdks else self.origins
        if "*" in origins and not for_sdks:
            return [(_ALLOW_ORIGIN, "*"), _EXPOSE]
        if not origins:
            return []
        # A cache must not serve one origin's answer to another.
        vary = ("Vary", "Origin")
        allowed = origin and ("*" in origins or origin.lower() in origins)
        return [vary, (_ALLOW_ORIGIN, origin), _EXPOSE] if allowed else [vary]


def allow_origins(app: Flask, cors: Cors) -> None:
    """Add CORS headers to each answer of the API, including errors."""

    @app.after_request
    def tell(answer: Response) -> Response:
        headers = cors.headers(request.path, request.headers.get("Origin", ""))
        answer.headers.extend(headers)
        if request.method == "OPTIONS" and _ALLOW_ORIGIN in dict(headers):
            for_sdks = is_for_sdks(request.path)
            answer.headers["Access-Control-Allow-Methods"] = "GET, POST" if for_sdks else "POST"
            answer.headers["Access-Control-Allow-Headers"] = _headers_of_sdks() if for_sdks else _ALLOWED_HEADERS
            answer.headers["Access-Control-Max-Age"] = str(_HOURS_TO_REMEMBER * 3600)
            if answer.status_code == 404:
                # So the browser continues, and its page can read the 404; otherwise CORS would seem to be at fault.
                answer.status_code = 204
                answer.set_data(b"")
                del answer.headers["Content-Type"]
        return answer


def _headers_of_sdks() -> str:
    """The headers of SDKs, and those beyond them that the browser asks for.

    SDKs add some (RudderStack's sends `rsa-recovered` with what a page before could not send), and sites give their own
    to SDKs. A browser drops a request whose headers are not all allowed.
    """
    asked = request.headers.get("Access-Control-Request-Headers", "").lower().replace(" ", "").split(",")
    others = [name for name in asked if _HEADER_NAME.fullmatch(name) and name not in _SDK_HEADERS]
    return ", ".join([*_SDK_HEADERS, *others])


def _unauthorized(message: str) -> Unauthorized:
    return Unauthorized(message, www_authenticate=WWWAuthenticate("bearer", {"realm": "Pulse Pipeline"}))


def _stamp(file: Path) -> object:
    """A value that changes with the file's contents or permissions."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_ctime_ns
