"""analytics.js and RudderStack's SDK for browsers, from npm, on pages in Chromium: MongoDB stores all of their calls.

No request goes through Playwright's routes, which would answer CORS preflights themselves.
"""

import collections
import contextlib
import http.client
import http.server
import itertools
import json
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
import requests
from playwright.sync_api import Browser, BrowserContext, Page

from common.events import parse_timestamp
from tests.sdks.installed import node_modules
from tests.servers import KafkaServer, MongoServer, Pipeline
from tests.sites import Site
from tests.waiting import eventually

KEY = "sesame"
SLOW_KEY = "patience"
NUMBERS = itertools.count(1)

SEGMENT = """<script src="/segment.js"></script><script>
    const options = Object.assign({ apiHost: HOST + "/v1", protocol: "http" }, OPTIONS);
    const integrations = { "Segment.io": options };
    analytics = AnalyticsNext.AnalyticsBrowser.load({ writeKey: KEY, cdnURL: API }, { integrations });
</script>"""
SNIPPET = """<script>
    SNIPPET
    analytics._cdn = API;
    analytics.load(KEY, { integrations: { "Segment.io": { protocol: "http" } } });
</script>"""
RUDDER = """<script src="/rudder.js"></script><script>
    analytics = new rudderanalytics.RudderAnalytics();
    analytics.load(KEY, API, Object.assign({ configUrl: API }, OPTIONS));
</script>"""
TELL = """calls => {
    window.given = window.given || [];
    for (const [method, ...values] of JSON.parse(calls))
        analytics[method](...values, {}, (told) => given.push(told.event?.messageId ? told.event : told));
}"""
WHO = "async () => analytics.getAnonymousId?.() ?? (await analytics.user()).anonymousId()"


# The files of the site: path, and file in the packages.
FILES = {
    "/segment.js": "@segment/analytics-next/dist/umd/index.js",
    "/analytics.min.js": "@segment/analytics-next/dist/umd/standalone.js",
    "/rudder.js": "@rudderstack/analytics-js/dist/npm/modern/bundled/umd/index.js",
}


class Mode(NamedTuple):
    """An SDK on a page: the page's HTML, and the options of the SDK."""

    html: str
    options: Mapping[str, Any] = MappingProxyType({})


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
        self.pipeline = Pipeline(kafka, mongo, folder, API_KEYS=keys, API_WORKERS="1", CONSUMER_FLUSH_INTERVAL="100ms")
        self.site = Site()
        for path, file in FILES.items():
            self.site.pages[path] = (packages / file).read_text()
        # The snippet that Segment gives to its customers, with our site in place of Segment's CDN.
        options = {"host": "SITE", "ajsPath": "/analytics.min.js", "apiKey": KEY, "page": False, "load": False}
        program = f"require('@segment/snippet').min({json.dumps(options)})"
        made = subprocess.run(
            ["node", "-p", program], cwd=packages.parent, check=True, timeout=60, capture_output=True, text=True
        )
        self.snippet = made.stdout.replace("https://SITE", self.site.url)

    def end(self) -> None:
        self.site.close()
        self.pipeline.kill()


class Visitor:
    """A visitor with a browser of their own, on pages under a path of their own, and their stored events."""

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
        for name, value in {
            "OPTIONS": dict(mode.options),
            "API": api,
            "HOST": urlsplit(api).netloc,
            "KEY": key,
        }.items():
            html = html.replace(name, json.dumps(value))
        self.scene.site.pages[self.base + path] = html.replace("SNIPPET", self.scene.snippet)
        page = self.context.new_page()
        page.goto(f"{self.scene.site.url}{self.base}{path}?utm_source=letter")
        return page

    def tracked(self) -> int:
        """How many requests their SDKs have begun for single events."""
        return sum(url.endswith(("/v1/t", "/v1/track")) for url in self.asked)

    def documents(self) -> list[dict[str, Any]]:
        """Their stored events, in order of time."""
        with self.scene.pipeline.events() as events:
            return list(events.find({"context.page.path": {"$regex": f"^{self.base}/"}}).sort("original_timestamp", 1))

    def stored(self, count: int, timeout: float = 40.0) -> list[dict[str, Any]]:
        """Wait until N of their events are stored; fails if there are more."""
        with contextlib.suppress(AssertionError):
            eventually(lambda: len(self.documents()) >= count, timeout, every=0.1)
        found = self.documents()
        assert len(found) == count, (len(found), [event.get("event_name") for event in found[:20]], self.said[:20])
        return found

    def names(self, count: int, timeout: float = 40.0) -> list[str]:
        """The names of their stored events, once there are N, sorted."""
        return sorted(event["event_name"] for event in self.stored(count, timeout))

    def wait(self, condition: Callable[[], Any], what: str) -> None:
        """Wait until it is true, while Playwright handles the browser's messages."""

        def came_true() -> Any:
            self.context.pages[0].wait_for_timeout(20)
            return condition()

        eventually(came_true, what=what)

    def leave(self) -> None:
        """Close the browser, and check that it sent no request to other hosts."""
        self.context.close()
        ours = (self.scene.site.url, "http://127.0.0.1:", "blob:", "data:")
        assert [url for url in self.asked if not url.startswith(ours)] == []


