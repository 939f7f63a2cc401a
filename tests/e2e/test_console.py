"""The console in a browser, with a whole pipeline; the last tests kill Kafka and MongoDB."""

import contextlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest
import requests
from playwright.sync_api import Browser, Locator, ViewportSize, expect

from ops.console.live import MOST_VIEWERS
from tests.browser import Visit
from tests.contracts import fresh_name
from tests.servers import ConsoleServer, KafkaServer, MongoServer, Pipeline
from tests.waiting import eventually

DESKTOP: ViewportSize = {"width": 1280, "height": 900}
PHONE: ViewportSize = {"width": 390, "height": 844}
HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\">",
    "</script><script>document.title='owned'</script>",
    "{{ 7 * 7 }}",
    "\u202eevil\u202c",
    "Z" + "\u0336\u0335\u0334" * 80,
    "M" * 256,
    "two\nlines\tand\ra return",
    "\u200b\u200d\u2060",
    '"><style>*{display:none}</style>',
)


class Scene:
    """A pipeline with servers of its own, and its console."""

    def __init__(self, libs: Path, folder: Path) -> None:
        self.kafka = KafkaServer(libs, folder)
        self.mongo = MongoServer(folder)
        self.kafka.start()
        self.mongo.start()
        self.pipeline = Pipeline(self.kafka, self.mongo, folder)
        self.console = ConsoleServer(self.pipeline, folder)
        self.pipeline.start()
        self.console.start()

    def send(self, **fields: Any) -> requests.Response:
        event = {"customer_id": "alice", "event_type": "click", **fields}
        return requests.post(f"{self.pipeline.url}/api/v1/track", json=event, timeout=20)

    def find(self, wanted: str) -> dict[str, Any]:
        found: dict[str, Any] = requests.get(f"{self.console.url}/api/find", params={"q": wanted}, timeout=30).json()
        return found

    def stored(self, event_id: str) -> int:
        return sum(document["event_id"] == event_id for document in self.pipeline.documents())

    @contextlib.contextmanager
    def refusing(self, customer: str) -> Iterator[None]:
        """MongoDB refuses this customer's documents until the end of the block."""
        with pymongo.MongoClient[dict[str, Any]](self.pipeline.mongo.uri) as client:
            database = client[self.pipeline.mongo.database]
            database.command("collMod", "events", validator={"customer_id": {"$ne": customer}})
            yield
            database.command("collMod", "events", validator={})

    def end(self) -> None:
        for part in (self.console, self.pipeline, self.mongo, self.kafka):
            part.kill()


