"""A range's events into Parquet files, one a received day: the same range, the same names, the same rows."""

import hashlib
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from ops.export import columns
from ops.export.destination import Destination
from ops.export.state import Document, File, Range

_MOST_OPEN = 16


def write(
    planned: Range,
    documents: Callable[[], Iterable[Sequence[Document]]],
    destination: Destination,
    on_rows: Callable[[int], None],
) -> list[File]:
    """Write the range's documents and return the files. `documents` gives them in batches, the same at each call.

    `on_rows` hears how many more are written. Blocks as reading and uploading do; raises ExportError and OSError.
    """
    files: dict[str, File] = {}
    skipped = True
    # Most ranges have one day or two. Where there are many, some are written in another turn: open files cost memory.
    while skipped:
        skipped = False
        with tempfile.TemporaryDirectory(prefix="pulse-export-") as folder:
            writers: dict[str, _DayFile] = {}
            for batch in documents():
                for day, of_day in _by_day(batch).items():
                    if day in files:
                        continue
                    if day not in writers and len(writers) == _MOST_OPEN:
                        skipped = True
                        continue
                    if day not in writers:
                        writers[day] = _DayFile(Path(folder) / day)
                    writers[day].add(of_day)
                    on_rows(len(of_day))
            for day, writer in writers.items():
                files[day] = writer.put(destination, day, f"events/day={day}/{planned.id}.parquet")
    return [files[day] for day in sorted(files)]


def _by_day(batch: Sequence[Document]) -> dict[str, list[Document]]:
    days: dict[str, list[Document]] = defaultdict(list)
    for document in batch:
        days[columns.received_day(document)].append(document)
    return days


class _DayFile:
    """A Parquet file on the local disk: a batch, a group of rows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows = 0
        self._writer = pq.ParquetWriter(path, columns.SCHEMA, compression="zstd")

    def add(self, documents: Sequence[Document]) -> None:
        self._writer.write_batch(columns.as_rows(documents))
        self._rows += len(documents)

    def put(self, destination: Destination, day: str, path: str) -> File:
        """Finish the file and put it where it belongs."""
        self._writer.close()
        with self._path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        size = self._path.stat().st_size
        destination.put(self._path, path)
        self._path.unlink()
        return File(day, path, self._rows, size, digest)
