"""The report of the measurements: rows of a table, with targets and ratios."""

import platform
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "benchmarks.md"

_PACKAGES = (
    "flask",
    "gunicorn",
    "marshmallow",
    "msgspec",
    "kafka-python-ng",
    "lmdb",
    "pymongo",
    "confluent-kafka",
    "fastapi",
    "aiokafka",
)


@dataclass(frozen=True, slots=True)
class Target:
    """A lower or an upper limit for the median."""

    at_least: float | None = None
    at_most: float | None = None

    def met_by(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        return f"≥ {shown(self.at_least)}" if self.at_least is not None else f"≤ {shown(self.at_most or 0.0)}"


@dataclass(frozen=True, slots=True)
class Row:
    """One measure, with a value per round. `beside` has the name and the values of another side, for the ratio."""

    what: str
    unit: str
    values: Sequence[float]
    target: Target | None = None
    beside: tuple[str, Sequence[float]] | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the median meets the target; None without a target."""
        return None if self.target is None else self.target.met_by(self.median)


def ratios(these: Iterable[float], those: Iterable[float]) -> list[float]:
    """The ratio of each round's two values."""
    return [this / that for this, that in zip(these, those, strict=True)]


def shown(value: float) -> str:
    """A number with three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def table(rows: Iterable[Row]) -> str:
    """The measures as a Markdown table."""
    return markdown(["What", "Unit", "Min", "Median", "Max", "Against", "Target", ""], map(_cells, rows))


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with aligned columns, for terminals too."""
    cells = [head, *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def replaced(document: str, part: str, measured: str) -> str:
    """The document with new measures in place of the part's old ones. Raises ValueError if it has no place for them."""
    begin, end = f"<!-- {part}: written by `make bench` -->\n", "<!-- end -->\n"
    before, found, rest = document.partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise ValueError(f"the document has no place for {part}")
    return f"{before}{begin}{measured}\n{end}{after}"


def machine(load_before: float) -> str:
    """A description of the machine and its packages; `load_before`: the load average at the beginning."""
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    model = next((line.partition(":")[2].strip() for line in _cpu_info() if line.startswith("model name")), "CPU")
    return (
        f"Measured on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC: {psutil.cpu_count()} cores of {model}, "
        f"{psutil.virtual_memory().total / 1e9:.0f} GB, {platform.system()} {platform.release()},\nshared by load "
        f"generator, API, broker and consumer. Load average at the beginning {load_before:.1f}.\n"
        f"Python {platform.python_version()}; {packages}."
    )


def _cpu_info() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []


def _cells(row: Row) -> list[str]:
    numbers = [shown(find(row.values)) for find in _FINDERS]
    beside = (
        "" if row.beside is None else f"{statistics.median(ratios(row.values, row.beside[1])):.2f} × {row.beside[0]}"
    )
    met = {None: "", True: "met", False: "not met"}[row.met]
    return [row.what, row.unit, *numbers, beside, str(row.target or ""), met]


_FINDERS: tuple[Callable[[Sequence[float]], float], ...] = (min, statistics.median, max)
