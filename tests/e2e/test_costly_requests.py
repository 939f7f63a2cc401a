"""Each request costs little CPU, for any contents, so a few requests cannot keep a worker busy.

tests/costs.py measures it. test_costly_connections.py has the requests that need a socket.
"""

import gc
import gzip
import itertools
import zlib
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import pytest
from flask import Flask

from common.events import MAX_BATCH_BYTES, MAX_EVENT_BYTES
from common.garbage import collect_rarely
from tests.apps import build_app
from tests.costs import readings
from tests.fakes import FakeBroker

MOST_READINGS = 15
"""The worst request here takes about 6, the largest valid batch less than one."""
MOST_TOLD_BYTES = 32 * 1024
TRACK = "/api/v1/track"
BATCH = "/api/v1/track/batch"
PARTIAL = f"{BATCH}?partial=true"
EVENT = b'{"customer_id":"a","event_type":"click"}'
EACH = MAX_BATCH_BYTES // 100 - 20
"""The size of each of a hundred events, in bytes."""


@pytest.fixture(scope="module")
def app() -> Iterator[Flask]:
    """The app, with Python's garbage collector set as in a worker."""
    app = build_app(FakeBroker(), capacity=10_000_000)
    threshold = gc.get_threshold()
    collect_rarely()
    yield app
    gc.unfreeze()
    gc.set_threshold(*threshold)


class Costly(NamedTuple):
    """A request that could be expensive for the API."""

    what: str
    body: Callable[[], bytes]
    path: str = BATCH
    headers: Mapping[str, str] = MappingProxyType({})


