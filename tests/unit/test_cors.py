"""CORS: the headers that tell a browser which pages may read an answer."""

from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient

from common.settings import AccessSettings
from common.write_keys import WriteKey
from tests.apps import running_app
from tests.fakes import FakeBroker

TRACK = "/api/v1/track"
EVENT = {"customer_id": "alice", "event_type": "click"}
SHOP = "https://shop.example"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,x-api-key"}


def client_of(*origins: str) -> Iterator[FlaskClient]:
    access = AccessSettings(keys=(WriteKey("web", "secret"),), origins=frozenset(origins))
    with running_app(FakeBroker(), access) as app:
        yield app.test_client()


@pytest.fixture
def client() -> Iterator[FlaskClient]:
    yield from client_of(SHOP, "http://localhost:3000")


@pytest.fixture
def open_client() -> Iterator[FlaskClient]:
    yield from client_of("*")


@pytest.fixture
def closed_client() -> Iterator[FlaskClient]:
    yield from client_of()


def test_a_preflight_from_a_listed_origin_is_answered_without_a_key(client: FlaskClient) -> None:
    answer = client.options(TRACK, headers={"Origin": SHOP, **PREFLIGHT})
    assert answer.status_code == 204
    assert answer.headers["Access-Control-Allow-Origin"] == SHOP
    assert answer.headers["Access-Control-Allow-Methods"] == "POST"
    allowed = answer.headers["Access-Control-Allow-Headers"].lower().split(", ")
    assert {"content-type", "content-encoding", "authorization", "x-api-key", "x-request-id"} == set(allowed)
    assert answer.headers["Access-Control-Max-Age"] == "7200"


def test_a_preflight_for_an_unknown_path_lets_the_page_read_the_404(client: FlaskClient) -> None:
    answer = client.options(f"{TRACK}/", headers={"Origin": SHOP, **PREFLIGHT})
    assert (answer.status_code, answer.data, answer.headers["Access-Control-Allow-Origin"]) == (204, b"", SHOP)


def test_a_preflight_from_another_origin_allows_nothing(client: FlaskClient) -> None:
    answer = client.options(TRACK, headers={"Origin": "https://evil.example", **PREFLIGHT})
    assert not [name for name in answer.headers.keys() if name.startswith("Access-Control")]  # noqa: SIM118, no dict


def test_an_answer_may_be_read_by_a_listed_origin(client: FlaskClient) -> None:
    answer = client.post(TRACK, json=EVENT, headers={"Origin": SHOP, "X-API-Key": "secret"})
    assert answer.status_code == 202
    assert answer.headers["Access-Control-Allow-Origin"] == SHOP
    assert answer.headers["Access-Control-Expose-Headers"] == "Retry-After, X-Request-ID"


@pytest.mark.parametrize(
    ("path", "method", "status"), [(TRACK, "POST", 401), (TRACK, "GET", 405), ("/api/v1/nowhere", "POST", 404)]
)
def test_an_error_may_be_read_too(client: FlaskClient, path: str, method: str, status: int) -> None:
    answer = client.open(path, method=method, json=EVENT, headers={"Origin": SHOP})
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (status, SHOP)


@pytest.mark.parametrize("origin", ["https://evil.example", "http://shop.example", f"{SHOP}.evil.example", "null", ""])
def test_no_other_origin_may_read(client: FlaskClient, origin: str) -> None:
    answer = client.post(TRACK, json=EVENT, headers={"Origin": origin, "X-API-Key": "secret"})
    assert answer.status_code == 202
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize("headers", [{}, {"Origin": SHOP}, {"Origin": "https://evil.example"}])
def test_answers_vary_by_origin_for_caches(client: FlaskClient, headers: dict[str, str]) -> None:
    assert client.post(TRACK, json=EVENT, headers=headers).headers["Vary"] == "Origin"


def test_a_star_allows_any_origin(open_client: FlaskClient) -> None:
    answer = open_client.post(TRACK, json=EVENT, headers={"Origin": "https://any.example", "X-API-Key": "secret"})
    assert (answer.headers["Access-Control-Allow-Origin"], "Vary" in answer.headers) == ("*", False)


def test_a_beacon_needs_no_preflight(client: FlaskClient) -> None:
    answer = client.post(
        f"{TRACK}?key=secret",
        data='{"customer_id":"alice","event_type":"click"}',
        content_type="text/plain;charset=UTF-8",
        headers={"Origin": "https://any.example"},
    )
    assert answer.status_code == 202


def test_only_the_paths_of_the_api_allow_other_origins(open_client: FlaskClient) -> None:
    assert "Access-Control-Allow-Origin" not in open_client.get("/metrics", headers={"Origin": SHOP}).headers


def test_without_origins_an_answer_has_no_cors_headers(closed_client: FlaskClient) -> None:
    answer = closed_client.options(TRACK, headers={"Origin": SHOP, **PREFLIGHT})
    assert not [name for name in answer.headers.keys() if name.startswith("Access-Control")]  # noqa: SIM118, no dict