@pytest.fixture(scope="module")
def scene(kafka_libs: Path, mongo: MongoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    packages = node_modules("browser")
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


@pytest.fixture(params=list(MODES.values()), ids=list(MODES))
def mode(request: pytest.FixtureRequest) -> Mode:
    mode: Mode = request.param
    return mode


# ── Stored events ──

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
    # For a known user, analytics.js always sends the known id.
    ["alias", "ada", "anon-42"],
]
# RudderStack's SDK has this call on phones only.
SCREEN = ["screen", "Shop", "Basket", {"items": [1, 2, 3]}]
TYPES = {"Order Completed": "purchase", "Product Added": "add_to_cart", "page": "page_view"}
MENDED = {"$set": "\uff04set", "$inc": "\uff04inc", "$team": "\uff04team", "": "_", "nul\0key": "nul\ufffdkey"}


def storable(value: Any, *, nulls: bool = True) -> Any:
    """The value as stored; without the nulls of objects, if the SDK omits them."""
    if isinstance(value, dict):
        kept = {key: inner for key, inner in value.items() if nulls or inner is not None}
        return {MENDED.get(key, key): storable(inner, nulls=nulls) for key, inner in kept.items()}
    if isinstance(value, list):
        return [storable(inner, nulls=nulls) for inner in value]
    if isinstance(value, str):
        return value.replace("\ud83d", "\ufffd")
    return float(value) if isinstance(value, int) and value > 2**63 else value


def check(document: dict[str, Any], call: Sequence[Any], given: dict[str, Any], anonymous_id: str) -> None:
    """Compare each field of a stored event with the call, and with the message that the SDK made of it."""
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


def test_each_call_is_stored_once_with_all_its_values(visitor: Visitor, mode: Mode) -> None:
    page = visitor.open(mode)
    calls = CALLS if mode.html == RUDDER else [*CALLS, SCREEN]
    # analytics.js would put the userId into the first message too, since it learns it before it sends.
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


ALONE = {
    "analytics.js": Mode(
        SEGMENT.replace("cdnURL: API", 'cdnSettings: { integrations: { "Segment.io": { apiKey: KEY } } }')
    ),
    "rudderstack": Mode(
        RUDDER.replace(
            "configUrl: API",
            'getSourceConfig: () => ({ source: { id: "w", name: "w", enabled: true, config: {}, destinations: [] } })',
        )
    ),
}


@pytest.mark.parametrize("mode", ALONE.values(), ids=ALONE.keys())
def test_a_page_can_contain_the_settings(visitor: Visitor, mode: Mode) -> None:
    """Otherwise the SDKs send nothing from a page that was opened while the API was unavailable."""
    visitor.open(mode).evaluate(BURST, [3, {}])
    assert visitor.names(3) == numbered(3)
    assert not [url for url in visitor.asked if "/settings" in url or "/sourceConfig" in url]


# ── Many at once ──

BURST = """async ([count, properties]) => {
    for (let n = 0; n < count; n++) analytics.track(`event ${String(n).padStart(4, "0")}`, properties);
}"""


def numbered(count: int, first: int = 0) -> list[str]:
    return [f"event {number:04}" for number in range(first, count)]


@pytest.mark.parametrize(
    ("mode", "count"),
    [(SINGLE, 200), (BATCHING, 200), (XHR, 100), (XHR_BATCHING, 200), (BEACON, 30)],
    ids=["analytics.js", "analytics.js batching", "rudderstack", "rudderstack batching", "rudderstack by beacons"],
)
def test_many_events_at_once_are_stored_once(visitor: Visitor, mode: Mode, count: int) -> None:
    visitor.open(mode).evaluate(BURST, [count, {"list": [1, 2, 3]}])
    assert visitor.names(count) == numbered(count)


def test_rudderstack_itself_drops_events_beyond_its_queue(visitor: Visitor) -> None:
    """It keeps N events in flight and the newest N waiting; by default, N is 100."""
    page = visitor.open(Mode(RUDDER, {"queueOptions": {"maxItems": 20}}))
    page.evaluate(BURST, [1, {}])
    visitor.stored(1)
    page.evaluate(BURST, [60, {}])
    assert visitor.names(41) == sorted([*numbered(1), *numbered(20), *numbered(60, 40)])


