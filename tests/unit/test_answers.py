"""A table of the answers to each kind of request."""

import gzip
import json
import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from flask import Flask
from flask.testing import FlaskClient

from common.events import MAX_BATCH_BYTES, MAX_EVENT_BYTES
from tests.apps import TOPIC
from tests.fakes import FakeBroker

TRACK = "/api/v1/track"
BATCH = "/api/v1/track/batch"
PARTIAL = f"{BATCH}?partial=true"
EVENT = b'{"event_id":"e","customer_id":"a","event_type":"click"}'
NO_TYPE = b'{"customer_id":"a"}'
GZIP = {"Content-Encoding": "gzip"}
MISSING = "Missing data for required field."


def batch(*events: bytes) -> bytes:
    return b'{"events":[%s]}' % b",".join(events)


def zipped(*pieces: bytes) -> bytes:
    """The pieces as gzip, with a flush after each piece, as a streaming client sends them."""
    zipper = zlib.compressobj(wbits=31)
    return b"".join([*(zipper.compress(piece) + flushed(zipper) for piece in pieces), zipper.flush()])


def flushed(zipper: "zlib._Compress") -> bytes:
    return zipper.flush(zlib.Z_FULL_FLUSH) or b"\0\0\0\xff\xff"


def padded(length: int) -> bytes:
    return EVENT + b" " * (length - len(EVENT))


class Row(NamedTuple):
    """A request, and its answer: the status and the message, or the whole JSON of a 202."""

    what: str
    path: str
    body: bytes
    status: int
    answer: Any
    headers: Mapping[str, str] = MappingProxyType({})
    method: str = "POST"
    content_type: str | None = "application/json"


ACCEPTED = {"status": "accepted", "event_id": "e"}
ALL = {"status": "accepted", "count": 2, "event_ids": ["e", "e"]}
SOME = {
    "status": "accepted",
    "count": 1,
    "event_ids": [None, "e", None],
    "rejected": {"0": {"event_type": [MISSING]}, "2": ["Must be a JSON object."]},
}
TOO_LARGE = "The body may have at most 65536 bytes."
BATCH_TOO_LARGE = "The body may have at most 1048576 bytes."
UNZIPPED_TOO_LARGE = "The body may have at most 65536 bytes when decompressed."
NO_GZIP = "The body is not valid gzip, or it ended early."
ONE_MEMBER = "The body must be one gzip member, and nothing after it."
LARGER_ZIPPED = "The body is much larger than its contents: send it without gzip."
NOT_THAT = "Content-Type must be application/json."
NOT_HERE = "There is nothing here. Events go to POST /api/v1/track and POST /api/v1/track/batch; /docs describes them."
ONLY_POST = "This path takes POST."
LARGE_EVENT = b'{"customer_id":"a","event_type":"click","properties":{"a":"%s"}}' % (b"x" * MAX_EVENT_BYTES)
BOMB = gzip.compress(b" " * 20_000_000, compresslevel=1)

