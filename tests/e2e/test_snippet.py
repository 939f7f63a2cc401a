"""/pulse.js in a browser: MongoDB stores each action of a visitor on pages of another origin once."""

import contextlib
import itertools
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route

from tests import ROOT
from tests.servers import KafkaServer, MongoServer, Pipeline
from tests.sites import ELSEWHERE, Site
from tests.unavailable import unavailable
from tests.waiting import eventually

KEY = "sesame"
COLLECTS = "**/v1/batch*"
SIZE = re.compile(r"[1-9]\d*x[1-9]\d*")
NUMBERS = itertools.count(1)


class SnippetSite(Site):
    """A site with the snippet on each page except /elsewhere."""

    def __init__(self, api: str) -> None:
        self.api = api
        super().__init__()

    def tag(self, key: str = KEY) -> str:
        return f'<script async src="{self.api}/pulse.js" data-key="{key}"></script>'

    def other(self, path: str) -> str:
        return ELSEWHERE if path.startswith("/elsewhere") else f"<title>Page {path}</title>{self.tag()}"


class Visitor:
    """A visitor with a browser of their own, on pages under a path of their own, and their stored events."""

    def __init__(self, browser: Browser, site: SnippetSite, pipeline: Pipeline) -> None:
        self.site = site
        self.base = f"/visit-{next(NUMBERS)}"
        self.context: BrowserContext = browser.new_context()
        self.said: list[str] = []
        self._pipeline = pipeline

    def html(self, path: str, html: str) -> None:
        """Replace the page at this path."""
        self.site.pages[self.base + path] = html

    def open(self, path: str = "/", *, page: Page | None = None) -> Page:
        """Open a page, in a new tab if none is given, and wait until the snippet has started."""
        if page is None:
            page = self.context.new_page()
            page.on("console", lambda message: self.said.append(message.text))
            page.on("pageerror", lambda error: self.said.append(str(error)))
        page.goto(f"{self.site.url}{self.base}{path}")
        page.wait_for_function("window.pulse?.loaded")
        return page

    def documents(self) -> list[dict[str, Any]]:
        """Their stored events under all of their ids, in order of time."""
        with pymongo.MongoClient[dict[str, Any]](self._pipeline.mongo.uri, tz_aware=True) as client:
            events = client[self._pipeline.mongo.database][self._pipeline.mongo.collection]
            on_pages = {"properties.path": {"$regex": f"^{self.base}/"}}
            ids = events.distinct("anonymous_id", on_pages)
            return list(events.find({"anonymous_id": {"$in": ids}}).sort("event_id", 1))

    def wait(self, condition: Callable[[], Any], what: str) -> None:
        """Wait until it is true, while the browser's requests go through the routes of the test."""

        def came_true() -> Any:
            self.context.pages[0].wait_for_timeout(50)
            return condition()

        eventually(came_true, what=what)

    def stored(self, count: int) -> list[dict[str, Any]]:
        """Wait until N of their events are stored; fails if there are more."""
        with contextlib.suppress(AssertionError):
            self.wait(lambda: len(self.documents()) >= count, "that number of events")
        found = self.documents()
        assert len(found) == count, self.told(found)
        return found

    def told(self, documents: list[dict[str, Any]] | None = None) -> list[str]:
        """The events in short form, in order of time."""
        found = self.documents() if documents is None else documents
        return [
            " ".join(filter(None, [event["event_type"], event.get("event_name"), self._path(event)])) for event in found
        ]

    def _path(self, event: dict[str, Any]) -> str:
        path: str = event["properties"].get("path", "") if event["event_type"] == "page_view" else ""
        return path.removeprefix(self.base)

    def kept(self, page: Page, kind: str = "") -> list[str]:
        """The names of the snippet's items in localStorage."""
        names: list[str] = page.evaluate("Object.keys(localStorage)")
        return sorted(name for name in names if name.startswith(f"pulse.js:{kind}"))

    def waits(self, page: Page) -> int:
        """The number of events in the snippet's queue."""
        return len(self.kept(page, "event:"))


