"""The client of these tools: sends events to the API in batches, at the pace of the API."""

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NoReturn, TypeVar

import requests
from tqdm import tqdm

from common.errors import PulseError
from common.events import MAX_BATCH_EVENTS
from common.settings import own_write_key, read_dotenv

T = TypeVar("T")
Event = dict[str, Any]

TIMEOUT = (5.0, 30.0)  # seconds to connect, and to wait for an answer
PATIENCE = 120.0  # seconds for which the API may answer 503 to one batch


def run(tool: Callable[[], int]) -> int:
    """Read .env and run a tool; returns its exit code. Prints an error as one line on stderr; Ctrl-C prints nothing."""
    try:
        read_dotenv()
        return tool()
    except PulseError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def whole_number(least: int) -> Callable[[str], int]:
    """For argparse: the type of a whole number, `least` or more."""

    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]{1,18}", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is not a whole number from {least}")
        return int(text)

    return parse


def base_url(text: str) -> str:
    """For argparse: the type of the URL of an API."""
    if not re.fullmatch(r"https?://[^/@?#]+(/[^@?#]*)?", text):
        # The URL may have a password, and the tools print accepted URLs.
        raise argparse.ArgumentTypeError("give a URL such as https://events.example, without user, password or key")
    return text.rstrip("/")


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of `size`; the last may be shorter."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def progress(total: int, done: str, form: str | None = None) -> "tqdm[NoReturn]":
    """A progress bar, on terminals only; `form` is tqdm's `bar_format`."""
    return tqdm(total=total, desc=f"{done:>8}", unit=" events", disable=None, miniters=1, bar_format=form)


def check_ready(url: str) -> None:
    """Raise PulseError unless the API at this URL accepts events."""
    try:
        answer = requests.get(f"{url}/health/ready", timeout=TIMEOUT)
    except requests.RequestException as error:
        raise _unreachable(url, error) from error
    if not answer.ok:
        raise PulseError(f"The API at {url} is not ready (HTTP {answer.status_code}): see {url}/health.")


def _unreachable(url: str, error: Exception) -> PulseError:
    """The error about an API that does not answer."""
    return PulseError(
        f"The API at {url} is not reachable ({type(error).__name__}); is it running? "
        "`make run` or `make up` start one on this machine."
    )


def send(url: str, events: Iterable[Event]) -> Iterator[tuple[list[Event], set[str]]]:
    """Send the events over one connection, in order; yields each batch with its accepted event_ids.

    Blocks as long as the API asks to wait, at most `PATIENCE` seconds per batch. Raises PulseError if the API is not
    reachable, refuses a batch, or answers 503 for longer. Events need an event_id, so a retry cannot store an event
    twice.
    """
    with open_session() as session:
        for batch in chunks(events, MAX_BATCH_EVENTS):
            body = json.dumps({"events": batch}).encode()
            response = deliver(session, url, body)
            if response.status_code != 202:
                raise refused(url, response)
            yield batch, set(response.json()["event_ids"])


def open_session() -> requests.Session:
    """A session for `deliver`, with the write key of this machine's API."""
    session = requests.Session()
    session.headers["Content-Type"] = "application/json"
    if key := own_write_key():
        session.headers["X-API-Key"] = key
    return session


def deliver(session: requests.Session, url: str, body: bytes, query: str = "") -> requests.Response:
    """Send a batch until the API answers other than 429 or 503; returns that answer.

    Blocks as long as the API asks to wait, at most `PATIENCE` seconds. Raises PulseError if the API is not reachable,
    or for longer waits.
    """
    deadline = time.monotonic() + PATIENCE
    while (response := _post(session, url, body, query)).status_code in (429, 503):
        pause = _retry_after(response)
        if time.monotonic() + pause > deadline:
            raise PulseError(f"The API at {url} has accepted no events for {PATIENCE:.0f} s: {_message(response)}")
        tqdm.write(f"The API asks to wait {pause:.0f} s: {_message(response)}", file=sys.stderr)
        time.sleep(pause)
    return response


def refused(url: str, response: requests.Response) -> PulseError:
    """The error about a refused batch."""
    return PulseError(f"The API at {url} refused a batch (HTTP {response.status_code}): {_message(response)}")


def _post(session: requests.Session, url: str, body: bytes, query: str) -> requests.Response:
    try:
        return session.post(f"{url}/api/v1/track/batch{query}", data=body, timeout=TIMEOUT)
    except requests.RequestException as error:
        raise _unreachable(url, error) from error


def _retry_after(response: requests.Response) -> float:
    """The wait in seconds; 1 if the header is missing or a date."""
    header = response.headers.get("Retry-After", "")
    return max(1.0, float(header)) if header.isdecimal() else 1.0


def _message(response: requests.Response) -> str:
    try:
        return str(response.json()["message"])
    except (ValueError, KeyError, TypeError):
        return response.reason or "no message; is this the Pulse API?"
