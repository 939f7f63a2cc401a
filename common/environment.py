"""Environment variables as fields of dataclasses: each is declared once, with its form, default and meaning.

`load` reads a dataclass from the environment. `effective` shows the values in use, without secrets. An empty variable
counts as not set, unless it is declared otherwise.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, TypeVar, cast, get_args

from environs import Env

from common.addresses import Address, parse_address
from common.errors import SettingsError

T = TypeVar("T")
S = TypeVar("S")

NOT_SHOWN = "(not shown)"
_ENVIRONMENT = Env()
_BYTES = {None: 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}
# Python's own int, float and \d accept the digits of every script, and int reads 1_0 as 10.
_WHOLE_NUMBER = re.compile(r"[0-9]{1,18}")
_NUMBER = re.compile(r"[0-9]{0,18}\.?[0-9]{1,18}")
_DURATION = re.compile(r"(?P<number>[0-9]{1,18}(?:\.[0-9]{1,18})?)(?P<unit>ms|s|m)")
_SIZE = re.compile(r"(?P<number>[0-9]{1,18})(?: ?(?P<unit>KiB|MiB|GiB))?")


@dataclass(frozen=True, slots=True)
class Form(Generic[T]):
    """What a variable may contain. `parse` raises ValueError, with the allowed values if they differ from `allowed`."""

    parse: Callable[[str], T]
    allowed: str


@dataclass(frozen=True, slots=True)
class Variable(Generic[T]):
    """The declaration of a variable. `default` is as in the environment, or describes the result of `computed`.

    `secret` hides the secret part of a valid value. `empty_is_value`: an empty variable overrides the default.
    """

    name: str
    form: Form[T]
    default: str
    meaning: str
    computed: Callable[[], str] | None = None
    secret: Callable[[str], str] | None = None
    empty_is_value: bool = False

    def default_text(self) -> str:
        """The default, as in the environment."""
        return self.computed() if self.computed else self.default

    def text(self) -> str:
        """The value in use, as in the environment."""
        text: str | None = _ENVIRONMENT.str(self.name, None)
        return text if text or (text == "" and self.empty_is_value) else self.default_text()

    def shown(self) -> str:
        """The value in use, without secrets."""
        text = self.text()
        return text and (self.secret or without_login)(text)

    def read(self) -> T:
        """The value in use. Raises SettingsError, which shows no secret."""
        text = self.text()
        try:
            return self.form.parse(text)
        except ValueError as error:
            shown = NOT_SHOWN if self.secret else without_login(text)
            raise SettingsError(self.name, shown, str(error) or self.form.allowed) from None

    def field(self) -> T:
        """A dataclass's field that `load` reads from the variable."""
        return field(
            default_factory=lambda: self.form.parse(self.default_text()),
            repr=self.secret is None,
            metadata={"variable": self},
        )


def hidden(_: str) -> str:
    """For the `secret` of a variable: hides the whole value."""
    return NOT_SHOWN


def without_login(text: str) -> str:
    """The value of a variable that is not secret. With an @, it may contain a login, as URLs do, and is hidden."""
    return NOT_SHOWN if "@" in text else text


def variable(name: str, form: Form[T], default: str, meaning: str, **options: Any) -> T:
    """A dataclass's field that `load` reads from the variable. `options`: see Variable."""
    return Variable(name, form, default, meaning, **options).field()


def load(settings: type[S]) -> S:
    """The settings, read from the environment. Raises SettingsError for the first value that is not allowed.

    A field without a variable is a group of settings; if it may be None, it is None when its first variable is empty.
    """
    values: dict[str, Any] = {}
    for each in fields(cast("Any", settings)):
        declared, group = each.metadata.get("variable"), _group(each.type)
        if declared:
            values[each.name] = declared.read()
        elif group is not each.type and not next(variables(group)).text():
            values[each.name] = None
        else:
            values[each.name] = load(group)
    return settings(**values)


