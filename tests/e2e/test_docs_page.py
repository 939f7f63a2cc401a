"""/docs in a browser, from a real gunicorn."""

from collections.abc import Iterator

import pytest
import requests
from playwright.sync_api import Browser, ViewportSize, expect

from tests.browser import Visit
from tests.servers import ApiServer, api_without_kafka

DESKTOP: ViewportSize = {"width": 1280, "height": 900}
PHONE: ViewportSize = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with api_without_kafka(tmp_path_factory.mktemp("api")) as api:
        yield api


class Try(Visit):
    """The page, after a reader has opened it and tried the first operation."""

    def __init__(self, browser: Browser, api: ApiServer, viewport: ViewportSize) -> None:
        super().__init__(browser, viewport)
        self.page.goto(f"{api.url}/docs")
        track = self.page.locator("#operations-Events-track")
        track.locator(".opblock-summary-control").click()
        track.get_by_role("button", name="Try it out").click()
        track.get_by_role("button", name="Execute").click()
        self.answer = track.locator(".live-responses-table tbody .response-col_status")
        expect(self.answer).to_be_visible()


@pytest.fixture(scope="module", params=[DESKTOP, PHONE], ids=["desktop", "phone"])
def visit(browser: Browser, api: ApiServer, request: pytest.FixtureRequest) -> Iterator[Try]:
    visit = Try(browser, api, request.param)
    yield visit
    visit.page.close()


def test_every_route_of_the_document_is_on_the_page(visit: Try, api: ApiServer) -> None:
    shown = visit.page.locator(".opblock-summary-path").evaluate_all("paths => paths.map(path => path.dataset.path)")
    assert shown == list(requests.get(f"{api.url}/openapi.json", timeout=10).json()["paths"])


def test_an_event_can_be_tried_out(visit: Try) -> None:
    assert visit.answer.text_content() == "202"


def test_the_page_sends_no_request_to_other_hosts(visit: Try, api: ApiServer) -> None:
    assert [url for url in visit.asked if not url.startswith((f"{api.url}/", "data:"))] == []


def test_the_browsers_console_is_empty(visit: Try) -> None:
    assert visit.said == []


def test_the_page_needs_no_horizontal_scrolling(visit: Try) -> None:
    assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
