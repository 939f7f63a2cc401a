"""Access to the console: its key, allowed hosts, origins and tokens."""

from base64 import b64encode

import pytest
from flask import Flask

from common.addresses import Address
from common.errors import SettingsError
from common.settings import load_console_settings
from tests.consoles import build_console, token_of

KEY = "a-long-enough-key"
HERE = {"Host": "localhost:8084"}
JSON = {"Content-Type": "application/json"}
PATHS = ("/", "/api/flow", "/api/live", "/api/refused", "/api/find?q=a", "/demo", "/page/console.js", "/health/live")


def basic(password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {b64encode(f'operator:{password}'.encode()).decode()}"}


@pytest.fixture
def app() -> Flask:
    return build_console()


@pytest.mark.parametrize("address", [":8084", "0.0.0.0:8084", "192.168.1.5:8084", "[::]:8084", "console.internal:8084"])
def test_an_address_other_than_loopback_needs_a_key(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("CONSOLE_ADDR", address)
    with pytest.raises(SettingsError, match="set CONSOLE_KEY"):
        load_console_settings()
    monkeypatch.setenv("CONSOLE_KEY", KEY)
    assert load_console_settings().key == KEY


@pytest.mark.parametrize("address", ["127.0.0.1:8084", "[::1]:8084", "localhost:8084", "127.9.9.9:1"])
def test_loopback_needs_none(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("CONSOLE_ADDR", address)
    assert load_console_settings().key is None


def test_a_key_of_few_characters_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSOLE_KEY", "short")
    with pytest.raises(SettingsError, match=r"CONSOLE_KEY=\(not shown\) is not allowed"):
        load_console_settings()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "10.0.0.1:8084", ""])
def test_another_host_is_misdirected(app: Flask, path: str, host: str) -> None:
    assert app.test_client().get(path, headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost", "localhost:9999", "127.0.0.1:8084", "[::1]:8084", "LOCALHOST"])
def test_this_machine_is_the_right_host(app: Flask, host: str) -> None:
    assert app.test_client().get("/", headers={"Host": host}).status_code == 200


def test_addresses_and_listed_names_are_the_only_hosts_beyond_loopback() -> None:
    app = build_console(address=Address("", 8084), key=KEY, hosts=frozenset({"console.internal"}))
    statuses = {
        host: app.test_client().get("/", headers={"Host": host, **basic(KEY)}).status_code
        for host in ("10.0.0.7:8084", "console.internal", "console.evil.example")
    }
    assert statuses == {"10.0.0.7:8084": 200, "console.internal": 200, "console.evil.example": 421}


@pytest.mark.parametrize("path", [path for path in PATHS if path != "/health/live"])
@pytest.mark.parametrize("headers", [{}, basic("wrong"), basic(""), {"Authorization": "Basic ???"}])
def test_nothing_is_shown_without_the_key(path: str, headers: dict[str, str]) -> None:
    answer = build_console(key=KEY).test_client().get(path, headers={**HERE, **headers})
    assert (answer.status_code, answer.headers["WWW-Authenticate"].partition(" ")[0]) == (401, "Basic")


def test_the_key_gives_access_and_probes_need_none() -> None:
    client = build_console(key=KEY).test_client()
    assert client.get("/", headers={**HERE, **basic(KEY)}).status_code == 200
    assert client.get("/health/live", headers=HERE).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{}, {"X-CSRF-Token": "guess"}, {"X-CSRF-Token": "é"}],
    ids=["none", "a guess", "no ASCII"],
)
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_a_replay_needs_the_token_of_the_page(app: Flask, method: str, headers: dict[str, str]) -> None:
    answer = app.test_client().open(
        "/api/letters/replay", method=method, headers={**HERE, **JSON, **headers}, data="{}"
    )
    assert answer.status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_page_of_another_origin_gets_no_data(app: Flask, method: str, headers: dict[str, str]) -> None:
    ours = {**HERE, **JSON, "X-CSRF-Token": token_of(app, **HERE)}
    answer = app.test_client().open("/api/letters/replay", method=method, headers={**ours, **headers}, data="{}")
    assert answer.status_code == 403


def test_the_page_of_the_console_itself_may_start_a_replay(app: Flask) -> None:
    headers = {**HERE, **JSON, "X-CSRF-Token": token_of(app, **HERE), "Origin": "http://localhost:8084"}
    answer = app.test_client().delete("/api/letters/replay", headers={**headers, "Sec-Fetch-Site": "same-origin"})
    assert (answer.status_code, answer.json["state"] if answer.json else None) == (200, "idle")


def test_a_form_of_another_page_cannot_pass_for_json(app: Flask) -> None:
    headers = {**HERE, "X-CSRF-Token": token_of(app, **HERE), "Content-Type": "text/plain"}
    assert app.test_client().post("/api/letters/replay", headers=headers, data="{}").status_code == 415


@pytest.mark.parametrize("path", ["/", "/api/flow", "/page/console.js", "/nothing", "/runbook/api-down"])
def test_every_answer_forbids_foreign_code_and_frames(app: Flask, path: str) -> None:
    headers = app.test_client().get(path, headers=HERE).headers
    assert headers["Content-Security-Policy"].startswith("default-src 'self'; ")
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_only_the_page_of_the_demo_shop_may_load_from_the_api(app: Flask) -> None:
    policy = app.test_client().get("/demo", headers=HERE).headers["Content-Security-Policy"]
    assert policy.endswith("; script-src 'self' http://localhost:8080; connect-src 'self' http://localhost:8080")


@pytest.mark.parametrize("path", ["/page/..%2fapp.py", "/page/../app.py", "/runbook/nothing", "/static/x"])
def test_nothing_else_is_served(app: Flask, path: str) -> None:
    assert app.test_client().get(path, headers=HERE).status_code == 404
