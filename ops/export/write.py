"""Writes the events of a range to Parquet files, one per received day: the same names and rows at each attempt."""

import hashlib
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import ExportError
from ops.export import columns
from ops.export.destination import Destination
from ops.export.state import WRITE_SECONDS, Document, File, Range

_MOST_OPEN = 16


def write(
    planned: Range,
    documents: Callable[[], Iterable[Sequence[Document]]],
    destination: Destination,
    *,
    on_rows: Callable[[int], None],
    on_put: Callable[[File], None],
) -> list[File]:
    """Write the range's documents and return the files. `documents` gives them in batches, the same at each call.

    `on_rows` hears how many more are written; `on_put`, before each is put, which file. Blocks as
    reading and uploading do; raises ExportError and OSError.
    """
    files: dict[str, File] = {}
    deadline = time.monotonic() + WRITE_SECONDS
    skipped = True
    # Most ranges have one or two days. With many, some are written in a further pass, as open files cost memory.
    while skipped:
        skipped = False
        with tempfile.TemporaryDirectory(prefix="pulse-export-") as folder:
            writers: dict[str, DayFile] = {}
            for batch in documents():
                for day, of_day in _by_day(batch).items():
                    if day in files:
                        continue
                    if day not in writers and len(writers) == _MOST_OPEN:
                        skipped = True
                        continue
                    if day not in writers:
                        writers[day] = DayFile(Path(folder) / day, columns.SCHEMA, deadline)
                    writers[day].add(columns.as_rows(of_day))
                    on_rows(len(of_day))
            for day, writer in writers.items():
                file = File(day, f"events/day={day}/{planned.id}.parquet", url=destination.url)
                on_put(file)
                files[day] = writer.put(destination, file)
    return [files[day] for day in sorted(files)]


def _by_day(batch: Sequence[Document]) -> dict[str, list[Document]]:
    days: dict[str, list[Document]] = defaultdict(list)
    for document in batch:
        days[columns.received_day(document)].append(document)
    return days


class DayFile:
    """A Parquet file on the local disk; each batch becomes a row group."""

    def __init__(self, path: Path, schema: pa.Schema, deadline: float) -> None:
        """`deadline`: the time on the monotonic clock after which it must not be uploaded."""
        self._path = path
        self._deadline = deadline
        self._rows = 0
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")

    def add(self, rows: pa.RecordBatch) -> None:
        self._writer.write_batch(rows)
        self._rows += len(rows)

    def put(self, destination: Destination, file: File) -> File:
        """Finish the file and upload it; returns it with its contents described. Raises ExportError, OSError."""
        self._writer.close()
        if time.monotonic() > self._deadline:
            # Other exporters now assume that this one is dead.
            raise ExportError(
                f"{file.path} took more than {WRITE_SECONDS / 60:g} minutes to write: lower EXPORT_MAX_ROWS for the "
                "ranges to come. The next run writes this one."
            )
        with self._path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        size = self._path.stat().st_size
        destination.put(self._path, file.path)
        self._path.unlink()
        return replace(file, rows=self._rows, size=size, sha256=digest)
