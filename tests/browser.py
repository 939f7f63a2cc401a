"""The Chromium or Chrome that is installed, without a window."""

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A browser with an empty profile; skips where there is none, and fails instead where CI=true."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        reason = f"there is no browser: none of {', '.join(_NAMES)} (Debian: apt-get install chromium)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    expect.set_options(timeout=60_000)
    with sync_playwright() as playwright:
        # The rest of what a browser does behind one's back is off by default here.
        browser = playwright.chromium.launch(
            executable_path=program, args=["--disable-gpu", "--disable-quic", "--disable-sync"]
        )
        yield browser
        browser.close()
