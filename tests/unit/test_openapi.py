"""/openapi.json and /docs, without a browser. tests/e2e/test_openapi.py checks a running API against the document."""

import json
from typing import Any

import jsonschema_rs
import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import assume, given

from common.events import EventSchema
from common.settings import AccessSettings
from common.write_keys import WriteKey
from tests import sent
from tests.apps import build_app
from tests.fakes import FakeBroker

TRACK = "/api/v1/track"


@pytest.fixture(scope="module")
def app() -> Flask:
    return build_app(FakeBroker(), capacity=1_000_000)


def document(app: Flask) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(app.test_client().get("/openapi.json").data)
    return found


@pytest.fixture(scope="module")
def event_schema(app: Flask) -> jsonschema_rs.Validator:
    return jsonschema_rs.Draft202012Validator({**document(app), "$ref": "#/components/schemas/Event"})


# Paths that the document has under another name; the last is not documented.
OTHER_NAMES = {*(f"/v1/{letter}" for letter in "tpsigab"), "/v1/import", "/beacon/v1/batch", "/v1/m"}


def test_every_route_is_in_the_document(app: Flask) -> None:
    routes = {
        (rule.rule.replace("<", "{").replace(">", "}"), method.lower())
        for rule in app.url_map.iter_rules()
        for method in rule.methods or ()
        if method not in {"HEAD", "OPTIONS"} and rule.rule not in OTHER_NAMES and not rule.rule.startswith("/docs/")
    }
    assert routes == {(path, method) for path, operations in document(app)["paths"].items() for method in operations}


def test_an_example_shows_every_field(app: Flask) -> None:
    post = document(app)["paths"][TRACK]["post"]
    example = post["requestBody"]["content"]["application/json"]["examples"]["every field"]["value"]
    assert example.keys() == EventSchema().fields.keys()


@given(event=sent.things)
def test_the_api_accepts_exactly_the_events_that_the_document_allows(
    app: Flask, event_schema: jsonschema_rs.Validator, event: Any
) -> None:
    text = json.dumps(event)
    assume(is_for_json_schema(event, text))
    status = app.test_client().post(TRACK, data=text, content_type="application/json").status_code
    assert status == (202 if event_schema.is_valid(event) else 400)


def is_for_json_schema(value: Any, text: str) -> bool:
    """Whether JSON Schema can judge the value: no lone surrogate, no number beyond 64 bits, no first or last year."""
    if "0001-01-01T" in text or "9999-12-31T" in text or "NaN" in text or "Infinity" in text:
        return False
    match value:
        case str():
            return not any("\ud800" <= character <= "\udfff" for character in value)
        case float():
            return abs(value) < 2**63
        case dict():
            return all(is_for_json_schema(part, "") for pair in value.items() for part in pair)
        case list():
            return all(is_for_json_schema(part, "") for part in value)
    return True


@pytest.mark.parametrize("path", ["/v1/track", "/v1/batch", "/api/v1/cloudevents"])
def test_the_examples_for_sdks_are_accepted(app: Flask, path: str) -> None:
    content = document(app)["paths"][path]["post"]["requestBody"]["content"]
    media_type, described = next(iter(content.items()))
    answer = app.test_client().post(path, json=described["example"], content_type=media_type)
    assert (answer.status_code, answer.json) == (200, {"success": True})


def test_without_write_keys_the_document_has_no_security(app: Flask) -> None:
    assert "security" not in document(app)["paths"][TRACK]["post"]


def test_with_write_keys_the_document_has_the_ways_to_send_one() -> None:
    keyed = document(build_app(FakeBroker(), AccessSettings(keys=(WriteKey("web", "sesame"),))))
    track = keyed["paths"][TRACK]["post"]
    assert [list(way) for way in track["security"]] == [["bearer"], ["header"], ["query"]]
    assert "401" in track["responses"]


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/docs/swagger-ui-bundle.js", "/docs/page.css"])
def test_a_cached_page_is_not_sent_again(client: FlaskClient, path: str) -> None:
    first = client.get(path, buffered=True)
    assert (first.status_code, first.headers["Cache-Control"]) == (200, "no-cache")
    assert client.get(path, buffered=True, headers={"If-None-Match": first.headers["ETag"]}).status_code == 304


def test_the_page_may_load_nothing_from_other_hosts(client: FlaskClient) -> None:
    policy = client.get("/docs", buffered=True).headers["Content-Security-Policy"]
    sources = {source for directive in policy.split(";") for source in directive.split()[1:]}
    assert sources == {"'none'", "'self'", "data:"}


@pytest.mark.parametrize("name", ["nothing.js", "../openapi.py", "page.py"])
def test_no_other_file_is_served(client: FlaskClient, name: str) -> None:
    assert client.get(f"/docs/{name}").status_code == 404
