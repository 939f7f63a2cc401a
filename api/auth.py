"""Who may send events, by write key, and from which other origins pages may, by CORS."""

import hmac
import logging
from pathlib import Path

from flask import Blueprint, Flask, Response, g, request
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Unauthorized

from common.errors import SettingsError
from common.metrics import ApiMetrics
from common.settings import AccessSettings, WriteKey, read_write_keys

logger = logging.getLogger(__name__)

_HOW = "send it as 'Authorization: Bearer KEY', as 'X-API-Key: KEY' or, from a beacon, as ?key=KEY."
_HOURS_TO_REMEMBER = 2
_ALLOWED_HEADERS = "Authorization, Content-Encoding, Content-Type, X-API-Key, X-Request-ID"
_ALLOW_ORIGIN = "Access-Control-Allow-Origin"
_EXPOSE = ("Access-Control-Expose-Headers", "Retry-After, X-Request-ID")


class WriteKeys:
    """The keys that are valid now: those of the settings, and those of the file, which is read again when it changes.

    When the file cannot be read any more, or has a line that is no key, the log says so and the keys stay as they were.
    """

    def __init__(self, settings: AccessSettings) -> None:
        """Reads no file yet."""
        self._fixed = settings.keys
        self._file = settings.keys_file
        self._from_file: tuple[WriteKey, ...] = ()
        self._seen: object = "nothing yet"

    def name_of(self, secret: str) -> str | None:
        """The name of a valid key. Takes the same time for each secret of the same length."""
        if self._file is not None:
            self._read_if_changed(self._file)
        name = None
        for key in (*self._fixed, *self._from_file):
            if hmac.compare_digest(key.secret.encode(), secret.encode()):
                name = key.name
        return name

    @property
    def secrets(self) -> list[str]:
        """The secrets of the keys that were valid when the last request came."""
        return [key.secret for key in (*self._fixed, *self._from_file)]

    def _read_if_changed(self, file: Path) -> None:
        # The stamp first: what changes while it is read is read again.
        stamp = _stamp(file)
        if stamp == self._seen:
            return
        try:
            self._from_file = read_write_keys(file)
        except SettingsError as error:
            logger.error("the write keys stay as they were", extra={"error": str(error)})  # noqa: TRY400, it says it all
        else:
            logger.info("write keys read", extra={"keys": [key.name for key in self._from_file]})
            if not self._from_file and not self._fixed:
                logger.warning("there are no write keys: nobody can send events")
        # Last, or another thread would take the old keys for the new.
        self._seen = stamp


def require_key(routes: Blueprint, keys: WriteKeys, metrics: ApiMetrics) -> None:
    """Answer 401 to each request for these routes that has no valid key; the name of one that has is `g.source`."""

    @routes.before_request
    def check() -> None:
        if request.method == "OPTIONS":
            # A browser's question before the request: it cannot carry a key.
            return
        secret = secret_sent(
            request.headers.get("Authorization"), request.headers.get("X-API-Key"), request.args.get("key")
        )
        name = keys.name_of(secret) if secret else None
        if name is None:
            raise _unauthorized("This write key is not valid" if secret else "A write key is needed")
        metrics.authenticated.labels(name).inc()
        g.source = name


def secret_sent(authorization: str | None, api_key: str | None, in_query: str | None) -> str | None:
    """The key of a request, from the places where it may be."""
    # werkzeug would take a token with a '=' in it for something else.
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    return api_key or in_query


def cors_headers(origins: frozenset[str], origin: str) -> list[tuple[str, str]]:
    """What an answer of the API says to a page of this origin, if there are `origins` whose pages may read it."""
    if "*" in origins:
        return [(_ALLOW_ORIGIN, "*"), _EXPOSE]
    if not origins:
        return []
    # What a cache keeps for one origin is not for another.
    vary = ("Vary", "Origin")
    return [vary, (_ALLOW_ORIGIN, origin), _EXPOSE] if origin.lower() in origins else [vary]


def allow_origins(app: Flask, origins: frozenset[str]) -> None:
    """Tell browsers on each answer of the API, errors included, whether pages of their origin may read it."""

    @app.after_request
    def tell(answer: Response) -> Response:
        if not request.path.startswith("/api/"):
            return answer
        headers = cors_headers(origins, request.headers.get("Origin", ""))
        answer.headers.extend(headers)
        if request.method == "OPTIONS" and _ALLOW_ORIGIN in dict(headers):
            answer.headers["Access-Control-Allow-Methods"] = "POST"
            answer.headers["Access-Control-Allow-Headers"] = _ALLOWED_HEADERS
            answer.headers["Access-Control-Max-Age"] = str(_HOURS_TO_REMEMBER * 3600)
            if answer.status_code == 404:
                # A browser that goes on gets a 404 which its page can read; else CORS would seem to be at fault.
                answer.status_code = 204
                answer.set_data(b"")
                del answer.headers["Content-Type"]
        return answer


def _unauthorized(what: str) -> Unauthorized:
    return Unauthorized(f"{what}: {_HOW}", www_authenticate=WWWAuthenticate("bearer", {"realm": "Pulse Pipeline"}))


def _stamp(file: Path) -> object:
    """What differs when the file has changed in contents or rights."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_ctime_ns
