"""analytics.js and RudderStack's SDK for browsers, from npm, on pages in Chromium: what they are told lies in MongoDB.

No request goes through Playwright's routes, which answer a browser's questions about CORS themselves.
"""

import collections
import contextlib
import http.client
import http.server
import itertools
import json
import subprocess
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
import requests
from playwright.sync_api import Browser, BrowserContext, Page

from common.events import parse_timestamp
from tests.sdks.npm import npm_packages
from tests.servers import KafkaServer, MongoServer, Pipeline
from tests.sites import Site
from tests.waiting import eventually

KEY = "sesame"
SLOW_KEY = "patience"
NUMBERS = itertools.count(1)

SEGMENT = """<script src="/segment.js"></script><script>
    const options = Object.assign({ apiHost: HOST + "/v1", protocol: "http" }, OPTIONS);
    analytics = sdk.AnalyticsBrowser.load({ writeKey: KEY, cdnURL: API }, { integrations: { "Segment.io": options } });
</script>"""
SNIPPET = """<script>
    SNIPPET
    analytics._cdn = API;
    analytics.load(KEY, { integrations: { "Segment.io": { protocol: "http" } } });
</script>"""
RUDDER = """<script src="/rudder.js"></script><script>
    analytics = new sdk.RudderAnalytics();
    analytics.load(KEY, API, Object.assign({ configUrl: API }, OPTIONS));
</script>"""
TELL = """calls => {
    window.given = window.given || [];
    for (const [method, ...values] of JSON.parse(calls))
        analytics[method](...values, {}, (told) => given.push(told.event?.messageId ? told.event : told));
}"""
WHO = "async () => analytics.getAnonymousId?.() ?? (await analytics.user()).anonymousId()"


class Mode(NamedTuple):
    """A way to have an SDK on a page: the page, and the options that it is loaded with."""

    html: str
    options: dict[str, Any] = {}


SINGLE = Mode(SEGMENT)
KEEPALIVE = Mode(SEGMENT, {"deliveryStrategy": {"config": {"keepalive": True}}})
BATCHING = Mode(SEGMENT, {"deliveryStrategy": {"strategy": "batching", "config": {"size": 100, "timeout": 300}}})
XHR = Mode(RUDDER)
XHR_BATCHING = Mode(RUDDER, {"queueOptions": {"batch": {"enabled": True, "maxItems": 100, "flushInterval": 300}}})
BEACON = Mode(RUDDER, {"useBeacon": True, "beaconQueueOptions": {"flushQueueInterval": 300}})
MODES = {
    "analytics.js": SINGLE,
    "analytics.js by its snippet": Mode(SNIPPET),
    "analytics.js with keepalive": KEEPALIVE,
    "analytics.js batching": BATCHING,
    "rudderstack": XHR,
    "rudderstack batching": XHR_BATCHING,
    "rudderstack by beacons": BEACON,
}


class Scene:
    """The pipeline, and a site whose pages have the SDKs."""

    def __init__(self, kafka: KafkaServer, mongo: MongoServer, folder: Path, packages: Path) -> None:
        self.kafka = kafka
        keys = f"web={KEY},slow={SLOW_KEY};rate=20/s"
        self.pipeline = Pipeline(
            kafka, mongo, folder, API_KEYS=keys, API_WORKERS="1", CONSUMER_FLUSH_INTERVAL="100ms"
        )
        self.site = Site()
        for name in ("segment.js", "rudder.js"):
            self.site.pages[f"/{name}"] = (packages / "made" / name).read_text()
        analytics_js = packages / "node_modules/@segment/analytics-next/dist/umd/standalone.js"
        self.site.pages["/analytics.min.js"] = analytics_js.read_text()
        snippet = (packages / "made" / "snippet.js").read_text()
        self.snippet = snippet.replace("https://SITE", self.site.url).replace("YOUR_API_KEY", KEY)

    def end(self) -> None:
        self.site.close()
        self.pipeline.kill()


