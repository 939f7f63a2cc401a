"""The installed Chromium or Chrome, without a window."""

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect, sync_playwright

from tests.unavailable import unavailable

_NAMES = ("chromium", "chromium-browser", "google-chrome")


class Visit:
    """A page, with its requests and its messages in the console."""

    def __init__(self, browser: Browser, viewport: ViewportSize) -> None:
        self.page: Page = browser.new_page(viewport=viewport)
        self.asked: list[str] = []
        self.said: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A browser with an empty profile; skips where there is none, and fails instead where CI=true."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        unavailable(f"there is no browser: none of {', '.join(_NAMES)} (Debian: apt-get install chromium)")
    expect.set_options(timeout=60_000)
    with sync_playwright() as playwright:
        # Playwright switches the other background requests off by default.
        browser = playwright.chromium.launch(
            executable_path=program, args=["--disable-gpu", "--disable-quic", "--disable-sync"]
        )
        yield browser
        browser.close()
