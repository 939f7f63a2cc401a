"""Generated JSON of events, records and batches, with oddities that no encoder writes."""

import random
from collections.abc import Callable
from typing import Any

from common.events import DOCUMENTED_CONTEXT, EVENT_TYPES


def nested(levels: int, innermost: Any = 1) -> Any:
    """Objects within objects, N levels deep."""
    for _ in range(levels):
        innermost = {"a": innermost}
    return innermost


def words(text: str) -> list[str]:
    return text.split()


NUMBERS = words("""
    0 -0 -0.0 1.0 1e0 1E5 1e-400 0e99999999999 9007199254740993 9007199254740993.0 5e-324 2.2250738585072011e-308
    9223372036854775807 -9223372036854775808 1.7976931348623158e308 123456789012345678901234567890.0
""")
ODD_NUMBERS = words("""
    9223372036854775808 -9223372036854775809 9223372036854775808 -9223372036854775809 18446744073709551616
    1e400 -1e400 1e999999999999 01 1. .5 +1 - 1e 0x1 1_0 NaN Infinity -Infinity
""")
ODD_NUMBERS += ["9" * 400, "9" * 5000]
CHARACTERS = [*"aZ09 $.'/\x7f\u00a0\u2028\ufeffäß€😀", *words(r"\n \/ \" \\ \ud83d\uDE00 \u00A0 \u0041")]
ODD_CHARACTERS = ["\0", "\n", "\x1f"]
ODD_CHARACTERS += words(r"\u0000 \x \u12 \U0041 \ud83d \udc00 \ude00\ud83d \ud83d\u0041 \uD800\uD800")
TEXTS = ["a", "ä" * 128, "😀" * 128, "x" * 128, "\u0085b", "0"]
ODD_TEXTS = [
    "undefined",
    "null",
    "NaN",
    "[object Object]",
    " null",
    "",
    " ",
    r"\t\u2003",
    "\u00a0",
    "$a",
    r"\u0024a",
    "a.b",
    "x" * 129,
    "ä" * 256,
    "😀" * 257,
]
ODD_VALUES = ["True", '{"":{}}', '[{"$a":0}]', "", "'a'", "[" * 16 + "]" * 16, "[" * 2000 + "]" * 2000]
TIME = [["2026-", "9998-", "0002-"], ["01-30"], ["T", "t", " "], ["00:", "23:"], ["59:59"]]
TIME += [["", ".1", ".123456", ".1234567"], ["Z", "z", "+00:00", "-23:59"]]
ODD_TIME = [["0001-", "9999-", "26-", "²026-"], ["01-01", "12-31", "02-30", "W05-6"], ["x", ""], ["24:"]]
ODD_TIME += [["00:60", "60:00"], [".", ",5"], ["", "+0100", "+24:00", "+05:60", "+00:59", "Z ", "-00:00:30"]]
SPACES, ODD_SPACES = ["", "", "", " ", "\n\t\r "], ["\x0c", "\u00a0", "//", ","]
BAD_BYTES = [b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xef\xbb\xbf", b"\0", b"{}", b'"', b"\\", b","]


class Writer:
    """Writes JSON in which each part is odd with the probability `oddity`."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.oddity = rng.choice([0, 0, 0.02, 0.02, 0.1, 0.4])

    def odd(self) -> bool:
        return self.rng.random() < self.oddity

    def pick(self, plain: list[str], odd: list[str]) -> str:
        return self.rng.choice(odd if self.odd() else plain)

    def number(self) -> str:
        whole = str(self.rng.randrange(-(2**63), 2**63))
        broken = repr(self.rng.gauss(0, 1) * 10.0 ** self.rng.randrange(-320, 300))
        return self.pick([whole, broken, self.rng.choice(NUMBERS)], ODD_NUMBERS)

    def text(self) -> str:
        characters = "".join(self.pick(CHARACTERS, ODD_CHARACTERS) for _ in range(self.rng.randrange(5)))
        return f'"{self.pick([f"a{characters}", *TEXTS], [f"{characters}a", *ODD_TEXTS])}"'

    def time(self) -> str:
        return f'"{"".join(map(self.pick, TIME, ODD_TIME))}"'

    def scalar(self) -> str:
        return self.pick([self.number(), self.number(), self.text(), self.text(), "true", "false"], ODD_VALUES)

    def value(self, levels: int = 0) -> str:
        if self.rng.random() < 0.75 + 0.05 * levels:
            return self.pick([self.scalar(), self.scalar(), "null"], ODD_VALUES)
        if self.rng.random() < 0.5:
            return self.properties(levels + 1)
        return f"[{','.join(self.value(levels + 1) for _ in range(self.rng.randrange(4)))}]"

    def deep(self) -> str:
        """A value with about the maximum number of levels."""
        levels = self.rng.randrange(3, 19)
        opened = [self.rng.choice(["[", '{"a":']) for _ in range(levels)]
        return "".join(opened) + self.scalar() + "".join("]" if one == "[" else "}" for one in reversed(opened))

    def event_type(self) -> str:
        return f'"{self.pick([*EVENT_TYPES], ["login", "Click", "click "])}"'

    def object_of(self, required: dict[str, Callable[[], str]], optional: dict[str, Callable[[], str]]) -> str:
        """An object whose fields may be missing, doubled or unknown, or have the value of another field."""
        names = [name for name in required if not self.odd()] + [name for name in optional if self.rng.random() < 0.6]
        makers = required | optional
        members = [(f'"{name}"', self.anything() if self.odd() else makers[name]()) for name in names]
        if self.odd():
            again = self.rng.choice([*makers, "new", "_id", "customer\\u005fid"])
            members.insert(self.rng.randrange(3), (f'"{again}"', makers.get(again, self.anything)()))
        self.rng.shuffle(members)
        return self.joined(members)

    def joined(self, members: list[tuple[str, str]]) -> str:
        blank = self.pick(SPACES, ODD_SPACES)
        return "{" + ",".join(f"{blank}{key}{blank}:{blank}{value}{blank}" for key, value in members) + "}"

    def anything(self) -> str:
        return self.rng.choice([self.scalar(), self.time(), self.value(), self.properties(), *ODD_VALUES[:3]])

    def properties(self, levels: int = 0) -> str:
        if self.rng.random() < 0.002:
            count = self.rng.choice([240, 260, 499, 501, 999, 1001])
            return self.joined([(f'"{number:x}"', "0") for number in range(count)])
        count = self.rng.choice([0, 1, 2, 3, 3, 3])
        members = [(self.text(), self.value(levels)) for _ in range(count)]
        if levels == 0 and self.odd():
            members.append(('"deep"', self.deep()))
        return self.joined(members)

    def context(self) -> str:
        return self.object_of({}, dict.fromkeys(DOCUMENTED_CONTEXT, self.value))

    def parts(self) -> dict[str, Callable[[], str]]:
        names = ("event_name", "anonymous_id", "user_id", "previous_id", "group_id")
        objects = {"properties": self.properties, "context": self.context, "traits": self.properties}
        return {**dict.fromkeys(names, self.text), **objects}

    def event(self) -> str:
        required = {"customer_id": self.text, "event_type": self.event_type}
        return self.object_of(required, {"event_id": self.text, "timestamp": self.time, **self.parts()})

    def mapped(self) -> str:
        required = {"customer_id": self.text, "event_type": self.event_type}
        return self.object_of(required, {"event_id": self.text, "timestamp": self.time, **self.parts(), **self.ours()})

    def ours(self) -> dict[str, Callable[[], str]]:
        """The fields that only the API may add."""
        return {"extra": self.properties, "original_timestamp": self.time, "sent_at": self.time}

    def record(self) -> str:
        required = {"customer_id": self.text, "event_type": self.event_type, "event_id": self.text}
        times = {"timestamp": self.time, "received_at": self.time}
        names = dict.fromkeys(("source", "protocol"), self.text)
        return self.object_of(required | times, {**self.parts(), **self.ours(), **names})

    def batch(self) -> str:
        count = self.rng.choice([0, 1, 2, 3]) if self.rng.random() < 0.95 else self.rng.randrange(99, 102)
        return self.object_of({"events": lambda: f"[{','.join(self.event() for _ in range(count))}]"}, {})

    def bytes_of(self, document: str) -> bytes:
        """The document as bytes, sometimes with invalid bytes in it."""
        body = document.encode("utf-8", "surrogatepass")
        if not self.odd():
            return body
        place = self.rng.choice([0, len(body), self.rng.randrange(len(body))])
        return body[:place] + self.rng.choice(BAD_BYTES) + body[place:]