def test_rudderstack_itself_drops_events_that_do_not_fit_into_beacons(visitor: Visitor) -> None:
    """The limit of browsers for beacons is 64 KiB at once."""
    visitor.open(BEACON).evaluate(BURST, [10, {"text": "x" * 20_000}])
    visitor.wait(lambda: "will be dropped" in str(visitor.said), "a message in the console")
    assert len(visitor.documents()) < 10


# ── Leaving a page ──


def test_with_keepalive_requests_in_flight_outlive_their_page(visitor: Visitor, gate: "Gate") -> None:
    gate.hold()
    page = visitor.open(KEEPALIVE, api=gate.url)
    page.evaluate(BURST, [6, {}])
    visitor.wait(lambda: gate.held == 6, "requests")
    page.goto(f"{visitor.scene.site.url}/elsewhere")
    gate.release()
    assert visitor.names(6) == numbered(6)


@pytest.mark.parametrize("mode", [BATCHING, BEACON], ids=["analytics.js", "rudderstack by beacons"])
def test_incomplete_batches_are_sent_when_the_visitor_leaves_the_page(visitor: Visitor, mode: Mode) -> None:
    patient = {
        "deliveryStrategy": {"strategy": "batching", "config": {"size": 100, "timeout": 60_000}},
        "useBeacon": True,
        "beaconQueueOptions": {"maxItems": 100, "flushQueueInterval": 60_000},
    }
    page = visitor.open(mode._replace(options=patient))
    page.evaluate(TELL, json.dumps([["track", name, {}] for name in numbered(20)]))
    page.wait_for_function("given.length === 20")
    page.goto(f"{visitor.scene.site.url}/elsewhere")
    assert visitor.names(20) == numbered(20)


@pytest.mark.parametrize("mode", [SINGLE, XHR], ids=["analytics.js", "rudderstack"])
def test_the_next_page_sends_what_the_last_could_not(visitor: Visitor, gate: "Gate", mode: Mode) -> None:
    gate.hold()
    page = visitor.open(mode, api=gate.url)
    page.evaluate(BURST, [20, {}])
    # Both SDKs lose the calls that they have not yet taken up when the visitor leaves.
    visitor.wait(lambda: visitor.tracked() == 20, "a request for each event")
    page.goto(f"{visitor.scene.site.url}/elsewhere")
    # Pretend that ten seconds have passed; before that, RudderStack's SDK leaves the queue to the other tab.
    page.evaluate("for (const key in localStorage) if (/ack$/.test(key)) localStorage[key] -= 11_000")
    gate.release()
    visitor.open(mode, "/next", api=gate.url)
    assert visitor.names(20) == numbered(20)


# ── Failures ──