def variables(settings: type) -> Iterator[Variable[Any]]:
    """The variables of the settings and of their groups."""
    for each in fields(settings):
        if declared := each.metadata.get("variable"):
            yield declared
        else:
            yield from variables(_group(each.type))


def _group(annotation: Any) -> Any:
    """The group of settings in its own type, or in `Group | None`."""
    return next(iter(get_args(annotation)), annotation)


def effective(settings: type, *, all_of_them: bool = True) -> dict[str, str]:
    """The values in use by variable, without secrets; otherwise only those that differ from the defaults."""
    return {
        each.name: each.shown() for each in variables(settings) if all_of_them or each.text() != each.default_text()
    }


# ── Forms ──


def whole_number(least: int, most: int) -> Form[int]:
    def parse(text: str) -> int:
        if not (_WHOLE_NUMBER.fullmatch(text) and least <= int(text) <= most):
            raise ValueError
        return int(text)

    return Form(parse, f"a whole number from {least} to {most}")


def size(least_mib: int = 1) -> Form[int]:
    """A number of bytes."""

    def parse(text: str) -> int:
        match = _SIZE.fullmatch(text)
        parsed = int(match["number"]) * _BYTES[match["unit"]] if match else 0
        if not least_mib * 1024**2 <= parsed <= 1024**4:
            raise ValueError
        return parsed

    return Form(parse, f"a size from {least_mib} MiB to 1024 GiB, such as 512 MiB or 1073741824")


def duration(least: float = 0.001) -> Form[float]:
    """A number of seconds."""

    def parse(text: str) -> float:
        match = _DURATION.fullmatch(text)
        seconds = float(match["number"]) * _SECONDS[match["unit"]] if match else -1.0
        if not least <= seconds <= 3_600:
            raise ValueError
        return seconds

    shortest = "1ms" if least else "0s"
    return Form(parse, f"a duration from {shortest} to 60m, such as 500ms, 1s or 2m")


def ratio() -> Form[float]:
    def parse(text: str) -> float:
        if not (_NUMBER.fullmatch(text) and float(text) <= 1):
            raise ValueError
        return float(text)

    return Form(parse, "a number from 0 to 1, such as 0.5")


def choice(literal: Any) -> Form[Any]:
    """One of the values of a Literal type."""
    return _one_of(get_args(literal))


def yes_or_no() -> Form[bool]:
    form = _one_of(("true", "false"))
    return Form(lambda text: form.parse(text) == "true", form.allowed)


def _one_of(choices: tuple[str, ...]) -> Form[str]:
    return matching("|".join(choices), f"one of {', '.join(choices)}")


def matching(pattern: str = r".+", allowed: str = "a text") -> Form[str]:
    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError
        return text

    return Form(parse, allowed)


def optional(form: Form[T]) -> Form[T | None]:
    """The form, or None for an empty value."""
    return Form(lambda text: form.parse(text) if text else None, form.allowed)


def several(parse_one: Callable[[str], T | None], allowed: str) -> Form[tuple[T, ...]]:
    """Values separated by commas, or none; `parse_one` refuses a value with None or ValueError."""

    def parse(text: str) -> tuple[T, ...]:
        parsed = [parse_one(each.strip()) for each in text.split(",")] if text else []
        if None in parsed:
            raise ValueError
        return tuple(cast("list[T]", parsed))

    return Form(parse, allowed)


def as_set(form: Form[tuple[T, ...]]) -> Form[frozenset[T]]:
    return Form(lambda text: frozenset(form.parse(text)), form.allowed)


def folder() -> Form[Path]:
    return Form(Path, "a folder")


def readable_file() -> Form[str]:
    def parse(text: str) -> str:
        try:
            Path(text).open("rb").close()
        except OSError as error:
            raise ValueError(f"a file that can be read ({error.strerror})") from None
        return text

    return Form(parse, "a file that can be read")


def address() -> Form[Address]:
    def parse(text: str) -> Address:
        if parsed := parse_address(text):
            return parsed
        raise ValueError

    return Form(parse, ":port or host:port, such as :8080, 127.0.0.1:8080 or [::1]:8080")