@pytest.fixture(scope="module")
def pipeline(kafka: KafkaServer, mongo: MongoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    pipeline = Pipeline(kafka, mongo, tmp_path_factory.mktemp("pipeline"), API_KEYS=f"web={KEY}")
    pipeline.start()
    yield pipeline
    pipeline.kill()


@pytest.fixture(scope="module")
def site(pipeline: Pipeline) -> Iterator[SnippetSite]:
    site = SnippetSite(pipeline.url)
    yield site
    site.close()


@pytest.fixture
def visitor(browser: Browser, site: SnippetSite, pipeline: Pipeline) -> Iterator[Visitor]:
    visitor = Visitor(browser, site, pipeline)
    yield visitor
    visitor.context.close()


# ── Recorded events ──


def test_each_page_of_a_site_sends_a_page_view(visitor: Visitor) -> None:
    visitor.html("/", f'<title>Home</title>{visitor.site.tag()}<a href="cart?token=secret">Cart</a>')
    page = visitor.open()
    page.get_by_text("Cart").click()
    page.wait_for_url("**/cart?token=secret")
    home, cart = visitor.stored(2)
    first, second = home["properties"], cart["properties"]
    assert (home["event_type"], first["path"], first["title"]) == ("page_view", f"{visitor.base}/", "Home")
    assert (second["path"], second["title"]) == (f"{visitor.base}/cart", f"Page {visitor.base}/cart")
    assert (first["referrer"], second["referrer"]) == ("", f"{visitor.site.url}{visitor.base}/")
    assert SIZE.fullmatch(first["screen"])


def test_pages_of_a_visit_share_the_anonymous_id_and_the_session(visitor: Visitor) -> None:
    visitor.open("/one", page=visitor.open("/two"))
    one, two = visitor.stored(2)
    assert one["customer_id"] == one["anonymous_id"] == two["anonymous_id"]
    assert one["context"]["session_id"] == two["context"]["session_id"]


def test_each_change_of_the_address_sends_a_page_view(visitor: Visitor) -> None:
    page = visitor.open("/app")
    page.evaluate("path => { history.pushState({}, '', path); document.title = 'Cart' }", f"{visitor.base}/cart")
    page.evaluate("path => history.replaceState({}, '', path)", f"{visitor.base}/cart?step=2")
    page.evaluate("location.hash = '#/pay'")
    page.evaluate("history.back()")
    page.wait_for_url("**/cart?step=2")
    assert visitor.told(visitor.stored(5)) == [
        f"page_view {path}" for path in ("/app", "/cart", "/cart", "/cart#/pay", "/cart")
    ]
    cart = visitor.documents()[1]["properties"]
    assert (cart["title"], cart["referrer"]) == ("Cart", f"{visitor.site.url}{visitor.base}/app")


def test_a_change_of_the_state_or_the_fragment_sends_no_page_view(visitor: Visitor) -> None:
    page = visitor.open("/app")
    page.evaluate("history.replaceState({scroll: 7}, '')")
    page.evaluate("location.hash = '#prices'")
    page.evaluate("pulse.track('end')")
    assert visitor.told(visitor.stored(2)) == ["page_view /app", "custom end"]


def test_clicks_on_named_elements_are_recorded(visitor: Visitor) -> None:
    buttons = '<button data-pulse="buy"><b>Buy</b></button><button>Other</button><p data-pulse="host"></p>'
    shadow = "<script>document.querySelector('p').attachShadow({mode: 'open'}).innerHTML = "
    shadow += "'<button data-pulse=inner>Inner</button>'</script>"
    stop = "<script>document.querySelector('b').onclick = event => event.stopPropagation()</script>"
    visitor.html("/shop", f"{visitor.site.tag()}{buttons}{shadow}{stop}")
    page = visitor.open("/shop")
    for name in ("Buy", "Other", "Inner"):
        page.get_by_text(name).click()
    assert visitor.told(visitor.stored(3)) == ["page_view /shop", "click buy", "click inner"]
    assert visitor.documents()[1]["properties"] == {"path": f"{visitor.base}/shop"}


def test_calls_before_the_snippet_is_loaded_are_recorded(visitor: Visitor) -> None:
    before = "window.pulse = window.pulse || []; pulse.push(['track', 'early', {n: 1}], ['identify', 'ann', {age: 7}])"
    visitor.html("/", f"<script>{before}</script>{visitor.site.tag()}")
    visitor.open()
    early, identified, view = visitor.stored(3)
    assert (early["event_name"], early["properties"]) == ("early", {"n": 1})
    assert (identified["event_type"], identified["user_id"], identified["traits"]) == ("identify", "ann", {"age": 7})
    assert (view["event_type"], view["user_id"]) == ("page_view", "ann")


def test_the_examples_of_the_docs_work(visitor: Visitor) -> None:
    blocks = re.findall(r"^```html\n(.*?)^```", (ROOT / "docs" / "snippet.md").read_text(), re.MULTILINE | re.DOTALL)
    tag, early, stub = blocks
    tag = tag.replace("https://events.example", visitor.site.api).replace("KEY", KEY)
    visitor.html("/", f"{stub}{early}<script>pulse.track('by the stub')</script>{tag}")
    visitor.open().evaluate("pulse.track('by itself')")
    told = ["identify", "custom Video Started", "custom by the stub", "page_view /", "custom by itself"]
    assert visitor.told(visitor.stored(5)) == told


def test_calls_in_the_form_for_an_unloaded_snippet_work_later_too(visitor: Visitor) -> None:
    page = visitor.open()
    page.evaluate("pulse.push(['track', 'late', {n: [1, {deep: null}]}])")
    assert visitor.stored(2)[1]["properties"] == {"n": [1, {"deep": None}]}


def test_a_person_is_identified_until_the_reset(visitor: Visitor) -> None:
    page = visitor.open()
    page.evaluate("pulse.identify('ann', {plan: 'pro'}); pulse.track('known')")
    visitor.open("/next", page=page)
    visitor.stored(4)
    page.evaluate("pulse.reset(); history.pushState({}, '', 'after')")
    view, identified, known, following, after = visitor.stored(5)
    assert [event.get("user_id") for event in (view, identified, known, following, after)] == [None, *["ann"] * 3, None]
    assert known["customer_id"] == "ann"
    assert view["anonymous_id"] == known["anonymous_id"] != after["anonymous_id"]
    assert view["context"] != after["context"]


def test_a_session_ends_after_half_an_hour_without_events(visitor: Visitor) -> None:
    page = visitor.open()
    for minutes in (29, 31):
        page.evaluate(
            """minutes => {
                const [session, last] = localStorage["pulse.js:session"].split(" ");
                localStorage["pulse.js:session"] = `${session} ${last - minutes * 60_000}`;
                pulse.track("again");
            }""",
            minutes,
        )
    view, first, second = visitor.stored(3)
    assert view["context"] == first["context"] != second["context"]


def test_two_tags_on_a_page_work_as_one(visitor: Visitor) -> None:
    visitor.html("/", visitor.site.tag() * 2)
    visitor.open().evaluate("pulse.track('end')")
    assert visitor.told(visitor.stored(2)) == ["page_view /", "custom end"]


# ── Failures ──


def test_a_call_that_cannot_be_recorded_does_not_affect_others(visitor: Visitor) -> None:
    page = visitor.open()
    page.evaluate("pulse.track('huge', {n: 1n}); pulse.push(null); pulse.push(['nothing']); pulse.track('end')")
    assert visitor.told(visitor.stored(2)) == ["page_view /", "custom end"]


def test_a_refused_event_does_not_affect_others(visitor: Visitor) -> None:
    page = visitor.open()
    page.evaluate("pulse.track(''); pulse.track('good')")
    assert visitor.told(visitor.stored(2)) == ["page_view /", "custom good"]
    visitor.wait(lambda: "refused" in str(visitor.said), "a message in the console")
    visitor.wait(lambda: visitor.waits(page) == 0, "an empty queue")


def test_without_a_network_events_wait(visitor: Visitor) -> None:
    page = visitor.open()
    visitor.stored(1)
    visitor.context.set_offline(True)
    page.evaluate("for (const number of [1, 2, 3]) pulse.track(`offline ${number}`)")
    visitor.wait(lambda: "again" in str(visitor.said), "a failure")
    assert visitor.waits(page) == 3
    visitor.context.set_offline(False)
    assert visitor.told(visitor.stored(4)[1:]) == [f"custom offline {number}" for number in (1, 2, 3)]
    visitor.wait(lambda: visitor.waits(page) == 0, "an empty queue")


def test_an_api_gets_all_events_after_a_restart(visitor: Visitor, pipeline: Pipeline) -> None:
    page = visitor.open()
    visitor.stored(1)
    page.evaluate("window.n = 0; window.ticks = setInterval(() => pulse.track(`tick ${n++}`), 20)")
    visitor.wait(lambda: len(visitor.documents()) > 10, "ten events")
    pipeline.api.kill()
    visitor.wait(lambda: visitor.waits(page) > 10, "events that wait")
    count = page.evaluate("clearInterval(ticks), n")
    pipeline.api.start()
    pipeline.api.wait_until_ready()
    assert visitor.told(visitor.stored(1 + count)[1:]) == [f"custom tick {number}" for number in range(count)]
    visitor.wait(lambda: visitor.waits(page) == 0, "an empty queue")


def test_unanswered_events_are_sent_again_with_the_same_ids(visitor: Visitor) -> None:
    sent: list[str] = []

    def lose_two_answers(route: Route) -> None:
        sent.append(route.request.post_data or "")
        if len(sent) <= 2:
            route.fetch()
            route.abort()
        else:
            route.continue_()

    visitor.context.route(COLLECTS, lose_two_answers)
    visitor.open()
    visitor.wait(lambda: len(sent) == 3, "three tries")
    visitor.stored(1)
    assert len({re.findall(r'"messageId":"(\w+)"', body)[0] for body in sent}) == 1


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
def test_events_that_the_api_may_accept_later_are_kept(visitor: Visitor, status: int) -> None:
    answers = [0]

    def refuse_once(route: Route) -> None:
        answers[0] += 1
        if answers[0] > 1:
            route.continue_()
        else:
            route.fulfill(status=status, headers={"Access-Control-Allow-Origin": "*", "Retry-After": "1"}, body="{}")

    visitor.context.route(COLLECTS, refuse_once)
    page = visitor.open()
    visitor.wait(lambda: answers[0] == 2, "a second try")
    visitor.stored(1)
    visitor.wait(lambda: visitor.waits(page) == 0, "an empty queue")


def test_a_batch_that_a_proxy_refuses_as_too_large_is_sent_in_parts(visitor: Visitor) -> None:
    def take_two_at_most(route: Route) -> None:
        if (route.request.post_data or "").count("messageId") > 2:
            route.fulfill(status=413, headers={"Access-Control-Allow-Origin": "*"}, body="{}")
        else:
            route.continue_()

    visitor.context.route(COLLECTS, take_two_at_most)
    page = visitor.open()
    page.evaluate("for (let n = 0; n < 5; n++) pulse.track(`part ${n}`)")
    page.wait_for_function("!Object.keys(localStorage).some(name => name.startsWith('pulse.js:event'))", timeout=60_000)
    visitor.stored(6)


def test_a_wrong_key_loses_nothing(visitor: Visitor) -> None:
    visitor.html("/wrong", visitor.site.tag("a-slip"))
    page = visitor.open("/wrong")
    visitor.wait(lambda: "401" in str(visitor.said), "a message about it in the console")
    visitor.open("/right", page=page)
    assert visitor.told(visitor.stored(2)) == ["page_view /wrong", "page_view /right"]


def test_the_queue_is_bounded_and_drops_the_oldest(visitor: Visitor) -> None:
    page = visitor.open()
    visitor.stored(1)
    visitor.context.set_offline(True)
    page.evaluate("for (let n = 0; n < 600; n++) pulse.track(`event ${n}`)")
    assert visitor.waits(page) == 500
    page.evaluate("for (let n = 0; n < 9; n++) pulse.track('large', {text: 'x'.repeat(50000)})")
    assert 0 < visitor.waits(page) < 9
    page.evaluate("for (let n = 600; n < 1100; n++) pulse.track(`event ${n}`)")
    visitor.context.set_offline(False)
    assert visitor.told(visitor.stored(501)[1:]) == [f"custom event {n}" for n in range(600, 1100)]


# ── Leaving a page ──


def test_events_recorded_while_the_visitor_leaves_the_page_are_stored(visitor: Visitor) -> None:
    page = visitor.open()
    page.evaluate("pulse.track('last'); location.href = '/elsewhere'")
    page.wait_for_url("**/elsewhere")
    assert visitor.told(visitor.stored(2)) == ["page_view /", "custom last"]


def test_waiting_events_of_a_closed_tab_are_sent_by_a_beacon(visitor: Visitor, pipeline: Pipeline) -> None:
    """The first request never ends, so all other events wait."""
    held: list[Route] = []
    visitor.context.route(
        COLLECTS, lambda route: route.continue_() if route.request.resource_type == "ping" else held.append(route)
    )
    other, page = visitor.context.new_page(), visitor.open()
    visitor.wait(lambda: held, "a request")
    before = pipeline.api.accepted()
    page.evaluate("pulse.track('one'); pulse.track('two')")
    page.close(run_before_unload=True)
    visitor.wait(lambda: pipeline.api.accepted() >= before + 2, "the events of the closed page")
    visitor.context.unroute(COLLECTS)
    visitor.open("/again", page=other)
    assert visitor.told(visitor.stored(4)) == ["page_view /", "custom one", "custom two", "page_view /again"]


def test_the_next_page_sends_what_the_last_could_not(visitor: Visitor) -> None:
    page = visitor.open()
    visitor.stored(1)
    visitor.context.route(COLLECTS, lambda route: route.abort())
    page.evaluate("pulse.track('stuck')")
    page.goto(f"{visitor.site.url}/elsewhere")
    visitor.context.unroute(COLLECTS)
    visitor.open("/next", page=page)
    assert visitor.told(visitor.stored(3)) == ["page_view /", "custom stuck", "page_view /next"]


# ── Tabs ──


CLOCK = """() => {
    window.n = 0;
    const ticks = setInterval(() => n < 100 ? pulse.track(`tick ${n++}`) : clearInterval(ticks), 10);
}"""


def test_two_tabs_send_each_event_once(visitor: Visitor, pipeline: Pipeline) -> None:
    before = pipeline.api.accepted()
    tabs = [visitor.open("/left"), visitor.open("/right")]
    for tab in tabs:
        tab.evaluate(CLOCK)
    for tab in tabs:
        tab.wait_for_function("n === 100")
    visitor.stored(202)
    visitor.wait(lambda: visitor.waits(tabs[0]) == 0, "an empty queue")
    assert pipeline.api.accepted() - before == 202


def test_without_web_locks_tabs_lose_nothing(visitor: Visitor) -> None:
    visitor.context.add_init_script("Object.defineProperty(navigator, 'locks', {get: () => undefined})")
    tabs = [visitor.open("/left"), visitor.open("/right")]
    for tab in tabs:
        tab.evaluate("for (let n = 0; n < 10; n++) pulse.track(`event ${n}`)")
    visitor.stored(22)


def test_a_tab_sends_what_a_closed_one_left(visitor: Visitor) -> None:
    visitor.context.route(COLLECTS, lambda route: route.abort())
    closed, open_ = visitor.open("/closed"), visitor.open("/open")
    closed.evaluate("pulse.track('left behind')")
    closed.close()
    visitor.context.unroute(COLLECTS)
    open_.evaluate("pulse.track('end')")
    assert sorted(visitor.told(visitor.stored(4))) == [
        "custom end",
        "custom left behind",
        "page_view /closed",
        "page_view /open",
    ]


# ── Storage ──

FORBIDDEN = "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no', 'SecurityError') }})"
ABSENT = "Object.defineProperty(window, 'localStorage', {get: () => null})"
FULL = """
    for (let size = 2 ** 22; size >= 1; size /= 2)
        try { for (let n = 0; ; n++) localStorage[`filler ${size} ${n}`] = 'x'.repeat(size) } catch {}
"""


@pytest.mark.parametrize("script", [FORBIDDEN, ABSENT, FULL], ids=["forbidden", "absent", "full"])
def test_without_storage_events_are_kept_in_memory(visitor: Visitor, script: str) -> None:
    visitor.context.add_init_script(script)
    page = visitor.open()
    page.evaluate("pulse.identify('ann'); pulse.track('one')")
    view, identified, one = visitor.stored(3)
    assert view["anonymous_id"] == identified["anonymous_id"] == one["anonymous_id"]
    assert one["user_id"] == "ann"
    visitor.context.set_offline(True)
    page.evaluate("pulse.track('two')")
    visitor.context.set_offline(False)
    visitor.stored(4)


# ── Privacy ──

GPC = "Object.defineProperty(navigator, 'globalPrivacyControl', {get: () => true})"
DNT = "Object.defineProperty(navigator, 'doNotTrack', {get: () => '1'})"


@pytest.mark.parametrize("script", [GPC, DNT], ids=["global privacy control", "do not track"])
def test_a_privacy_signal_stops_all_recording(visitor: Visitor, script: str) -> None:
    asked: list[str] = []
    visitor.context.add_init_script(script)
    visitor.context.on("request", lambda request: asked.append(request.url))
    visitor.html(
        "/", f'<script>pulse = []; pulse.push(["track", "early"])</script>{visitor.site.tag()}<b data-pulse="b">B</b>'
    )
    page = visitor.open()
    page.evaluate("pulse.track('one'); pulse.identify('ann'); pulse.reset(); history.pushState({}, '', 'next')")
    page.get_by_text("B").click()
    page.goto(f"{visitor.site.url}/elsewhere")
    assert page.evaluate("localStorage.length") == 0
    assert [url for url in asked if "/v1/" in url] == []


def test_a_later_privacy_signal_clears_the_storage(visitor: Visitor) -> None:
    page = visitor.open()
    visitor.stored(1)
    page.evaluate("localStorage['pulse of the page'] = 'stays'")
    visitor.context.add_init_script(GPC)
    visitor.open("/next", page=page)
    assert page.evaluate("Object.keys(localStorage)") == ["pulse of the page"]


# ── The file ──


def test_the_served_file_is_built_from_the_source(tmp_path: Path) -> None:
    if shutil.which("npx") is None:
        unavailable("npx is missing: Debian's package npm has it")
    subprocess.run(["make", "snippet", f"SNIPPET={tmp_path / 'made.js'}"], cwd=ROOT, check=True, timeout=100)
    assert (tmp_path / "made.js").read_bytes() == (ROOT / "api" / "snippet" / "pulse.min.js").read_bytes()