class Gate(http.server.ThreadingHTTPServer):
    """A proxy of the API: passes requests on, or follows `script` for the next requests with events."""

    daemon_threads = True

    def __init__(self, api: str) -> None:
        self.api = urlsplit(api)
        self.script: collections.deque[str] = collections.deque()
        self.statuses: collections.Counter[int] = collections.Counter()
        self.held = 0
        self._open = threading.Event()
        self._open.set()
        super().__init__(("127.0.0.1", 0), _GateHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def hold(self) -> None:
        """Hold all requests with events until `release`."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def wait(self) -> None:
        if not self._open.is_set():
            self.held += 1
            self._open.wait(30)

    def ask(self, request: "_GateHandler") -> tuple[int, list[tuple[str, str]], bytes]:
        """The API's answer."""
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        assert self.api.hostname
        with contextlib.closing(http.client.HTTPConnection(self.api.hostname, self.api.port, timeout=20)) as connection:
            connection.request(request.command, request.path, body, dict(request.headers.items()))
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors: the browser or the API has closed the connection."""

    def close(self) -> None:
        self.release()
        self.shutdown()
        self.server_close()


class _GateHandler(http.server.BaseHTTPRequestHandler):
    server: Gate

    def _pass_on(self) -> None:
        what = ""
        if self.command == "POST" and "/m" not in self.path:
            self.server.wait()
            with contextlib.suppress(IndexError):
                what = self.server.script.popleft()
        if what == "close":
            return
        status, headers, body = self.server.ask(self) if what != "500" else self._broken()
        self.server.statuses[status] += 1
        if what == "lose the answer":
            return
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in {"connection", "transfer-encoding"}:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_OPTIONS = _pass_on  # noqa: N815, their names there

    def _broken(self) -> tuple[int, list[tuple[str, str]], bytes]:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return 500, [("Access-Control-Allow-Origin", self.headers.get("Origin", ""))], b"{}"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002, its name there
        pass


@pytest.fixture
def gate(scene: Scene) -> Iterator[Gate]:
    gate = Gate(scene.pipeline.url)
    yield gate
    gate.close()


# Options for shorter waits before a retry.
SOON = {"backoffConfig": {"baseBackoffInterval": 0.1}, "rateLimitConfig": {"maxRetryInterval": 1}}
QUICK = Mode(SEGMENT, {"httpConfig": SOON})
QUICK_BATCHING = Mode(
    SEGMENT, {"httpConfig": SOON, "deliveryStrategy": {"strategy": "batching", "config": {"size": 10, "timeout": 300}}}
)
QUICK_XHR = Mode(RUDDER, {"queueOptions": {"minRetryDelay": 100}})
QUICK_XHR_BATCHING = Mode(
    RUDDER, {"queueOptions": {"minRetryDelay": 100, "batch": {"enabled": True, "maxItems": 10, "flushInterval": 300}}}
)
PLAIN = pytest.mark.parametrize(
    "mode",
    [QUICK, QUICK_BATCHING, QUICK_XHR, QUICK_XHR_BATCHING],
    ids=["analytics.js", "analytics.js batching", "rudderstack", "rudderstack batching"],
)


@PLAIN
def test_a_failed_request_is_sent_again_and_stored_once(visitor: Visitor, gate: Gate, mode: Mode) -> None:
    gate.script.extend(["lose the answer", "500", "close"])
    visitor.open(mode, api=gate.url).evaluate(BURST, [3, {}])
    visitor.wait(lambda: not gate.script, "three failures")
    assert visitor.names(3) == numbered(3)


@PLAIN
def test_events_over_the_rate_of_their_key_are_stored_later(visitor: Visitor, gate: Gate, mode: Mode) -> None:
    """The key may send 20 events a second, and another client has just sent 60."""
    page = visitor.open(mode, api=gate.url, key=SLOW_KEY)
    page.evaluate(BURST, [1, {}])
    visitor.stored(1)
    others = [{"type": "track", "event": "other", "userId": "other"}] * 60
    answer = requests.post(
        f"{gate.api.geturl()}/v1/batch", json={"batch": others}, headers={"X-API-Key": SLOW_KEY}, timeout=20
    )
    assert answer.ok
    page.evaluate(BURST, [5, {}])
    assert visitor.names(6) == sorted([*numbered(1), *numbered(5)])
    assert gate.statuses[429] > 0


@PLAIN
def test_a_refused_message_does_not_affect_others(visitor: Visitor, gate: Gate, mode: Mode) -> None:
    """One message has a name that is too long, one is too large; no SDK sends them again."""
    page = visitor.open(mode, api=gate.url)
    page.evaluate(BURST, [1, {}])
    page.evaluate("analytics.track('x'.repeat(300)); analytics.track('large', { text: 'x'.repeat(70_000) })")
    page.evaluate("analytics.track('good')")
    assert visitor.names(2) == ["event 0000", "good"]


@PLAIN
def test_the_sdk_drops_events_with_a_wrong_key(visitor: Visitor, gate: Gate, mode: Mode) -> None:
    page = visitor.open(mode, api=gate.url, key="a-slip")
    page.evaluate(BURST, [1, {}])
    visitor.wait(lambda: gate.statuses[401] == 1, "a 401")


def test_no_event_is_lost_without_kafka_over_a_restart_with_a_full_journal(
    browser: Browser, scene: Scene, gate: Gate
) -> None:
    visitors = {Visitor(browser, scene): mode for mode in (QUICK, QUICK_XHR)}
    pages = [visitor.open(mode, api=gate.url) for visitor, mode in visitors.items()]
    for visitor, page in zip(visitors, pages, strict=True):
        page.evaluate(BURST, [1, {}])
        visitor.stored(1)
    scene.kafka.freeze()
    for page in pages:
        page.evaluate(BURST, [10, {"text": "x" * 30_000}])
    visitors_heard = next(iter(visitors))
    visitors_heard.wait(lambda: gate.statuses[200] >= 22, "answers without Kafka")
    scene.pipeline.api.kill()
    for page in pages:
        page.evaluate(BURST, [20, {"text": "y" * 30_000}])
    scene.pipeline.api.env["API_JOURNAL_MAX_BYTES"] = "1MiB"
    scene.pipeline.api.start()
    scene.pipeline.api.wait_until_ready()
    visitors_heard.wait(lambda: gate.statuses[429], "a full journal")
    scene.kafka.thaw()
    for visitor in visitors:
        assert visitor.names(31, 60) == sorted([*numbered(1), *numbered(10), *numbered(20)])
        visitor.leave()
