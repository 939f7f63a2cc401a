"""Access control: loopback or a key, the right Host, no pages of other origins, no foreign code."""

import hmac
import ipaddress
import secrets
from urllib.parse import urlsplit

from flask import Flask, Response, request
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Forbidden, MisdirectedRequest, Unauthorized, UnsupportedMediaType

from common.settings import ConsoleSettings

ALIVE = "/health/live"
"""For probes, which have no key."""

_CSP = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
_HERE = frozenset({"localhost", "127.0.0.1", "::1"})
_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def guard(app: Flask, settings: ConsoleSettings) -> str:
    """Check every request, and add security headers to every answer. Returns the CSRF token."""
    token = secrets.token_urlsafe(32)

    @app.before_request
    def check() -> None:
        if not _is_our_host(request.host, settings):
            # DNS rebinding: another site's name may point here, to read the console.
            raise MisdirectedRequest(
                "This is not a name of the console: use localhost, or list the name in CONSOLE_HOSTS."
            )
        if request.path == ALIVE:
            return
        if settings.key is not None:
            _ask_for(settings.key)
        if request.path.startswith("/api/") and not _is_same_origin():
            raise Forbidden("A page of another origin may not ask this.")
        if request.method not in {"GET", "HEAD", "OPTIONS"}:
            _ask_for_token(token)

    @app.after_request
    def protect(answer: Response) -> Response:
        for name, value in _HEADERS.items():
            answer.headers.setdefault(name, value)
        answer.headers.setdefault("Content-Security-Policy", _CSP)
        answer.headers.setdefault("Cache-Control", "no-store")
        return answer

    return token


def policy_with(origin: str) -> str:
    """The policy of a page that may also load from, and send to, this one other origin."""
    return f"{_CSP}; script-src 'self' {origin}; connect-src 'self' {origin}"


def who_asks() -> str:
    """For the log: the user, as given, and the address."""
    user = (request.authorization.username if request.authorization else None) or "-"
    return f"{user[:64]}@{request.remote_addr}"


def _ask_for(key: str) -> None:
    password = (request.authorization.password if request.authorization else None) or ""
    if not hmac.compare_digest(password.encode(), key.encode()):
        challenge = WWWAuthenticate("basic", {"realm": "Pulse console", "charset": "UTF-8"})
        raise Unauthorized("Give the CONSOLE_KEY as the password, and any user.", www_authenticate=challenge)


def _ask_for_token(token: str) -> None:
    if not hmac.compare_digest(request.headers.get("X-CSRF-Token", "").encode(), token.encode()):
        raise Forbidden("The X-CSRF-Token is missing or old: load the page again.")
    if request.method == "POST" and request.mimetype != "application/json":
        raise UnsupportedMediaType("Content-Type must be application/json.")


def _is_our_host(host: str, settings: ConsoleSettings) -> bool:
    name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    if name in _HERE or name in settings.hosts or name == settings.address.host.lower():
        return True
    if settings.address.is_loopback:
        return False
    try:
        # An IP address, which an attacker cannot rebind as they can a name.
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_same_origin() -> bool:
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in {"same-origin", "none"}:
        return False
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc.lower() == request.host.lower()
