"""Formats letters: as rows, as bars, in full, and as JSON. The result is safe to print for all contents."""

import base64
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from rich.bar import Bar
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from common.events import format_timestamp
from common.kafka import ReceivedRecord
from common.terminal import printable
from consumer.dlq.letters import Letter

MOST_REASONS = 20
_NOTHING = "–"
_COLUMNS = ("letter", "time (UTC)", "reason", "source", "key", "attempts", "replays", "sent back")


def table(letters: Iterable[Letter], *, with_replayed: bool) -> Table:
    """One row per letter, in the given order. A narrow terminal truncates reasons and keys."""
    rows = Table(box=None, pad_edge=False, header_style="bold")
    for name in _COLUMNS[: len(_COLUMNS) if with_replayed else -1]:
        least = {"letter": 8, "time (UTC)": 19, "source": 8}.get(name, len(name))
        numeric = name in ("attempts", "replays")
        rows.add_column(name, no_wrap=True, min_width=least, justify="right" if numeric else "left")
    for letter in letters:
        cells = (
            letter.place,
            f"{letter.failed_at:%Y-%m-%d %H:%M:%S}",
            letter.reason,
            _source(letter),
            _key(letter),
            _NOTHING if letter.attempts is None else str(letter.attempts),
            str(letter.replays),
            "no" if letter.replayed_at is None else "yes",
        )
        rows.add_row(*(Text(printable(cell)) for cell in cells[: len(rows.columns)]))
    return rows


def statistics(letters: Iterable[Letter]) -> RenderableType:
    """The number of letters by reason, most frequent first, and by day, with bars in the width of the terminal."""
    reasons: Counter[str] = Counter()
    days: Counter[str] = Counter()
    for letter in letters:
        reasons[letter.reason] += 1
        days[f"{letter.failed_at:%Y-%m-%d}"] += 1
    by_reason = reasons.most_common(MOST_REASONS)
    if rest := reasons.total() - sum(count for _, count in by_reason):
        by_reason.append((f"({len(reasons) - MOST_REASONS} other reasons)", rest))
    heading = ("By reason", "By day (UTC)")
    return Group(
        Text(heading[0], "bold"), _bars(by_reason), Text(f"\n{heading[1]}", "bold"), _bars(sorted(days.items()))
    )


def whole(letter: Letter, record: ReceivedRecord) -> Iterator[str]:
    """All of a letter, line by line: headers, key, and the value as JSON, otherwise as text or escaped."""
    yield f"letter  {letter.place}"
    yield f"origin  {printable(letter.origin)}"
    yield f"key     {_key(letter)}"
    yield ""
    named = [(printable(name), printable(_readable(value))) for name, value in record.headers]
    width = max((len(name) for name, _ in named), default=0)
    yield from (f"{name:<{width}}  {value}" for name, value in named)
    yield ""
    if record.value is None:
        yield "no value"
        return
    yield f"value, {len(record.value):,} bytes:"
    yield from map(printable, (_pretty(record.value) or _readable(record.value)).split("\n"))


def as_json(letter: Letter, record: ReceivedRecord) -> str:
    """All of a letter as one line of JSON. Bytes that are not UTF-8 are in base64, with `_base64` added to their
    name.
    """
    return json.dumps(
        {
            "letter": letter.place,
            "origin": letter.origin,
            "time": format_timestamp(letter.failed_at),
            "reason": letter.reason,
            "topic": letter.topic,
            "partition": letter.source_partition,
            "offset": letter.source_offset,
            "event_type": letter.event_type,
            "attempts": letter.attempts,
            "replays": letter.replays,
            "replayed_at": None if letter.replayed_at is None else format_timestamp(letter.replayed_at),
            "headers": [{"name": name, **_bytes("value", value)} for name, value in record.headers],
            **_bytes("key", record.key),
            **_bytes("value", record.value),
        }
    )


def _bars(counts: list[tuple[str, int]]) -> Table:
    most = max((count for _, count in counts), default=0)
    rows = Table.grid(padding=(0, 2), expand=True)
    rows.add_column(no_wrap=True, overflow="ellipsis")
    rows.add_column(no_wrap=True, justify="right")
    rows.add_column(ratio=1)
    for name, count in counts:
        rows.add_row(Text(printable(name)), Text(f"{count:,}"), Bar(most, 0, count))
    return rows


def _source(letter: Letter) -> str:
    if letter.source_partition is None or letter.source_offset is None:
        return _NOTHING
    return f"{letter.source_partition}-{letter.source_offset}"


def _key(letter: Letter) -> str:
    return _NOTHING if letter.key is None else printable(_readable(letter.key))


def _readable(value: bytes) -> str:
    """The text, or, if it is not UTF-8, the bytes with non-ASCII ones escaped."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return repr(value)[2:-1]


def _pretty(value: bytes) -> str | None:
    """Indented JSON; None if that would not show the exact value: not JSON, NaN, a duplicate name, too deep."""
    try:
        content = json.loads(
            value.decode(), object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite_float
        )
        return json.dumps(content, indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError
    return content


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def _finite_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _bytes(name: str, value: bytes | None) -> dict[str, str | None]:
    try:
        return {name: None if value is None else value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(value or b"").decode()}