class Visitor:
    """Somebody with a browser of their own, on pages under a path of their own; and what is stored of them."""

    def __init__(self, browser: Browser, scene: Scene) -> None:
        self.scene = scene
        self.base = f"/visit-{next(NUMBERS)}"
        self.context: BrowserContext = browser.new_context()
        self.asked: list[str] = []
        self.said: list[str] = []
        self.context.on("request", lambda request: self.asked.append(request.url))
        self.context.on("console", lambda message: self.said.append(message.text))

    def open(self, mode: Mode, path: str = "/", *, key: str = KEY, api: str | None = None) -> Page:
        """A page with an SDK, in a tab of its own."""
        api = api or self.scene.pipeline.url
        html = f"<title>Shop – Größe {path}</title>{mode.html}"
        for name, value in {"OPTIONS": mode.options, "API": api, "HOST": urlsplit(api).netloc, "KEY": key}.items():
            html = html.replace(name, json.dumps(value))
        self.scene.site.pages[self.base + path] = html.replace("SNIPPET", self.scene.snippet)
        page = self.context.new_page()
        page.goto(f"{self.scene.site.url}{self.base}{path}?utm_source=letter")
        return page

    def documents(self) -> list[dict[str, Any]]:
        """What is stored of them, in the order in which it happened."""
        with self.scene.pipeline.events() as events:
            return list(events.find({"context.page.path": {"$regex": f"^{self.base}/"}}).sort("original_timestamp", 1))

    def stored(self, count: int, timeout: float = 40.0) -> list[dict[str, Any]]:
        """Waits until so many are stored of them, and fails if there are more."""
        with contextlib.suppress(AssertionError):
            eventually(lambda: len(self.documents()) >= count, timeout, every=0.1)
        found = self.documents()
        assert len(found) == count, (len(found), [event.get("event_name") for event in found[:20]], self.said[:20])
        return found

    def names(self, count: int, timeout: float = 40.0) -> list[str]:
        """The names of the events that are stored of them, once there are so many, sorted."""
        return sorted(event["event_name"] for event in self.stored(count, timeout))

    def leave(self) -> None:
        """Close the browser, and check what it asked for: nothing of others."""
        self.context.close()
        ours = (self.scene.site.url, "http://127.0.0.1:", "blob:", "data:")
        assert [url for url in self.asked if not url.startswith(ours)] == []


@pytest.fixture(scope="module")
def packages() -> Path:
    """The SDKs, and `made`: a file of each for pages."""
    folder = npm_packages(Path(__file__).parent.parent / "sdks" / "browser")
    bundle = ["node_modules/.bin/esbuild", "segment.js", "rudder.js", "--bundle", "--format=iife"]
    subprocess.run(
        [*bundle, "--global-name=sdk", "--outdir=made", "--log-level=warning"], cwd=folder, check=True, timeout=60
    )
    subprocess.run(["node", "snippet.cjs", "made/snippet.js"], cwd=folder, check=True, timeout=60)
    return folder


