"""The lines of a CSV or NDJSON file, gzipped or not."""

import csv
import gzip
import hashlib
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from common.errors import InvalidEventError, PulseError
from common.event_json import parse_json

_GZIP = b"\x1f\x8b"
_PIECE = 1024 * 1024
_DELIMITERS = ",;\t|"
_NDJSON = (".ndjson", ".jsonl")


class Line(NamedTuple):
    """A line with its number, from 1. `content`: its values by column or name, or its fault."""

    number: int
    content: dict[str, Any] | InvalidEventError


class Identity(NamedTuple):
    """The digest of a file's decompressed contents, and its number of lines."""

    digest: str
    lines: int


def identify(file: Path, on_progress: Callable[[int], object]) -> Identity:
    """Read the whole file. `on_progress` gets the number of newly read bytes. Raises OSError, PulseError."""
    digest = hashlib.sha256()
    lines = 0
    before = 0
    with file.open("rb") as raw, _unpacked(raw) as content:
        while piece := _read(content, file):
            digest.update(piece)
            lines += piece.count(b"\n")
            on_progress(raw.tell() - before)
            before = raw.tell()
    return Identity(digest.hexdigest(), lines)


def is_csv(file: Path) -> bool:
    """The format, from the file's name. Raises PulseError if the name has no known suffix."""
    suffix = Path(file.name.removesuffix(".gz")).suffix.lower()
    if suffix in (".csv", ".tsv"):
        return True
    if suffix in _NDJSON:
        return False
    raise PulseError(f"{file} is neither: give a file named .csv, .tsv, .ndjson or .jsonl, with or without .gz.")


def columns(file: Path) -> list[str]:
    """The names in the first line of a CSV file. Raises OSError, PulseError."""
    with _text(file) as text:
        names = next(_rows(text, file), (1, []))[1]
    if not names or len(set(names)) < len(names):
        raise PulseError(f"The first line of {file} has to name its columns, each once.")
    return names


def read_lines(file: Path) -> Iterator[Line]:
    """The lines, without blank ones; for CSV, those after the header. Raises OSError, PulseError."""
    return _csv_lines(file) if is_csv(file) else _json_lines(file)


def _csv_lines(file: Path) -> Iterator[Line]:
    with _text(file) as text:
        rows = _rows(text, file)
        _, names = next(rows, (1, []))
        for number, cells in rows:
            if len(cells) == len(names):
                # An empty cell is no value.
                yield Line(number, {name: cell for name, cell in zip(names, cells, strict=True) if cell})
            elif cells:
                yield Line(number, InvalidEventError(f"Has {len(cells)} cells, where there are {len(names)} columns."))


@contextmanager
def _text(file: Path) -> Iterator[IO[str]]:
    # Invalid UTF-8 becomes surrogates, which the event's rules refuse.
    with (
        file.open("rb") as raw,
        _unpacked(raw) as content,
        io.TextIOWrapper(content, "utf-8-sig", errors="surrogateescape", newline="") as text,
    ):
        yield text


def _rows(text: IO[str], file: Path) -> Iterator[tuple[int, list[str]]]:
    """Each row with its first line: a quoted cell may span several lines."""
    first = text.readline()
    delimiter = max(_DELIMITERS, key=first.count)
    rows = csv.reader(_after(first, text), delimiter=delimiter)
    number = 1
    try:
        for cells in rows:
            yield number, cells
            number = rows.line_num + 1
    except csv.Error as error:
        raise PulseError(f"{file} cannot be read from line {number} on ({error}): is a quote never closed?") from error


def _after(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _json_lines(file: Path) -> Iterator[Line]:
    with file.open("rb") as raw, _unpacked(raw) as content:
        for number, line in enumerate(content, 1):
            if line.strip():
                yield Line(number, _object(line.strip()))


def _object(line: bytes) -> dict[str, Any] | InvalidEventError:
    try:
        value = parse_json(line)
    except InvalidEventError as error:
        return InvalidEventError(str(error).replace("The body", "The line"))
    return value if isinstance(value, dict) else InvalidEventError("The line is no JSON object.")


def _unpacked(raw: IO[bytes]) -> IO[bytes]:
    begins = raw.read(len(_GZIP))
    raw.seek(0)
    return cast("IO[bytes]", gzip.open(raw)) if begins == _GZIP else raw


def _read(content: IO[bytes], file: Path) -> bytes:
    try:
        return content.read(_PIECE)
    except (OSError, EOFError, zlib.error) as error:
        raise PulseError(f"{file} cannot be read to its end ({error}): is it whole?") from error
