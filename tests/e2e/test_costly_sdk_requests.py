"""Each request of an SDK, of up to 4.5 MiB, costs at most about a second of CPU."""

import gzip
from collections.abc import Callable
from typing import NamedTuple

import pytest
from flask import Flask

from api.protocols.paths import MAX_MESSAGES, MAX_SDK_BATCH_BYTES
from common.events import MAX_EVENT_BYTES
from tests.costs import readings
from tests.e2e.test_costly_requests import app, filled, keys, members, padded  # noqa: F401, a fixture

MOST_READINGS = 120
"""The worst batch here takes about 60."""
MOST_TOLD_BYTES = 160 * 1024
LARGE = MAX_SDK_BATCH_BYTES // (MAX_EVENT_BYTES - 100)
"""The number of messages of the largest size."""
EACH = (MAX_SDK_BATCH_BYTES - 100) // MAX_MESSAGES - 2
"""The size of each message in a batch with the maximum number of messages, in bytes."""


def batch(message: bytes, times: int = MAX_MESSAGES) -> bytes:
    return b'{"batch":[%s]}' % b",".join([message] * times)


def track(properties: bytes, more: bytes = b"") -> bytes:
    return b'{"type":"track","event":"e","userId":"u","properties":%s%s}' % (properties, more)


def large(unit: bytes, head: bytes = b'{"a":[', tail: bytes = b"]}") -> bytes:
    """A batch of messages of the maximum size, full of units."""
    return batch(track(filled(head, unit, tail, MAX_EVENT_BYTES - 200)), LARGE)


class Costly(NamedTuple):
    """A body that could be expensive for the API."""

    what: str
    body: Callable[[], bytes]


BODIES = [
    Costly("plain messages", lambda: batch(track(members(40, b"k", b'"%s"' % (b"x" * 30))))),
    Costly("tiny messages", lambda: batch(track(b"{}"))),
    Costly("invalid messages", lambda: batch(b'{"type":"track"}')),
    Costly("messages that are no objects", lambda: batch(b"0")),
    Costly("more messages than are accepted", lambda: filled(b'{"batch":[', b"{}", b"]}", MAX_SDK_BATCH_BYTES)),
    Costly("keys to repair in each", lambda: batch(track(keys(EACH - 60, prefix=b"$")))),
    Costly("keys to repair, as many as allowed", lambda: batch(track(members(990, b"$", b"0")), 280)),
    Costly("keys to repair, more than allowed", lambda: batch(track(keys(MAX_EVENT_BYTES - 200, prefix=b"$")), LARGE)),
    Costly("too many keys", lambda: batch(track(keys(MAX_EVENT_BYTES - 200)), LARGE)),
    Costly("keys that become the same", lambda: large(b'"$":1,"\\uff04":1,"$":2', b"{", b"}")),
    Costly("zeros", lambda: large(b"0")),
    Costly("zeros beside a key to repair", lambda: large(b"0", b'{"$":1,"a":[')),
    Costly("NaN", lambda: large(b"NaN")),
    Costly("one NaN and zeros", lambda: large(b"0", b'{"n":NaN,"a":[')),
    Costly("integers beyond 64 bits", lambda: large(b"99999999999999999999")),
    Costly("integers of hundreds of digits", lambda: large(b"9" * 290)),
    Costly("integers of thousands of digits", lambda: large(b"9" * 4000)),
    Costly("floats beyond the range", lambda: large(b"1e400")),
    Costly("half characters", lambda: large(rb'"\ud800"')),
    Costly("long texts of half characters", lambda: batch(track(padded(b'{"a":"', rb"\ud800", b'"}', 65_000)), LARGE)),
    Costly("keys of half characters", lambda: batch(track(padded(b'{"', rb"\ud800", b'":1}', 65_000)), LARGE)),
    Costly("empty objects", lambda: large(b"{}")),
    Costly("empty objects beside a NaN", lambda: large(b"{}", b'{"n":NaN,"a":[')),
    Costly("objects with an empty key", lambda: large(b'{"":0}')),
    Costly("objects a little too deep", lambda: large(b'{"a":' * 20 + b"1" + b"}" * 20)),
    Costly("objects a little too deep, with NaN", lambda: large(b'{"a":' * 20 + b"NaN" + b"}" * 20)),
    Costly("arrays far too deep", lambda: large(b"[" * 700 + b"]" * 700)),
    Costly("deep arrays beside texts", lambda: large(b"[" * 15 + b"[[]]" + b"]" * 15)),
    Costly(
        "traits that appear twice",
        lambda: batch(
            b'{"type":"identify","userId":"u","context":{"traits":%s}}' % filled(b'{"$":[', b"0", b"]}", 65_000), LARGE
        ),
    ),
    Costly(
        "other fields, as many as fit",
        lambda: batch(b'{"type":"track","event":"e","userId":"u",' + keys(65_000)[1:], LARGE),
    ),
    Costly(
        "invalid ids",
        lambda: batch(b'{"type":"track","event":%s}' % filled(b"[", b"0", b"]", 65_000), LARGE),
    ),
    Costly(
        "long ids", lambda: batch(b'{"type":"track","event":"e","userId":"u","messageId":"%s"}' % (b"x" * (EACH - 80)))
    ),
    Costly("a context for all", lambda: b'{"context":%s,%s' % (members(80, b"k", b"[1,2,3]"), batch(track(b"{}"))[1:])),
    Costly(
        "a large context for all",
        lambda: b'{"context":%s,%s' % (filled(b'{"a":[', b"0", b"]}", 60_000), batch(track(b"{}"))[1:]),
    ),
    Costly("malformed times", lambda: batch(track(b"{}", b',"timestamp":"%s"' % (b"2026-" * 300)))),
    Costly("one text", lambda: padded(b'{"batch":[{"a":"', b"x", b'"}]}', MAX_SDK_BATCH_BYTES)),
    Costly("nesting", lambda: b"[" * MAX_SDK_BATCH_BYTES),
    Costly("nothing but space", lambda: b" " * MAX_SDK_BATCH_BYTES),
]


@pytest.mark.parametrize("costly", BODIES, ids=lambda costly: costly.what)
def test_no_batch_costs_much(app: Flask, costly: Costly) -> None:  # noqa: F811, as above
    body = costly.body()
    assert len(body) <= MAX_SDK_BATCH_BYTES
    answers = []

    def post() -> None:
        answers.append(app.test_client().post("/v1/batch", data=body))

    assert readings(post, MOST_READINGS) < MOST_READINGS
    assert answers[0].status_code in {200, 400, 413}
    assert len(answers[0].data) < MOST_TOLD_BYTES


@pytest.mark.parametrize("costly", BODIES[5:8], ids=lambda costly: costly.what)
def test_no_zipped_batch_costs_much(app: Flask, costly: Costly) -> None:  # noqa: F811, as above
    body = gzip.compress(costly.body())
    assert readings(lambda: app.test_client().post("/v1/batch", data=body), MOST_READINGS) < MOST_READINGS
