"""The client of the tools here: sends events to the API in batches, at the pace the API takes them."""

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
    """Reads .env, runs a tool, returns its exit code; a fault becomes one line on stderr, Ctrl-C nothing at all."""
    try:
        read_dotenv()
        return tool()
    except PulseError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def whole_number(least: int) -> Callable[[str], int]:
    """For argparse: the type of an argument that is a whole number, `least` or more."""

    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]{1,18}", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is not a whole number from {least}")
        return int(text)

    return parse


def base_url(text: str) -> str:
    """For argparse: the type of an argument that says where an API is."""
    if not re.fullmatch(r"https?://[^/@?#]+(/[^@?#]*)?", text):
        # It may hold a password; and what is taken is printed.
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
    """Raises PulseError unless the API at this URL takes events."""
    try:
        answer = requests.get(f"{url}/health/ready", timeout=TIMEOUT)
    except requests.RequestException as error:
        raise _unreachable(url, error) from error
    if not answer.ok:
        raise PulseError(f"The API at {url} is not ready (HTTP {answer.status_code}): see {url}/health.")


def _unreachable(url: str, error: Exception) -> PulseError:
    """What to say when the API does not answer."""
    return PulseError(
        f"The API at {url} is not reachable ({type(error).__name__}); is it running? "
        "`make run` or `make up` start one on this machine."
    )


def send(url: str, events: Iterable[Event]) -> Iterator[tuple[list[Event], set[str]]]:
    """Sends the events over one connection, in order; yields each batch with the event_ids the API accepted of it.

    Blocks as long as the API asks to wait, at most `PATIENCE` a batch. Raises PulseError when the API is away,
    refuses a batch, or takes no more. Events need an event_id, so that sending one again cannot store it twice.
    """
    with open_session() as session:
        for batch in chunks(events, MAX_BATCH_EVENTS):
            body = json.dumps({"events": batch}).encode()
            response = deliver(session, url, body)
            if response.status_code != 202:
                raise refused(url, response)
            yield batch, set(response.json()["event_ids"])


def open_session() -> requests.Session:
    """For `deliver`; it has the write key of this machine's API."""
    session = requests.Session()
    session.headers["Content-Type"] = "application/json"
    if key := own_write_key():
        session.headers["X-API-Key"] = key
    return session


def deliver(session: requests.Session, url: str, body: bytes, query: str = "") -> requests.Response:
    """The API's answer to a batch, when it is another one than to wait: 429 or 503.

    Blocks as long as the API asks to, at most `PATIENCE`. Raises PulseError when it is away, or takes no more.
    """
    deadline = time.monotonic() + PATIENCE
    while (response := _post(session, url, body, query)).status_code in (429, 503):
        pause = _retry_after(response)
        if time.monotonic() + pause > deadline:
            raise PulseError(f"The API at {url} has taken no events for {PATIENCE:.0f} s: {_message(response)}")
        tqdm.write(f"The API asks to wait {pause:.0f} s: {_message(response)}", file=sys.stderr)
        time.sleep(pause)
    return response


def refused(url: str, response: requests.Response) -> PulseError:
    """What to say when the API refuses a whole batch."""
    return PulseError(f"The API at {url} refused a batch (HTTP {response.status_code}): {_message(response)}")


def _post(session: requests.Session, url: str, body: bytes, query: str) -> requests.Response:
    try:
        return session.post(f"{url}/api/v1/track/batch{query}", data=body, timeout=TIMEOUT)
    except requests.RequestException as error:
        raise _unreachable(url, error) from error


def _retry_after(response: requests.Response) -> float:
    """Seconds; 1 when the header is missing or a date."""
    header = response.headers.get("Retry-After", "")
    return max(1.0, float(header)) if header.isdecimal() else 1.0


def _message(response: requests.Response) -> str:
    try:
        return str(response.json()["message"])
    except (ValueError, KeyError, TypeError):
        return response.reason or "no message; is this the Pulse API?"