def filled(head: bytes, unit: bytes, tail: bytes, size: int = MAX_BATCH_BYTES) -> bytes:
    """The head, units separated by commas up to the size, and the tail."""
    return head + b",".join([unit] * ((size - len(head) - len(tail) + 1) // (len(unit) + 1))) + tail


def padded(head: bytes, unit: bytes, tail: bytes, size: int = MAX_BATCH_BYTES) -> bytes:
    """The head, units without separators up to the size, and the tail."""
    return head + unit * ((size - len(head) - len(tail)) // len(unit)) + tail


def keys(size: int, value: bytes = b"0", prefix: bytes = b"") -> bytes:
    """An object of the given size, full of different keys."""
    members: list[bytes] = []
    left = size - 2
    for number in itertools.count():
        members.append(b'"%s%x":%s' % (prefix, number, value))
        left -= len(members[-1]) + 1
        if left < 0:
            return b"{%s}" % b",".join(members[:-1])
    raise AssertionError


def in_events(event: bytes, times: int = 100) -> bytes:
    return b'{"events":[%s]}' % b",".join([event] * times)


def with_properties(properties: bytes, event_type: bytes = b"click") -> bytes:
    return b'{"customer_id":"a","event_type":"%s","properties":%s}' % (event_type, properties)


def members(count: int, name: bytes, value: bytes) -> bytes:
    return b"{%s}" % b",".join(b'"%s%d":%s' % (name, number, value) for number in range(count))


ZIPPED = {"Content-Encoding": "gzip"}
EMPTY = gzip.compress(b"")
EMPTY_BLOCK = b"\0\0\0\xff\xff"
# Eight empty blocks with their own Huffman codes; eight, so that the last bit ends a byte.
CODED_BLOCK = bytes.fromhex(
    "04c081000000000090ff6b100007020000000040feaf41001c080000000000f9bf060170200000000000e4ff1a04c081000000000090ff6b100007020000000040feaf41001c080000000000f9bf060170200000000000e4ff1a"
)
GZIP_HEAD = EMPTY[:10]
GZIP_END = b"\x03\0" + bytes(8)


BODIES = [
    Costly("unknown fields in each event", lambda: in_events(keys(EACH))),
    Costly("unknown fields in one event", lambda: in_events(keys(MAX_BATCH_BYTES - 20), 1)),
    Costly("unknown fields in no event", lambda: keys(MAX_BATCH_BYTES)),
    Costly("unknown fields of a single event", lambda: keys(MAX_EVENT_BYTES), TRACK),
    Costly("unknown keys in each context", lambda: in_events(b'{"context":%s}' % keys(EACH - 12))),
    Costly(
        "many errors in each event",
        lambda: in_events(
            b'{"context":%s,"properties":%s,%s'
            % (members(32, b"$", b"0"), members(50, b"$", b"[]"), members(29, b"x", b"0")[1:])
        ),
    ),
    Costly("properties in one event", lambda: in_events(b'{"properties":%s}' % keys(MAX_BATCH_BYTES - 40), 1)),
    Costly("properties that are all invalid", lambda: in_events(with_properties(members(50, b"$", b"[]")))),
    Costly("long keys", lambda: in_events(padded(b'{"', b"k", b'":1}', EACH))),
    Costly("long keys of escapes", lambda: in_events(padded(b'{"', rb"\u0001", b'":1}', EACH))),
    Costly("long keys of half characters", lambda: in_events(padded(b'{"', rb"\ud800", b'":1}', EACH))),
    Costly("long keys of large characters", lambda: in_events(padded(b'{"', "😀".encode(), b'":1}', EACH))),
    Costly(
        "keys that are all different",
        lambda: (
            b'{"events":[%s]}'
            % b",".join(with_properties(members(50, b"k" * 100 + b"%d-" % number, b"1")) for number in range(100))
        ),
    ),
    Costly(
        "fifty properties, and an invalid type",
        lambda: in_events(with_properties(members(50, b"k" * 40, b'"%s"' % (b"x" * 140)), b"shout")),
    ),
    Costly(
        "null in every text", lambda: in_events(with_properties(members(50, b"k" * 40, b'"null%s"' % (b"x" * 140))))
    ),
    Costly("an endless integer", lambda: padded(b'{"events":[{"properties":{"a":', b"9", b"}}]}")),
    Costly("integers as long as Python reads them", lambda: filled(b"[", b"9" * 4300, b"]")),
    Costly("integers, and an endless one at the end", lambda: filled(b"[", b"9", b",%s]" % (b"9" * 5000))),
    Costly("objects, and an endless integer at the end", lambda: filled(b"[", b'{"":0}', b",%s]" % (b"9" * 5000))),
    Costly("integers that are nearly endless", lambda: filled(b"[", b"9" * 599, b"]")),
    Costly("floats beyond the range", lambda: filled(b"[", b"1e400", b"]")),
    Costly("floats that are hard to read", lambda: filled(b"[", b"2.2250738585072011e-308", b"]")),
    Costly("a float of endless digits", lambda: padded(b"[1.", b"9", b"e-300]")),
    Costly("a float of an endless exponent", lambda: padded(b"[1e", b"9", b"]")),
    Costly("deep nesting", lambda: b"[" * MAX_BATCH_BYTES),
    Costly("nesting as deep as can be read", lambda: filled(b'{"events":[', b"[" * 900 + b"]" * 900, b"]}")),
    Costly("nested objects", lambda: filled(b'{"events":[', b'{"a":' * 900 + b"1" + b"}" * 900, b"]}")),
    Costly(
        "a nested property in each event", lambda: in_events(with_properties(b'{"a":%s}' % (b"[" * 900 + b"]" * 900)))
    ),
    # ── Nested ──
    *(
        Costly(what, lambda part=part, end=end: in_events(filled(b'{"properties":{"a":[', part, end, EACH)))  # type: ignore[misc]
        for part in (
            b"0",
            b'""',
            b"[]",
            b"{}",
            b"[0]",
            b'{"a":0}',
            b'{"a":[{}]}',
            b"[" * 13 + b"]" * 13,
            b"1e400",
            b'{"$":{}}',
        )
        for what, end in (
            (f"many {part.decode():.20} in each event", EVENT[1:-1].join((b"]},", b"}"))),
            (f"many {part.decode():.20} in each event, all invalid", b"]}}"),
            (f"many {part.decode():.20} in each event, and an invalid value after them", b",1e400]}}"),
        )
    ),
    *(
        Costly(
            f"many {part.decode():.20} in one event, and an invalid value after them",
            lambda part=part: filled(b'{"events":[{"properties":{"a":[', part, b",1e400]}}]}"),  # type: ignore[misc]
        )
        for part in (b"0", b'""', b'"\xc3\xa9"', b"[]", b"{}", b"[0]", b"[" * 13 + b"]" * 13, b"1e400", b"9" * 20)
    ),
    Costly("many keys in each event", lambda: in_events(with_properties(keys(EACH - 60)))),
    Costly(
        "many keys in many objects", lambda: in_events(with_properties(filled(b'{"a":[', keys(500), b"]}", EACH - 60)))
    ),
    Costly(
        "many invalid keys in each object of each event",
        lambda: in_events(
            b'{"context":%s,"properties":%s,"traits":%s}'
            % ((members(250, b"$", b"{}"), members(250, b"$", b"1e999"), members(250, b"$", b"[1e999]")))
        ),
    ),
    Costly(
        "objects of the maximum depth",
        lambda: in_events(with_properties(filled(b'{"a":[', b'{"a":' * 14 + b"1" + b"}" * 14, b"]}", EACH - 60))),
    ),
    Costly(
        "long keys on the way to each fault",
        lambda: in_events(with_properties(filled(b"{", b'"%s":' % (b"k" * 250) + b'{"$":0}', b"}", EACH - 60))),
    ),
    *(
        Costly(f"many {unit.decode()}", lambda unit=unit: filled(b'{"events":[', unit, b"]}"))  # type: ignore[misc]
        for unit in (b"{}", b"[]", b"0", b"null", b'""', b'{"":{}}', b"[[]]", b"[0]", EVENT)
    ),
    Costly("many of the same key", lambda: filled(b'{"events":[{', b'"a":1', b"}]}")),
    Costly("many lists of events", lambda: filled(b"{", b'"events":[%s]' % b",".join([EVENT] * 100), b"}")),
    Costly("many lists of invalid events", lambda: filled(b"{", b'"events":[%s]' % b",".join([b"{}"] * 100), b"}")),
    Costly("nothing but space", lambda: b" " * MAX_BATCH_BYTES),
    Costly("events after much space", lambda: b" " * (MAX_BATCH_BYTES - 5_000) + in_events(EVENT)),
    Costly("lines before an error", lambda: b"\n" * (MAX_BATCH_BYTES - 1) + b"x"),
    Costly("bad UTF-8 at the end", lambda: b"a" * (MAX_BATCH_BYTES - 1) + b"\xff"),
    Costly("a text of half characters", lambda: padded(b'{"events":[{"properties":{"a":"', rb"\ud800", b'"}}]}')),
    Costly("a text of escapes", lambda: padded(b'{"events":[{"properties":{"a":"', rb"\n", b'"}}]}')),
    Costly(
        "texts that grow when encoded",
        lambda: in_events(with_properties(padded(b'{"a":"', rb"\u0001", b'"}', EACH - 80))),
    ),
    Costly(
        "times of endless digits",
        lambda: in_events(padded(EVENT[:-1] + b',"timestamp":"2026-01-31T12:00:00.', b"9", b'Z"}', EACH)),
    ),
    Costly("malformed times", lambda: in_events(padded(EVENT[:-1] + b',"timestamp":"', b"2026-", b'"}', EACH))),
    Costly(
        "a customer of spaces", lambda: in_events(padded(b'{"event_type":"click","customer_id":"', b" ", b'"}', EACH))
    ),
    Costly("an id of spaces", lambda: in_events(padded(EVENT[:-1] + b',"event_id":"', b" ", b'"}', EACH))),
    Costly("a type that is a list", lambda: in_events(filled(b'{"event_type":[', b"1", b"]}", EACH))),
    # ── Zipped ──
    Costly("gzip of many empty members", lambda: padded(b"", EMPTY, b""), headers=ZIPPED),
    Costly("gzip of many empty blocks", lambda: padded(GZIP_HEAD, EMPTY_BLOCK, GZIP_END), headers=ZIPPED),
    Costly("gzip of many coded blocks", lambda: padded(GZIP_HEAD, CODED_BLOCK, GZIP_END), headers=ZIPPED),
    Costly("gzip and padding", lambda: padded(gzip.compress(EVENT), b"\0", b""), headers=ZIPPED),
    Costly(
        "gzip with a long name", lambda: padded(b"\x1f\x8b\x08\x08" + bytes(6), b"n", b"\0" + GZIP_END), headers=ZIPPED
    ),
    Costly("gzip of gzip", lambda: gzip.compress(padded(b"", EMPTY, b"")), headers=ZIPPED),
    Costly("a gzip bomb", lambda: gzip.compress(bytes(50_000_000), 9), headers=ZIPPED),
    Costly("gzip of unknown fields", lambda: gzip.compress(keys(MAX_BATCH_BYTES)), headers=ZIPPED),
    Costly(
        "gzip that compresses nothing", lambda: zlib.compress(bytes(MAX_BATCH_BYTES - 1_000), 0, 31), headers=ZIPPED
    ),
    # ── Heads: gunicorn takes URLs of 4 KB and headers of 8 KB ──
    *(
        Costly(f"a query of many {unit}", lambda: b"{}", f"{BATCH}?{unit * (4000 // len(unit))}")
        for unit in ("&", "a=&", "%41", "partial=true&", "key=a&", ";", "=")
    ),
    *(
        Costly(f"a path of many {unit}", lambda: b"{}", f"{base}{unit * (4000 // len(unit))}")
        for base, unit in itertools.product(("/", "/docs/", "/api/v1/track/"), ("a/", "../", "/", "%2f", "%2e."))
    ),
    *(
        Costly(f"{name}: {unit}…", lambda: EVENT, TRACK, {name: head + unit * ((8000 - len(head)) // len(unit))})
        for name, head, unit in (
            ("Content-Type", "application/json", ";a=b"),
            ("Content-Type", "application/json", ";"),
            ("Content-Type", "application/json;a=", '"'),
            ("Content-Type", 'application/json;a="', "\\\\"),
            ("Content-Type", "application/json;", "a*0=b;"),
            ("Content-Type", "", " "),
            ("Content-Encoding", "", "gzip,"),
            ("Authorization", "Bearer ", " "),
            ("Accept", "", "a/b;q=0.5,"),
            ("X-Request-ID", "", "a"),
            ("Cookie", "", "a=b;"),
            ("Host", "", "a."),
            ("If-None-Match", "", '"a",'),
            ("Origin", "", "a"),
        )
    ),
]
PAGES = [
    Costly(f"{path} with {name}: {unit}…", lambda: b"", path, {name: head + unit * ((8000 - len(head)) // len(unit))})
    for path in ("/metrics", "/openapi.json", "/docs", "/docs/page.css", "/pulse.js")
    for name, head, unit in (
        ("Accept", "", "a/b;q=0.5,"),
        ("Accept-Encoding", "", "br;q=0.5,"),
        ("If-None-Match", "", '"a",'),
        ("If-None-Match", '"', "a"),
        ("If-Modified-Since", "", "1 "),
        ("Range", "bytes=", "0-1,"),
        ("Cache-Control", "", "a=b,"),
    )
]


@pytest.mark.parametrize("costly", BODIES, ids=lambda costly: costly.what)
def test_no_post_costs_much(app: Flask, costly: Costly) -> None:
    client = app.test_client()
    body = costly.body()
    assert len(body) <= MAX_BATCH_BYTES
    for path in (costly.path, PARTIAL) if costly.path == BATCH else (costly.path,):
        answers = []

        def post(path: str = path) -> None:
            headers = {"Content-Type": "application/json", **costly.headers}
            answers.append(client.post(path, data=body, headers=headers))  # noqa: B023

        assert readings(post, MOST_READINGS) < MOST_READINGS
        assert len(answers[0].data) < MOST_TOLD_BYTES


@pytest.mark.parametrize("costly", PAGES, ids=lambda costly: costly.what)
def test_no_get_costs_much(app: Flask, costly: Costly) -> None:
    client = app.test_client()

    def get() -> None:
        client.get(costly.path, headers=costly.headers, buffered=True)

    assert readings(get, MOST_READINGS) < MOST_READINGS
