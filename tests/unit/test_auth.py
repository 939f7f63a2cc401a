"""Write keys: who may send events, and how that is counted."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from common.settings import AccessSettings
from common.write_keys import WriteKey
from tests.apps import build_app, running_app, take_accepted
from tests.fakes import FakeBroker

TRACK = "/api/v1/track"
BATCH = "/api/v1/track/batch"
EVENT = {"customer_id": "alice", "event_type": "click"}
KEYS = (WriteKey("web", "s3cret+web="), WriteKey("app", "s3cret-app"))


@pytest.fixture
def client() -> Iterator[FlaskClient]:
    with running_app(FakeBroker(), AccessSettings(keys=KEYS)) as app:
        yield app.test_client()


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    file = tmp_path / "keys"
    file.write_text("# who sends\n\nold=first\n")
    return file


@pytest.fixture
def client_of_file(keys_file: Path) -> Iterator[FlaskClient]:
    with running_app(FakeBroker(), AccessSettings(keys=KEYS[1:], keys_file=keys_file)) as app:
        yield app.test_client()


def status(client: FlaskClient, secret: str) -> int:
    return client.post(TRACK, json=EVENT, headers={"X-API-Key": secret}).status_code


def replace(file: Path, text: str) -> None:
    """Replace the file, as an editor or a mounted secret does."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.rename(file)


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"Authorization": "Bearer s3cret+web="}, ""),
        ({"Authorization": "bearer  s3cret+web="}, ""),
        ({"X-API-Key": "s3cret+web="}, ""),
        ({}, "?key=s3cret%2Bweb%3D"),
        ({"Authorization": "Basic dTpw", "X-API-Key": "s3cret-app"}, ""),
    ],
)
@pytest.mark.parametrize("path", [TRACK, BATCH])
def test_a_key_is_accepted_in_each_place_that_may_have_it(
    client: FlaskClient, path: str, headers: dict[str, str], query: str
) -> None:
    body = EVENT if path == TRACK else {"events": [EVENT]}
    assert client.post(path + query, json=body, headers=headers).status_code == 202


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "A write key is needed: "),
        ({"Authorization": "Bearer "}, "A write key is needed: "),
        ({"Authorization": "Basic dTpw"}, "A write key is needed: "),
        ({"Authorization": "Bearer s3cret"}, "This write key is not valid: "),
        ({"X-API-Key": "S3CRET-APP"}, "This write key is not valid: "),
        ({"X-API-Key": "ä\xff"}, "This write key is not valid: "),
        ({"Authorization": "Bearer wrong", "X-API-Key": "s3cret-app"}, "This write key is not valid: "),
    ],
)
def test_without_a_valid_key_the_answer_is_401(client: FlaskClient, headers: dict[str, str], message: str) -> None:
    answer = client.post(TRACK, json=EVENT, headers=headers)
    assert answer.status_code == 401
    assert answer.json is not None
    assert answer.json["message"].startswith(message)
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="Pulse Pipeline"'


def test_nothing_else_needs_a_key(client: FlaskClient) -> None:
    assert client.get("/health/live").status_code == 200
    assert client.get("/metrics").status_code == 200
    assert client.get(TRACK).status_code == 405


def test_without_keys_any_client_may_send() -> None:
    with running_app(FakeBroker()) as app:
        assert app.test_client().post(TRACK, json=EVENT).status_code == 202


def test_requests_are_counted_by_the_names_of_their_keys(client: FlaskClient) -> None:
    for secret in ("s3cret+web=", "s3cret-app", "s3cret-app", "wrong"):
        status(client, secret)
    exposed = client.get("/metrics").text
    assert 'pulse_api_authenticated_requests_total{key="web"} 1.0' in exposed
    assert 'pulse_api_authenticated_requests_total{key="app"} 2.0' in exposed
    assert 'pulse_api_rejected_total{reason="unauthorized"} 1.0' in exposed
    assert "wrong" not in exposed


def test_a_file_without_keys_logs_a_warning(keys_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys_file.write_text("# none yet\n")
    with running_app(FakeBroker(), AccessSettings(keys_file=keys_file)) as app:
        assert status(app.test_client(), "first") == 401
    assert "there are no write keys: no client can send events" in [record.message for record in caplog.records]


def test_the_log_has_no_secrets(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        client.post(f"{TRACK}?key=wr0ng", json=EVENT)
        client.post(f"{TRACK}?key=s3cret-app", json=EVENT)
    assert "s3cret" not in repr([vars(record) for record in caplog.records])
    assert "wr0ng" not in repr([vars(record) for record in caplog.records])


def test_the_keys_of_a_file_are_valid_in_addition_to_those_of_the_settings(client_of_file: FlaskClient) -> None:
    assert [status(client_of_file, secret) for secret in ("first", "s3cret-app", "s3cret+web=")] == [202, 202, 401]


def test_a_changed_file_is_read_again(client_of_file: FlaskClient, keys_file: Path) -> None:
    assert status(client_of_file, "first") == 202
    replace(keys_file, "new=second\n")
    assert [status(client_of_file, secret) for secret in ("first", "second")] == [401, 202]


def test_a_file_without_keys_refuses_all_clients(client_of_file: FlaskClient, keys_file: Path) -> None:
    replace(keys_file, "# none\n")
    assert status(client_of_file, "first") == 401


@pytest.mark.parametrize("text", ["no key\n", "new=\n", "=x"])
def test_a_file_with_a_wrong_line_changes_nothing(
    client_of_file: FlaskClient, keys_file: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert status(client_of_file, "first") == 202
    replace(keys_file, f"good=second\n{text}")
    assert [status(client_of_file, secret) for secret in ("first", "second")] == [202, 401]
    errors = [vars(record)["error"] for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    assert errors[0].startswith(f"API_KEYS_FILE={keys_file} is not allowed: give a file with name=secret, ")
    assert errors[0].endswith(" (line 2 is not)")


def test_a_file_that_is_gone_changes_nothing(client_of_file: FlaskClient, keys_file: Path) -> None:
    assert status(client_of_file, "first") == 202
    keys_file.unlink()
    assert status(client_of_file, "first") == 202
    keys_file.write_text("new=second\n")
    assert status(client_of_file, "second") == 202


@pytest.mark.parametrize(("path", "sent"), [(TRACK, EVENT), (BATCH, {"events": [EVENT]})])
def test_an_event_has_the_name_of_its_key_but_not_the_key(path: str, sent: dict[str, Any]) -> None:
    app = build_app(FakeBroker(), AccessSettings(keys=KEYS))
    assert app.test_client().post(path, json=sent, headers={"X-API-Key": "s3cret-app"}).status_code == 202
    (event,) = take_accepted(app)
    assert json.loads(event.value)["source"] == "app"
    assert b"s3cret" not in event.value
