"""/pulse.js as the API serves it. tests/e2e/test_snippet.py runs it in a browser."""

import gzip
import json

import pytest
from flask.testing import FlaskClient

from common.settings import AccessSettings
from common.write_keys import WriteKey
from tests.apps import build_app, take_accepted
from tests.fakes import FakeBroker

SNIPPET = "/pulse.js"
ZIPPED = {"Accept-Encoding": "gzip, br"}


def test_a_page_of_any_origin_can_load_it(client: FlaskClient) -> None:
    answer = client.get(SNIPPET)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"


def test_it_needs_no_key() -> None:
    keyed = build_app(FakeBroker(), AccessSettings(keys=(WriteKey("web", "sesame"),)))
    assert keyed.test_client().get(SNIPPET).status_code == 200


def test_any_cache_keeps_it_for_an_hour(client: FlaskClient) -> None:
    answer = client.get(SNIPPET)
    assert set(answer.headers["Cache-Control"].split(", ")) == {"public", "max-age=3600"}
    assert answer.headers["Vary"] == "Accept-Encoding"


def test_it_is_zipped_for_clients_that_accept_gzip(client: FlaskClient) -> None:
    zipped = client.get(SNIPPET, headers=ZIPPED)
    assert zipped.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(zipped.data) == client.get(SNIPPET).data


@pytest.mark.parametrize("accepted", ["identity", "br", "gzip;q=0"])
def test_it_is_plain_for_clients_that_do_not_accept_gzip(client: FlaskClient, accepted: str) -> None:
    answer = client.get(SNIPPET, headers={"Accept-Encoding": accepted})
    assert "Content-Encoding" not in answer.headers
    assert answer.data.startswith(b"(()=>{")


def test_zipped_it_is_smaller_than_two_and_a_half_kilobytes(client: FlaskClient) -> None:
    assert len(client.get(SNIPPET, headers=ZIPPED).data) < 2500


@pytest.mark.parametrize("headers", [{}, ZIPPED], ids=["plain", "zipped"])
def test_a_browser_with_a_cached_copy_does_not_get_it_again(client: FlaskClient, headers: dict[str, str]) -> None:
    first = client.get(SNIPPET, headers=headers)
    again = client.get(SNIPPET, headers={**headers, "If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    assert again.headers["Cache-Control"] == first.headers["Cache-Control"]


def test_the_plain_and_the_zipped_form_have_different_etags(client: FlaskClient) -> None:
    assert client.get(SNIPPET).headers["ETag"] != client.get(SNIPPET, headers=ZIPPED).headers["ETag"]


def test_its_clicks_are_accepted_in_batches() -> None:
    app = build_app(FakeBroker())
    click = {"type": "click", "event": "buy", "anonymousId": "a", "messageId": "m"}
    assert app.test_client().post("/v1/batch", json={"batch": [click]}).status_code == 200
    kept = json.loads(take_accepted(app)[0].value)
    assert (kept["event_type"], kept["event_name"], kept["event_id"]) == ("click", "buy", "m")


def test_a_click_without_a_name_is_refused(client: FlaskClient) -> None:
    answer = client.post("/v1/batch", json={"batch": [{"type": "click", "anonymousId": "a"}]})
    assert answer.status_code == 400
