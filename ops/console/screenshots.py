"""`python -m ops.console.screenshots [URL]`: takes docs/images/console-*.png of a console that runs, in Chromium.

First it sends some events, right and wrong, to the API behind it, and records to Kafka that become dead letters: the
pictures show a pipeline at work.
"""

import math
import random
import shutil
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import requests
from playwright.sync_api import Browser, ViewportSize, sync_playwright

from common.kafka import KafkaSender, Record
from common.settings import KafkaSettings, load_console_settings, own_write_key, read_dotenv
from loadtest.journeys import generated_journeys

IMAGES = Path(__file__).parent.parent.parent / "docs" / "images"
DESKTOP: ViewportSize = {"width": 1280, "height": 860}
PHONE: ViewportSize = {"width": 390, "height": 844}


class Shot(NamedTuple):
    """A picture: its name, what it shows (the page's `#/…`), and the row that is opened in it."""

    name: str
    shows: str
    opened: str | None
    viewport: ViewportSize
    dark: bool


SHOTS = (
    Shot("console", "live", None, DESKTOP, dark=False),
    Shot("console-refused", "refused", "#refused > li", DESKTOP, dark=False),
    Shot("console-letters", "letters", "#letters > li", DESKTOP, dark=True),
    Shot("console-phone", "live", None, PHONE, dark=True),
    Shot("console-find", "find?q=customer-00003", None, PHONE, dark=False),
)
WRONG: tuple[dict[str, Any], ...] = (
    {"events": [{"customer_id": "customer-00007", "event_type": "purchse", "properties": {"total": 12.5}}]},
    {"events": [{"event_type": "click", "colour": "red", "properties": {"button": "buy"}}]},
    {"events": [{"customer_id": "customer-00012", "event_type": "click", "timestamp": "yesterday"}]},
)
POISON = (
    b"<event/>",
    b'{"event_id": "order-7", "event_type": "purchase"}',
    b'{"customer_id": 21, "event_type": "click"}',
)
_SECONDS_BEFORE = 100


def main() -> None:
    """Takes some two minutes, so that there are lines to see."""
    read_dotenv()
    settings = load_console_settings()
    url = sys.argv[1] if len(sys.argv) > 1 else settings.address.url
    send_poison(settings.kafka)
    threading.Thread(target=send, args=(settings.public_api_url,), daemon=True).start()
    time.sleep(_SECONDS_BEFORE)
    program = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--disable-gpu"])
        for shot in SHOTS:
            take(browser, url, shot)
            print(IMAGES / f"{shot.name}.png")
        browser.close()


def send(api_url: str) -> None:
    """Send events, most of them valid, a few per second, forever."""
    key = own_write_key()
    with requests.Session() as session:
        session.headers["X-API-Key"] = key or ""
        rng = random.Random(7)  # noqa: S311, the same shoppers in each picture
        journeys = generated_journeys(1000, f"{time.time():.0f}", datetime.now(UTC), rng)
        for number, event in enumerate(event for journey in journeys for event in journey):
            session.post(f"{api_url}/api/v1/track", json=event, timeout=10).raise_for_status()
            if number % 60 == 10:
                session.post(f"{api_url}/api/v1/track/batch", json=WRONG[number // 60 % len(WRONG)], timeout=10)
            # With a varying rate, like real traffic.
            time.sleep(0.06 + 0.05 * math.sin(number / 70))


def send_poison(settings: KafkaSettings) -> None:
    """Send records that no consumer can store, as another producer might. Raises KafkaUnavailableError."""
    sender = KafkaSender(settings, settings.topic)
    sender.send([Record(key=b"customer-00021", value=value) for value in POISON])
    sender.close()


def take(browser: Browser, url: str, shot: Shot) -> None:
    """Take one picture."""
    scheme: Any = "dark" if shot.dark else "light"
    page = browser.new_page(viewport=shot.viewport, color_scheme=scheme, device_scale_factor=1.5)
    page.goto(f"{url}/#/{shot.shows}")
    page.wait_for_timeout(3000)
    if shot.opened:
        page.locator(shot.opened).first.get_by_role("button").first.click()
        page.wait_for_timeout(500)
    page.screenshot(path=IMAGES / f"{shot.name}.png")
    page.close()


if __name__ == "__main__":
    main()
