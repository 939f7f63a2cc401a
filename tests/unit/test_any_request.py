"""Any request, even a malformed one, gets an answer below 500."""

from itertools import product

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.test import create_environ, run_wsgi_app

from common.settings import AccessSettings
from common.write_keys import WriteKey
from tests.apps import build_app
from tests.fakes import FakeBroker

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW")
PATHS = (
    "/api/v1/track",
    "/api/v1/track/batch",
    "/health/live",
    "/health/ready",
    "/metrics",
    "/openapi.json",
    "/docs",
    "/docs/page.css",
    "/docs/nothing",
    "/docs/",
    "/pulse.js",
    "/nowhere",
    "//",
)
UPGRADE = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}


@pytest.fixture(scope="module")
def app() -> Flask:
    return build_app(FakeBroker())


@pytest.mark.parametrize(("method", "path"), list(product(METHODS, PATHS)))
def test_an_upgrade_to_websocket_is_ignored(app: Flask, method: str, path: str) -> None:
    plain = app.test_client(use_cookies=False).open(path, method=method, buffered=True)
    upgrade = app.test_client(use_cookies=False).open(path, method=method, headers=UPGRADE, buffered=True)
    assert (upgrade.status_code, upgrade.headers.get("Allow")) == (plain.status_code, plain.headers.get("Allow"))
    assert plain.status_code != 500


ODD = ("", "a..b:9092", "[", "[::1", "x:99999", "\xff", "\x7f", "xn--a", "a b", "%00", "http://x", "." * 300, "é:x")


def status_of(app: Flask, method: str, **odd: str) -> int:
    """The status for a head that a test client would change. WSGI passes bytes as Latin-1."""
    environ = {**create_environ("/api/v1/track", method=method), **odd}
    body, status, _ = run_wsgi_app(app, environ)
    b"".join(body)
    return int(status[:3])


@pytest.mark.parametrize("name", ["HTTP_HOST", "SERVER_NAME", "PATH_INFO", "QUERY_STRING", "CONTENT_TYPE"])
@pytest.mark.parametrize("odd", ODD)
def test_odd_bytes_in_a_head_are_the_clients_error(app: Flask, name: str, odd: str) -> None:
    assert {status_of(app, method, **{name: odd}) // 100 for method in ("GET", "POST")} == {4}


@pytest.mark.parametrize(
    "path", ["/", "/api/v1/track", "/api/v1/track/batch", "/v1/track", "/v1/batch", "/sourceConfig"]
)
@pytest.mark.parametrize("query", ["\xbc", "key=\xbc", "\xbc=1&partial=true", "partial=\xff", "writeKey=\xed\xa0\x80"])
def test_a_query_that_is_not_utf_8_is_the_clients_error(app: Flask, path: str, query: str) -> None:
    assert status_of(app, "POST", PATH_INFO=path, QUERY_STRING=query) in {400, 404, 405, 411}


def test_an_unescaped_query_in_utf_8_is_read() -> None:
    keyed = build_app(FakeBroker(), AccessSettings(keys=(WriteKey("web", "k"),)))
    sent = {"PATH_INFO": "/api/v1/track", "CONTENT_TYPE": "application/json"}
    for query, status in (("a=ä".encode().decode("latin-1") + "&key=k", 411), ("key=ä", 401)):
        assert status_of(keyed, "POST", **sent, QUERY_STRING=query) == status


@given(st.binary(max_size=50), st.binary(max_size=50), st.binary(max_size=50), st.sampled_from(METHODS))
def test_any_bytes_in_a_head_get_an_answer_below_500(
    app: Flask, host: bytes, path: bytes, query: bytes, method: str
) -> None:
    texts = {"HTTP_HOST": host, "PATH_INFO": b"/" + path, "QUERY_STRING": query}
    assert status_of(app, method, **{name: text.decode("latin-1") for name, text in texts.items()}) < 500
