"""Write keys, as API_KEYS and the file of API_KEYS_FILE have them."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from common.environment import Form
from common.errors import SettingsError

# No '=' in a secret without a name: `web=` is a name without its secret.
_WRITE_KEY = re.compile(
    r"(?:(?P<name>[A-Za-z0-9_.-]{1,64})=(?P<secret>[!-:<>-~][!-:<-~]{0,255})|(?P<bare>[!-:<>-~]{1,256}))"
    r"(?P<bounds>(?:;[a-z]+=[^;]*)*)"
)
_RATE = re.compile(r"(?P<events>[1-9][0-9]{0,8})/s")
_FORM = "name=secret, or name=secret;origins=https://shop.example;rate=500/s"
# No default port: browsers omit it, so an origin with it would never match.
ORIGIN = re.compile(
    r"(?!http://.*:80$|https://.*:443$)"
    r"(?:[a-z][a-z0-9+.-]*://[a-z0-9._-]+|https?://\[[0-9a-f:.]+\])(?::[0-9]{1,5})?"
)


@dataclass(frozen=True, slots=True)
class WriteKey:
    """A secret that allows its bearer to send events, and its name for logs and metrics.

    With `origins`, only pages of these origins may use it. `rate` limits its events per second, in each worker.
    """

    name: str
    secret: str = field(repr=False)
    origins: frozenset[str] = frozenset()
    rate: int | None = None


def read_write_keys(file: Path) -> tuple[WriteKey, ...]:
    """The keys in API_KEYS_FILE, one per line, without blank lines and those that begin with #.

    Raises SettingsError, which never shows the file's contents.
    """
    try:
        return _keys_in(file)
    except ValueError as error:
        raise SettingsError("API_KEYS_FILE", str(file), str(error)) from None


def write_keys() -> Form[tuple[WriteKey, ...]]:
    """The form of API_KEYS."""

    def parse(text: str) -> tuple[WriteKey, ...]:
        return tuple(_parse(each, number) for number, each in enumerate(text.split(","), 1)) if text else ()

    return Form(parse, f"{_FORM}, several separated by commas, without spaces")


def keys_file() -> Form[Path]:
    """The form of API_KEYS_FILE. Only checks the file: `api.auth` reads it again."""

    def parse(text: str) -> Path:
        _keys_in(Path(text))
        return Path(text)

    return Form(parse, f"a file with {_FORM}, one a line")


def _keys_in(file: Path) -> tuple[WriteKey, ...]:
    """Raises ValueError, which says what the file has to be."""
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ValueError(f"a file that can be read ({reason})") from None
    keys = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                keys.append(_parse(line, number))
            except ValueError:
                raise ValueError(f"a file with {_FORM}, one a line (line {number} is not)") from None
    return tuple(keys)


def _parse(text: str, number: int) -> WriteKey:
    """A `name=secret`, or only a secret, which is named after its number. Raises ValueError if it is neither.

    `;origins=`, with origins separated by `|`, and `;rate=`, with events per second, may follow in any order.
    """
    match = _WRITE_KEY.fullmatch(text.strip())
    if match is None:
        raise ValueError
    bounds = dict(each.split("=", 1) for each in match["bounds"].split(";")[1:])
    origins, rate = bounds.pop("origins", None), bounds.pop("rate", None)
    listed = frozenset(origins.lower().split("|")) if origins is not None else frozenset()
    events = _RATE.fullmatch(rate) if rate is not None else None
    if bounds or not all(map(ORIGIN.fullmatch, listed)) or (rate is not None and events is None):
        raise ValueError
    return WriteKey(
        match["name"] or f"key{number}",
        match["secret"] or match["bare"],
        listed,
        int(events["events"]) if events else None,
    )
