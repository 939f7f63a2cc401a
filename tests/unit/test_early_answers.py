"""Answers that the server gives before the app: they have the form of the app's answers, for SDKs and other clients."""

import json

import pytest

from api.auth import Cors
from api.server.early_answers import CROWDED, ENDLESS, SLOW, Refusal, answer, for_path, path_of

SHOP = "https://shop.example"
ANY = Cors(frozenset(), frozenset({"*"}))


def head(path: str) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nOrigin: {SHOP}\r\nAuthorization: Basic a2V5Og==\r\n\r\n".encode()


def told(path: str) -> tuple[list[str], dict[str, object]]:
    """The lines of the head, and the body, of a refusal for lack of room."""
    sent = answer(for_path(CROWDED, path_of(head(path))), head(path), "crowded", ANY, "id")
    lines, _, body = sent.decode().partition("\r\n\r\n")
    return lines.split("\r\n"), json.loads(body)


@pytest.mark.parametrize("path", ["/v1/batch", "/v1/t?writeKey=x", "/beacon/v1/batch", "/api/v1/cloudevents"])
def test_a_busy_server_answers_sdks_429_in_their_form_readable_by_pages(path: str) -> None:
    lines, body = told(path)
    assert lines[0] == "HTTP/1.1 429 Too Many Requests"
    assert f"Access-Control-Allow-Origin: {SHOP}" in lines
    assert any(line.startswith("Access-Control-Expose-Headers: Retry-After") for line in lines)
    assert (body["success"], body["code"], body["status"]) == (False, "crowded", "error")
    seconds = next(line.removeprefix("Retry-After: ") for line in lines if line.startswith("Retry-After"))
    assert body["message"] == f"Server busy receiving other requests; try again in {seconds} s."


def test_a_busy_server_answers_other_clients_503() -> None:
    lines, body = told("/api/v1/track")
    assert lines[0] == "HTTP/1.1 503 Service Unavailable"
    assert "Retry-After: 1" in lines
    assert "success" not in body
    assert not any("Access-Control" in line for line in lines)


@pytest.mark.parametrize("refusal", [SLOW, ENDLESS])
def test_other_refusals_are_the_same_for_all(refusal: Refusal) -> None:
    assert for_path(refusal, "/v1/batch") == for_path(refusal, "/api/v1/track") == refusal


@pytest.mark.parametrize("begin", [b"", b"\xff", b"GET", b"GET ", b"\r\n\r\n", b"POST /v1/b"])
def test_an_incomplete_head_is_answered_by_the_path_that_it_has(begin: bytes) -> None:
    assert path_of(begin) in {"", "/v1/b"}
    assert answer(SLOW, begin, "too_slow", ANY, "id").startswith(b"HTTP/1.1 408 ")