@pytest.fixture(scope="module")
def scene(kafka_libs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    scene = Scene(kafka_libs, tmp_path_factory.mktemp("console"))
    yield scene
    scene.end()


class Look(Visit):
    """A visit to the console."""

    def __init__(self, browser: Browser, scene: Scene, viewport: ViewportSize = DESKTOP) -> None:
        super().__init__(browser, viewport)
        self.page.goto(scene.console.url)
        expect(self.page.locator("#connection")).to_have_text("live")

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()

    def row(self, text: str, of: str = "#events") -> Locator:
        return self.page.locator(f"{of} > li").filter(has_text=text).first


@pytest.fixture
def visit(browser: Browser, scene: Scene) -> Iterator[Look]:
    visit = Look(browser, scene)
    yield visit
    visit.page.close()


def test_an_empty_page_says_what_to_do(scene: Scene, visit: Look) -> None:
    expect(visit.page.locator("#live-empty")).to_contain_text(f"curl -X POST {scene.pipeline.url}/api/v1/track")


def test_an_event_appears_and_becomes_stored(scene: Scene, visit: Look) -> None:
    customer = fresh_name("customer")
    event_id = scene.send(customer_id=customer, properties={"size": 9007199254740993}).json()["event_id"]
    row = visit.row(customer)
    expect(row.locator(".pill")).to_have_text(re.compile(r"^stored · [\d,.]+ m?s$"))
    row.get_by_role("button").click()
    # The exact integer: JavaScript's numbers would round it.
    expect(row.locator(".json")).to_contain_text('"size": 9007199254740993')
    expect(row.locator(".facts")).to_contain_text(event_id)


def test_a_refused_event_appears_with_the_faulty_field_marked_and_a_remedy(scene: Scene, visit: Look) -> None:
    customer = fresh_name("customer")
    request_id = scene.send(customer_id=customer, event_type="clck").headers["X-Request-ID"]
    visit.tab("Refused")
    row = visit.row("event_type", of="#refused")
    row.get_by_role("button").first.click()
    expect(row.locator(".json mark")).to_have_text('"event_type": "clck"')
    expect(row.locator(".facts")).to_contain_text(request_id)
    expect(row.locator(".remedy")).to_contain_text("Fix the fields named above")
    expect(row.locator(".curl")).to_contain_text(customer)


def test_a_missing_field_is_named_where_it_should_be(scene: Scene, visit: Look) -> None:
    requests.post(f"{scene.pipeline.url}/api/v1/track", json={"event_type": "click"}, timeout=20)
    visit.tab("Refused")
    row = visit.row("customer_id", of="#refused")
    row.get_by_role("button").first.click()
    expect(row.locator(".json mark")).to_have_text('"customer_id": is missing')


def test_a_letter_is_sent_back_by_the_button_and_stored_once(scene: Scene, visit: Look) -> None:
    customer = fresh_name("poison")
    with scene.refusing(customer):
        event_id = scene.send(customer_id=customer).json()["event_id"]
        expect(visit.row(customer).locator(".pill")).to_have_text("dead letter")
    visit.tab("Dead letters")
    visit.page.locator("#letter-filters [name=key]").fill(customer)
    expect(visit.row(customer, of="#letters")).to_contain_text("RefusedDocumentError")
    visit.page.get_by_role("button", name="Replay …").click()
    expect(visit.page.locator("#confirm-text")).to_contain_text("1 letter goes back")
    visit.page.get_by_role("button", name="Send them back").click()
    expect(visit.page.locator("#progress")).to_contain_text("Sent back: 1 of 1.")
    eventually(lambda: scene.stored(event_id) == 1, what="the letter's event stored")
    assert scene.find(event_id)["state"] == "stored"
    assert "a replay of dead letters ends" in scene.console.output()


def test_a_search_finds_the_state_of_each_id(scene: Scene, visit: Look) -> None:
    event_id = scene.send(event_id=fresh_name("event")).json()["event_id"]
    eventually(lambda: scene.find(event_id)["state"] == "stored", what="the answer 'stored'")
    refused = fresh_name("refused")
    scene.send(event_id=refused, event_type="clck")
    eventually(lambda: scene.find(refused)["state"] == "refused", what="the answer 'refused'")
    for wanted, said in {event_id: "stored", refused: "refused", "e-never": "was never seen here"}.items():
        visit.page.locator("#q").fill(wanted)
        visit.page.get_by_role("button", name="Find").click()
        expect(visit.page.locator("#find-note")).to_contain_text(said)
    expect(visit.page.locator(".reasons li").first).to_be_visible()
    states = [place["state"] for place in scene.find(event_id)["places"]]
    assert states == ["accepted", "in_kafka", "stored"]


def test_an_old_event_that_is_not_stored_is_found_in_kafka(scene: Scene) -> None:
    scene.pipeline.consumer.stop()
    event_id = scene.send(event_id=fresh_name("event")).json()["event_id"]
    eventually(lambda: scene.find(event_id)["state"] == "in_kafka", what="the answer 'in_kafka'")
    scene.console.kill()
    scene.console.start()
    place = next(place for place in scene.find(event_id)["places"] if place["state"] == "in_kafka")
    assert isinstance(place["partition"], int)
    scene.pipeline.consumer.start()
    eventually(lambda: scene.find(event_id)["state"] == "stored", what="the answer 'stored'")


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_hostile_contents_neither_run_nor_break_the_page_nor_hide_other_events(
    browser: Browser, scene: Scene, viewport: ViewportSize
) -> None:
    visit = Look(browser, scene, viewport)
    before = scene.send(customer_id=fresh_name("before")).json()["event_id"]
    for text in HOSTILE:
        assert scene.send(customer_id=text, properties={"x": text, "__proto__": text}).status_code == 202
        scene.send(customer_id=text, event_type=text, **{text[:60]: 1})
    after = fresh_name("after")
    scene.send(customer_id=after)
    expect(visit.row(after)).to_be_visible()
    rows = visit.page.locator("#events > li")
    assert rows.count() >= len(HOSTILE) + 2
    for row in rows.all()[: len(HOSTILE) + 2]:
        box = row.bounding_box()
        assert box
        assert 20 < box["height"] < 90
        row.get_by_role("button").click()
    visit.tab("Refused")
    for row in visit.page.locator("#refused > li").all()[: len(HOSTILE)]:
        row.get_by_role("button").first.click()
    assert visit.page.title() == "Pulse console"
    assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert visit.page.locator("#events img, #refused img, #events script, #refused style").count() == 0
    assert before
    assert visit.said == []
    visit.page.close()


def test_the_page_sends_no_request_to_other_hosts_and_logs_no_error(scene: Scene, visit: Look) -> None:
    for name in ("Refused", "Dead letters", "Where is my event?", "Live"):
        visit.tab(name)
    assert [url for url in visit.asked if not url.startswith(scene.console.url)] == []
    assert visit.said == []


def test_the_tabs_work_from_the_keyboard(visit: Look) -> None:
    visit.page.get_by_role("tab", name="Live").focus()
    visit.page.keyboard.press("ArrowRight")
    expect(visit.page.locator("#panel-refused")).to_be_visible()
    assert visit.page.evaluate("document.activeElement.id") == "tab-refused"
    visit.page.keyboard.press("/")
    assert visit.page.evaluate("document.activeElement.id") == "q"


def test_pause_holds_the_list_and_counts_new_events(scene: Scene, visit: Look) -> None:
    visit.page.get_by_role("button", name="Pause").click()
    customer = fresh_name("customer")
    scene.send(customer_id=customer)
    expect(visit.page.locator("#live-note")).to_have_text(re.compile("^Paused: [0-9]+ more came in the meantime"))
    expect(visit.row(customer)).not_to_be_visible()
    visit.page.get_by_role("button", name="Go on").click()
    expect(visit.row(customer)).to_be_visible()


def test_a_burst_is_shown_newest_first_and_changed_rows_keep_their_place(scene: Scene, visit: Look) -> None:
    customer = fresh_name("customer")
    event = {"customer_id": customer, "event_type": "click"}
    for _ in range(4):
        requests.post(f"{scene.pipeline.url}/api/v1/track/batch", json={"events": [event] * 100}, timeout=10)
    rows = visit.page.locator("#events > li").filter(has_text=customer)
    expect(rows).to_have_count(200)
    expect(rows.filter(has_text="in Kafka")).to_have_count(0)
    offsets = rows.evaluate_all("rows => rows.map((row) => Number(row.dataset.place.split('-')[1]))")
    assert offsets == sorted(offsets, reverse=True)


def test_a_ninth_viewer_gets_a_503(scene: Scene) -> None:
    with contextlib.ExitStack() as viewers:
        for _ in range(MOST_VIEWERS):
            answer = viewers.enter_context(requests.get(f"{scene.console.url}/api/live", stream=True, timeout=20))
            if answer.status_code == 503:
                break
        assert requests.get(f"{scene.console.url}/api/live", timeout=20).status_code == 503
    # The console notices closed streams when it sends the next event.
    eventually(lambda: _may_look(scene), what="a free place")


def test_contents_can_be_hidden(browser: Browser, scene: Scene, tmp_path: Path) -> None:
    console = ConsoleServer(scene.pipeline, tmp_path, CONSOLE_SHOW_BODIES="false")
    console.start()
    secret = fresh_name("secret")
    scene.send(properties={"note": secret})
    scene.send(event_type="clck", properties={"note": secret})
    eventually(lambda: secret in requests.get(f"{scene.console.url}/api/refused", timeout=20).text)
    eventually(
        lambda: (
            "clck" not in (told := requests.get(f"{console.url}/api/refused", timeout=20).text) and "event_type" in told
        )
    )
    assert secret not in requests.get(f"{console.url}/api/refused", timeout=20).text
    console.kill()


def test_the_death_of_the_console_does_not_affect_the_pipeline(scene: Scene) -> None:
    scene.console.kill()
    event_id = scene.send().json()["event_id"]
    eventually(lambda: scene.stored(event_id) == 1, what="the event stored")
    scene.console.start()


# ── The demo shop ──


class Shop(Visit):
    """A visit to the demo shop."""

    def __init__(self, browser: Browser, scene: Scene, viewport: ViewportSize = DESKTOP) -> None:
        super().__init__(browser, viewport)
        self.page.goto(f"{scene.console.url}/demo")
        self.page.wait_for_function("window.pulse?.loaded")

    def press(self, name: str, number: int = 0) -> None:
        self.page.get_by_role("button", name=name).nth(number).click()

    def sign_in(self, name: str) -> None:
        self.page.get_by_label("Your name").fill(name)
        self.press("Sign in")


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_actions_in_the_demo_shop_are_stored(
    browser: Browser, scene: Scene, visit: Look, viewport: ViewportSize
) -> None:
    shop = Shop(browser, scene, viewport)
    customer = fresh_name("shopper")
    shop.sign_in(customer)
    shop.page.get_by_label("Search the shop").fill("cup")
    shop.press("Search")
    expect(shop.page.locator("#found")).to_have_text("2 found")
    shop.press("Put into the cart")
    shop.press("Put into the cart")
    shop.press("Put into the cart", 1)
    shop.press("Buy")
    expect(visit.row(customer).locator(".pill")).to_contain_text("stored")
    assert shop.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert shop.said == []
    shop.page.close()

    def told() -> list[dict[str, Any]]:
        return [event for event in scene.pipeline.documents() if event.get("user_id") == customer]

    eventually(lambda: len(told()) == 6, what="six events stored")
    order = {event["event_type"]: event for event in told()}["purchase"]["properties"]
    assert (order["total"], [line["quantity"] for line in order["products"]]) == (39.5, [2, 1])
    assert sorted(event["event_type"] for event in told()) == [
        *["add_to_cart"] * 3,
        *("identify", "purchase", "search"),
    ]


def test_the_mistake_of_the_demo_shop_is_refused_and_shown_with_its_field_marked(
    browser: Browser, scene: Scene, visit: Look
) -> None:
    shop = Shop(browser, scene)
    customer = fresh_name("shopper")
    shop.sign_in(customer)
    shop.press("Send a wrong event")
    eventually(
        lambda: "refused" in [place["state"] for place in scene.find(customer)["places"]], what="the place 'refused'"
    )
    shop.page.close()
    visit.tab("Refused")
    row = visit.row("event_name", of="#refused")
    row.get_by_role("button").first.click()
    expect(row.locator(".json")).to_contain_text(customer)
    expect(row.locator(".json mark")).to_have_text('"event": ""')
    expect(row.locator(".remedy")).to_contain_text("Fix the fields named above")
    # The request as curl is refused for the same reason.
    body = shlex.split(row.locator(".curl").text_content() or "")[-1]
    answer = requests.post(f"{scene.pipeline.url}/v1/batch", data=body, timeout=20)
    assert "event_name" in answer.json()["message"]


# ── Failures ──


def test_an_outage_of_kafka_is_shown_with_its_runbook_and_loses_nothing(scene: Scene, visit: Look) -> None:
    scene.kafka.kill()
    problems = visit.page.locator("#problems")
    expect(problems).to_contain_text("Kafka does not answer")
    sent = [scene.send().json()["event_id"] for _ in range(5)]
    expect(problems).to_contain_text("5 events are kept in the journal in the meantime; none is lost.")
    link = problems.get_by_role("link").first.get_attribute("href")
    assert requests.get(f"{scene.console.url}{link}", timeout=20).ok
    answer = scene.find(sent[0])
    assert (answer["state"], "Kafka" in answer["unasked"]) == ("unknown", True)
    scene.kafka.start()
    for event_id in sent:
        eventually(lambda event_id=event_id: scene.stored(event_id) == 1, timeout=90, what="the kept event stored")  # type: ignore[misc]
    expect(problems).not_to_contain_text("Kafka does not answer")
    eventually(lambda: scene.find(sent[-1])["state"] == "stored", timeout=60, what="the answer 'stored'")
    customer = fresh_name("customer")
    scene.send(customer_id=customer)
    expect(visit.row(customer).locator(".pill")).to_contain_text("stored")


def test_a_frozen_kafka_is_shown_although_it_accepts_connections(scene: Scene, visit: Look) -> None:
    scene.kafka.freeze()
    event_id = scene.send().json()["event_id"]
    problems = visit.page.locator("#problems")
    expect(problems).to_contain_text("Kafka does not accept events")
    scene.kafka.thaw()
    eventually(lambda: scene.stored(event_id) == 1, timeout=90, what="the kept event stored")
    expect(problems).not_to_contain_text("Kafka does not accept events")


def test_an_outage_of_mongodb_is_shown_and_loses_nothing(scene: Scene, visit: Look) -> None:
    scene.mongo.kill()
    problems = visit.page.locator("#problems")
    expect(problems).to_contain_text("MongoDB does not answer")
    customer = fresh_name("customer")
    event_id = scene.send(customer_id=customer).json()["event_id"]
    expect(visit.row(customer).locator(".pill")).to_have_text("in Kafka")
    found = scene.find(event_id)
    assert (found["state"], "MongoDB" in found["unasked"]) == ("in_kafka", True)
    scene.mongo.start()
    expect(visit.row(customer).locator(".pill")).to_contain_text("stored")
    expect(problems).not_to_contain_text("MongoDB does not answer")
    assert scene.stored(event_id) == 1


def _may_look(scene: Scene) -> bool:
    with requests.get(f"{scene.console.url}/api/live", stream=True, timeout=20) as answer:
        return answer.status_code == 200


def test_the_flow_has_the_documented_shape(scene: Scene) -> None:
    flow = requests.get(f"{scene.console.url}/api/flow", timeout=20).json()
    for box in ("refused", "accepted", "in_kafka", "stored", "dead_letters"):
        assert {"total", "per_second", "waiting"} <= flow[box].keys(), json.dumps(flow)