TABLE = [
    Row("an event", TRACK, EVENT, 202, ACCEPTED),
    Row("an event as large as allowed", TRACK, padded(MAX_EVENT_BYTES), 202, ACCEPTED),
    Row("an event too large", TRACK, padded(MAX_EVENT_BYTES + 1), 413, TOO_LARGE),
    Row("a wrong event", TRACK, NO_TYPE, 400, f"event_type: {MISSING}"),
    Row(
        "no JSON",
        TRACK,
        b"{]",
        400,
        "The body is not valid JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
    ),
    Row(
        "more text after the JSON",
        TRACK,
        EVENT + b"{}",
        400,
        "The body is not valid JSON: Extra data: line 1 column 56 (char 55)",
    ),
    Row("no body", TRACK, b"", 411, "The request needs a body, and a Content-Length that says how long it is."),
    Row("UTF-16", TRACK, EVENT.decode().encode("utf-16"), 400, "The body is not valid UTF-8."),
    Row("a name that is half a character", TRACK, b'{"\\ud800":1}', 400, f"customer_id: {MISSING}"),
    Row("a beacon", TRACK, EVENT, 202, ACCEPTED, content_type="text/plain;charset=UTF-8"),
    Row("a form", TRACK, EVENT, 415, NOT_THAT, content_type="application/x-www-form-urlencoded"),
    Row("XML", TRACK, b"<a/>", 415, NOT_THAT, content_type="application/xml"),
    Row("no content type", TRACK, EVENT, 415, NOT_THAT, content_type=None),
    Row("gzip", TRACK, gzip.compress(EVENT), 202, ACCEPTED, GZIP),
    Row("gzip under its old name", TRACK, gzip.compress(EVENT), 202, ACCEPTED, {"Content-Encoding": "X-GZIP"}),
    Row("gzip of several members", TRACK, gzip.compress(EVENT[:9]) + gzip.compress(EVENT[9:]), 400, ONE_MEMBER, GZIP),
    Row("gzip with padding after it", TRACK, gzip.compress(EVENT) + bytes(60_000), 400, ONE_MEMBER, GZIP),
    Row("gzip in pieces", TRACK, zipped(*(EVENT[at : at + 1] for at in range(len(EVENT)))), 202, ACCEPTED, GZIP),
    Row("gzip of nothing but flushes", BATCH, zipped(*[b""] * 40_000, EVENT), 400, LARGER_ZIPPED, GZIP),
    Row("gzip as large as allowed", TRACK, gzip.compress(padded(MAX_EVENT_BYTES)), 202, ACCEPTED, GZIP),
    Row("gzip too large", TRACK, gzip.compress(padded(MAX_EVENT_BYTES + 1)), 413, UNZIPPED_TOO_LARGE, GZIP),
    Row("a gzip bomb", BATCH, BOMB, 413, BATCH_TOO_LARGE[:-1] + " when decompressed.", GZIP),
    Row("half a gzip", TRACK, gzip.compress(EVENT)[:-9], 400, NO_GZIP, GZIP),
    Row("gzip with a wrong check sum", TRACK, gzip.compress(EVENT)[:-8] + bytes(8), 400, NO_GZIP, GZIP),
    Row("gzip with bytes after it", TRACK, gzip.compress(EVENT) + b"more", 400, ONE_MEMBER, GZIP),
    Row("zlib with the header of gzip", TRACK, zlib.compress(EVENT), 400, NO_GZIP, GZIP),
    Row("plain JSON with the header of gzip", TRACK, EVENT, 400, NO_GZIP, GZIP),
    Row("an empty gzip", TRACK, gzip.compress(b""), 400, "The body is empty.", GZIP),
    Row(
        "another encoding", TRACK, EVENT, 415, "Content-Encoding must be gzip, or left out.", {"Content-Encoding": "br"}
    ),
    Row("a batch", BATCH, batch(EVENT, EVENT), 202, ALL),
    Row("a batch too large", BATCH, padded(MAX_BATCH_BYTES + 1), 413, BATCH_TOO_LARGE),
    Row("a batch with a wrong event", BATCH, batch(EVENT, NO_TYPE), 400, f"events[1].event_type: {MISSING}"),
    Row("a batch with a large event", BATCH, batch(EVENT, LARGE_EVENT), 400, "events[1]: Larger than 65536 bytes."),
    Row("a batch of nothing", BATCH, batch(), 400, "events: Must hold 1 to 100 events."),
    Row("a batch of many", BATCH, batch(*[EVENT] * 101), 400, "events: Must hold 1 to 100 events."),
    Row("an event for a batch", BATCH, EVENT, 400, f"events: {MISSING}"),
    Row("a partial batch", PARTIAL, batch(NO_TYPE, EVENT, b"5"), 202, SOME),
    Row("a partial batch of valid events", PARTIAL, batch(EVENT, EVENT), 202, {**ALL, "rejected": {}}),
    Row("a partial batch of invalid events", PARTIAL, batch(NO_TYPE), 400, f"events[0].event_type: {MISSING}"),
    Row("a partial batch of many", PARTIAL, batch(*[EVENT] * 101), 400, "events: Must hold 1 to 100 events."),
    Row("no partial batch", f"{BATCH}?partial=false", batch(NO_TYPE, EVENT), 400, f"events[0].event_type: {MISSING}"),
    Row("a partial batch, perhaps", f"{BATCH}?partial=perhaps", batch(EVENT), 400, "partial: Must be true or false."),
    Row("a wrong path", "/nowhere", EVENT, 404, NOT_HERE),
    Row("a path with a slash too many", f"{TRACK}/", EVENT, 404, NOT_HERE),
    Row("a wrong method", TRACK, b"", 405, ONLY_POST, method="GET"),
    Row("another wrong method", BATCH, EVENT, 405, ONLY_POST, method="PUT"),
    Row("an unknown method", TRACK, EVENT, 405, ONLY_POST, method="BREW"),
    Row("a wrong method for a page", "/docs", EVENT, 405, "This path takes GET or HEAD."),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.what)