@pytest.fixture(scope="module")
def scene(
    packages: Path, kafka_libs: Path, mongo: MongoServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("browser-sdks")
    kafka = KafkaServer(kafka_libs, folder)
    kafka.start()
    scene = Scene(kafka, mongo, folder, packages)
    scene.pipeline.start()
    yield scene
    scene.end()
    kafka.kill()


@pytest.fixture
def visitor(browser: Browser, scene: Scene) -> Iterator[Visitor]:
    visitor = Visitor(browser, scene)
    yield visitor
    visitor.leave()


@pytest.fixture(params=MODES.values(), ids=MODES.keys())
def mode(request: pytest.FixtureRequest) -> Mode:
    mode: Mode = request.param
    return mode


# ── What is stored ──

ADDRESS = {"city": "Zürich", "zip": None, "lines": ["Größe 1", None, {"floor": 2}]}
PRODUCTS = [
    {"product_id": "507f1f77bcf86cd799439011", "name": "Größe 日本", "price": 19, "quantity": 1, "category": None},
    {"product_id": "505bd76785ebb509fc183733", "name": "Uno 🎉", "price": 3.25, "tags": [], "seller": {}},
]
ORDER = {"order_id": "50314b8e9bcf", "total": 27.5, "revenue": 25, "currency": "CHF", "products": PRODUCTS}
ODD: dict[str, Any] = {
    "$set": {"$inc": 1, "a.b": 2},
    "": "an empty key",
    "nul": "a\0b",
    "nul\0key": 1,
    "half": "a \ud83d character",
    "large": 12345678901234567890,
    "exact": 9007199254740991,
    "small": 1.5e-300,
    "long": "ß" * 5000,
    "a": {"b": {"c": {"d": [[[1, "two", None, True]]]}}},
}
CALLS: list[list[Any]] = [
    ["track", "Product Viewed", {"seen": True, "nothing": None}],
    ["identify", "ada", {"email": "ada@example.com", "plan": None, "address": ADDRESS, "$team": ["red", "blue"]}],
    ["track", "Order Completed", ORDER],
    ["track", "Product Added", {"product_id": "p1", "price": 12.75}],
    ["track", "Ünïcode 事件 🎉 /w $igns.and.dots", ODD],
    ["page", "Shop", "Checkout", {"step": 3, "url": "https://shop.example/checkout"}],
    ["group", "acme", {"name": "Acme Ltd", "employees": 12, "industries": ["toys", None]}],
    # Of somebody it knows, analytics.js always sends the id it knows.
    ["alias", "ada", "anon-42"],
]
# RudderStack has it on phones only.
SCREEN = ["screen", "Shop", "Basket", {"items": [1, 2, 3]}]
TYPES = {"Order Completed": "purchase", "Product Added": "add_to_cart", "page": "page_view"}
MENDED = {"$set": "\uff04set", "$inc": "\uff04inc", "$team": "\uff04team", "": "_", "nul\0key": "nul\ufffdkey"}


def storable(value: Any, *, nulls: bool = True) -> Any:
    """As it is stored; without the nulls of objects where the SDK leaves them out."""
    if isinstance(value, dict):
        kept = {key: inner for key, inner in value.items() if nulls or inner is not None}
        return {MENDED.get(key, key): storable(inner, nulls=nulls) for key, inner in kept.items()}
    if isinstance(value, list):
        return [storable(inner, nulls=nulls) for inner in value]
    if isinstance(value, str):
        return value.replace("\ud83d", "\ufffd")
    return float(value) if isinstance(value, int) and value > 2**63 else value


def check(document: dict[str, Any], call: Sequence[Any], given: dict[str, Any], anonymous_id: str) -> None:
    """Compare each field of what is stored with what the SDK was told, and what it made of it."""
    rest = dict(document)
    kind, *values = call
    rudder = "channel" in given
    made = {part: given.get(part) for part in ("context", "properties", "traits")}
    parts = {part: storable(value, nulls=not rudder) for part, value in made.items() if value is not None}
    if kind == "identify" and rudder:
        parts["traits"] = parts["context"]["traits"]
    told = storable(values[-1], nulls=not rudder)
    if kind != "alias":
        assert told.items() <= parts["traits" if kind in {"identify", "group"} else "properties"].items()
    if kind == "track":
        assert parts["properties"] == told
    for part, value in parts.items():
        assert rest.pop(part) == value, part
    assert document["context"]["page"]["title"] == "Shop – Größe /"
    assert document["context"]["campaign"]["source"] == "letter"
    name = {"track": values[0], "page": values[1], "screen": values[1]}.get(kind)
    assert rest.pop("event_name", None) == name
    assert rest.pop("event_type") == TYPES.get(name or "", TYPES.get(kind, "custom" if kind == "track" else kind))
    assert rest.pop("event_id") == given["messageId"]
    user_id = None if name == "Product Viewed" else "ada"
    assert rest.pop("user_id", None) == user_id
    assert rest.pop("anonymous_id") == anonymous_id
    assert rest.pop("customer_id") == (user_id or anonymous_id)
    assert rest.pop("group_id", None) == (values[0] if kind == "group" else None)
    assert rest.pop("previous_id", None) == (values[1] if kind == "alias" else None)
    happened = parse_timestamp(given.get("originalTimestamp") or given["timestamp"])
    assert rest.pop("timestamp") == rest.pop("original_timestamp") == happened
    for time in ("received_at", "processed_at", "sent_at"):
        assert abs(rest.pop(time) - datetime.now(UTC)) < timedelta(minutes=3)
    assert (rest.pop("protocol"), rest.pop("source")) == ("segment", "web")
    extra = rest.pop("extra")
    assert extra.pop("integrations") == given["integrations"]
    assert extra.keys() <= {"_metadata", "channel", "category"}
    assert rest.keys() == {"_id", "kafka"}


def test_each_call_is_stored_once_with_all_that_the_sdk_was_told(visitor: Visitor, mode: Mode) -> None:
    page = visitor.open(mode)
    calls = CALLS if mode.html == RUDDER else [*CALLS, SCREEN]
    # analytics.js would give the first one the userId too, which it learns before it sends it.
    for told in (calls[:1], calls):
        page.evaluate(TELL, json.dumps(told[-len(calls) + 1 :]))
        page.wait_for_function("count => given.length === count", arg=len(told))
    given = {message["messageId"]: message for message in json.loads(page.evaluate("JSON.stringify(given)"))}
    anonymous_id = page.evaluate(WHO)
    documents = {document["event_id"]: document for document in visitor.stored(len(calls))}
    assert documents.keys() == given.keys()
    of_call = {(message["type"], message.get("event")): message for message in given.values()}
    for call in calls:
        message = of_call[call[0], call[1] if call[0] == "track" else None]
        check(documents[message["messageId"]], call, message, anonymous_id)


# ── Many at once ──

BURST = """async ([count, properties]) => {
    for (let n = 0; n < count; n++) analytics.track(`event ${String(n).padStart(4, "0")}`, properties);
}"""


def numbered(count: int, first: int = 0) -> list[str]:
    return [f"event {number:04}" for number in range(first, count)]


# RudderStack keeps 100 by default: see below.
ROOMY = XHR._replace(options={"queueOptions": {"maxItems": 1000}})


@pytest.mark.parametrize(
    ("mode", "count"),
    [(SINGLE, 300), (BATCHING, 1000), (ROOMY, 300), (XHR_BATCHING, 1000), (BEACON, 300)],
    ids=["analytics.js", "analytics.js batching", "rudderstack", "rudderstack batching", "rudderstack by beacons"],
)
def test_many_events_at_once_are_stored_once(visitor: Visitor, mode: Mode, count: int) -> None:
    visitor.open(mode).evaluate(BURST, [count, {"list": [1, 2, 3]}])
    assert visitor.names(count) == numbered(count)


def test_rudderstack_itself_drops_what_its_queue_has_no_room_for(visitor: Visitor) -> None:
    """100 are under way, and the newest 100 wait."""
    page = visitor.open(XHR)
    page.evaluate(BURST, [1, {}])
    visitor.stored(1)
    page.evaluate(BURST, [400, {}])
    assert len(set(visitor.names(201))) == 200


# ── Pages that are left ──

LEAVE = "() => { location.href = '/elsewhere' }"


def leave(page: Page, count: int) -> None:
    page.evaluate(f"([count, properties]) => {{ ({BURST})([count, properties]); location.href = '/elsewhere' }}", [count, {}])
    page.wait_for_url("**/elsewhere")


@pytest.mark.parametrize(
    "mode",
    [KEEPALIVE, BATCHING, BEACON],
    ids=["analytics.js with keepalive", "analytics.js batching", "rudderstack by beacons"],
)
def test_what_a_page_was_told_before_it_is_left_is_stored(visitor: Visitor, mode: Mode) -> None:
    page = visitor.open(mode)
    page.evaluate(BURST, [1, {}])
    visitor.stored(1)
    leave(page, 20)
    assert visitor.names(21) == [*numbered(1), *numbered(20)]


@pytest.mark.parametrize("mode", [SINGLE, ROOMY], ids=["analytics.js", "rudderstack"])
def test_the_next_page_sends_what_the_last_could_not(visitor: Visitor, mode: Mode) -> None:
    page = visitor.open(mode)
    page.evaluate(BURST, [1, {}])
    visitor.stored(1)
    leave(page, 50)
    # As if ten seconds had passed: so long RudderStack takes the queue for that of another tab.
    page.evaluate("for (const key in localStorage) if (/ack$/.test(key)) localStorage[key] -= 11_000")
    visitor.open(mode, "/next")
    assert visitor.names(51) == [*numbered(1), *numbered(50)]