def test_each_request_gets_its_answer(client: FlaskClient, row: Row) -> None:
    answer = client.open(row.path, method=row.method, data=row.body, headers=row.headers, content_type=row.content_type)
    assert answer.json is not None
    assert (answer.status_code, answer.json if answer.status_code == 202 else answer.json["message"]) == (
        row.status,
        row.answer,
    )


@pytest.mark.parametrize("row", [row for row in TABLE if row.status != 202], ids=lambda row: row.what)
def test_every_error_has_the_same_form(client: FlaskClient, row: Row) -> None:
    headers = {**row.headers, "X-Request-ID": "r-1"}
    answer = client.open(row.path, method=row.method, data=row.body, headers=headers, content_type=row.content_type)
    assert answer.mimetype == "application/json"
    assert answer.json is not None
    assert list(answer.json) == ["status", "message", "errors", "request_id"]
    assert (answer.json["status"], answer.json["request_id"]) == ("error", "r-1")
    assert answer.headers["X-Request-ID"] == "r-1"
    assert answer.text == json.dumps(answer.json, separators=(",", ":")) + "\n"


def test_the_errors_are_by_field(client: FlaskClient) -> None:
    answer = client.post(TRACK, json={"customer_id": 1, "properties": {"$a": 1}, "context": {"a": {"": 1}}, "more": 1})
    assert answer.json is not None
    assert answer.json["errors"] == {
        "customer_id": ["Must be a string."],
        "event_type": [MISSING],
        "properties": {"$a": ["Must not begin with '$'."]},
        "context": {"a": {"": ["Length must be between 1 and 256."]}},
        "more": ["Unknown field."],
    }


def test_the_errors_of_a_batch_are_by_index(client: FlaskClient) -> None:
    answer = client.post(BATCH, data=batch(EVENT, NO_TYPE, b"null"), content_type="application/json")
    assert answer.json is not None
    assert answer.json["errors"] == {
        "events": {"1": {"event_type": [MISSING]}, "2": ["Field may not be null."]},
    }


def test_the_valid_events_of_a_partial_batch_reach_kafka(client: FlaskClient, app: Flask, broker: FakeBroker) -> None:
    client.post(PARTIAL, data=batch(NO_TYPE, EVENT), content_type="application/json")
    app.extensions["delivery"].stop(5)
    assert [json.loads(record.value or b"")["event_id"] for record in broker.records(TOPIC)] == ["e"]


def test_a_partial_batch_with_an_invalid_event_counts_as_invalid(client: FlaskClient) -> None:
    client.post(PARTIAL, data=batch(NO_TYPE, EVENT), content_type="application/json")
    client.post(PARTIAL, data=batch(EVENT), content_type="application/json")
    assert "pulse_api_validation_errors_total 1.0" in client.get("/metrics").text


def test_a_partial_batch_without_room_is_refused_as_a_whole(client: FlaskClient, broker: FakeBroker) -> None:
    broker.up = False
    assert client.post(BATCH, data=batch(*[EVENT] * 99), content_type="application/json").status_code == 202
    assert client.post(PARTIAL, data=batch(EVENT, EVENT, NO_TYPE), content_type="application/json").status_code == 503
    assert client.post(TRACK, data=EVENT, content_type="application/json").status_code == 202


def test_the_answer_to_an_unsupported_encoding_names_the_supported_one(client: FlaskClient) -> None:
    assert client.post(TRACK, json={}, headers={"Content-Encoding": "br"}).headers["Accept-Encoding"] == "gzip"
