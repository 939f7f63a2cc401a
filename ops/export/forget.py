"""Deletes forgotten customers from files and from BigQuery, after `consumer.forget` has deleted them in MongoDB.

It is a step of each run, and each part of it is idempotent: after any failure the next run continues.
docs/architecture.md has the argument that no event of theirs is left.
"""

import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial, reduce
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from common.errors import ExportError
from consumer.forgotten import ID_FIELDS, by_time
from ops.export.destination import Destination
from ops.export.load import Warehouse
from ops.export.state import WRITE_SECONDS, File, Forgetting, Range
from ops.export.write import DayFile

logger = logging.getLogger(__name__)

Customers = Mapping[str, datetime]
"""By id, the time before which the events to delete were received."""

_ROWS = 5_000


@dataclass(slots=True)
class Forgotten:
    """The numbers of deleted customers, of rewritten files, and of the rows deleted from these and from BigQuery.

    `missing`: the number of files that no longer exist. `waits_until`: nothing was done; an exporter may still write.
    """

    customers: int = 0
    files: int = 0
    rows: int = 0
    bigquery_rows: int = 0
    missing: int = 0
    waits_until: datetime | None = None
    problems: list[str] = field(default_factory=list)


def forget(
    store: Forgetting, destination: Destination, warehouse: Warehouse | None, finish_loads: Callable[[], list[str]]
) -> Forgotten:
    """Delete the events of forgotten customers from files and BigQuery.

    `finish_loads` waits for jobs that may have read an earlier file; it returns a line for each failure. Blocks as long
    as reading five columns of all files takes; raises StoreError, ExportError, OSError.
    """
    done = Forgotten()
    customers = store.forgotten()
    if not customers:
        return done
    # Before the files are read: an exporter that begins to write later finds no such events in MongoDB.
    done.waits_until = store.busy_until(datetime.now(UTC))
    if done.waits_until is not None:
        return done
    if warehouse is None and store.has_loads():
        raise ExportError(
            "BigQuery may have events of forgotten customers, since files were loaded into it: set "
            "EXPORT_BIGQUERY_TABLE, and the next run deletes them there."
        )
    last_day = max(customers.values()).date().isoformat()
    look = partial(_look, store, destination, customers, done)
    for written in store.all_ranges():
        known = {file.path for file in written.files}
        for file in (*written.files, *(one for one in written.tried if one.path not in known)):
            if file.day <= last_day:
                look(written, file)
    if warehouse is not None:
        # A job that began earlier could load the rows after they were deleted.
        done.problems += finish_loads()
        done.bigquery_rows = warehouse.delete(customers)
    if not done.problems:
        store.forget_done(customers)
        done.customers = len(customers)
        said = {"customers": done.customers, "files": done.files, "rows": done.rows, "in_bigquery": done.bigquery_rows}
        logger.info("forgotten customers deleted from files", extra=said)
    return done


def _look(  # noqa: PLR0917, the first four are the same for all files
    store: Forgetting, destination: Destination, customers: Customers, done: Forgotten, written: Range, file: File
) -> None:
    """Rewrite a file if it has rows of these customers, or if a run that died has rewritten it."""
    there = destination if file.url == destination.url else Destination(file.url)
    try:
        if not _has(file, there, customers):
            return
        store.begin_again(written)
        # Now: another run may know more customers, and have finished this file.
        new = _rewrite(file, there, store.forgotten())
    except FileNotFoundError:
        there.check()
        done.missing += file.rows >= 0
        return
    store.rewritten(written, file, new)
    done.files += 1
    done.rows += max(0, file.rows - new.rows)


def _has(file: File, there: Destination, customers: Customers) -> bool:
    with there.open(file.path) as content:
        parquet = pq.ParquetFile(content)
        if (parquet.metadata.num_rows, content.size()) != (file.rows, file.size):
            return True
        return any(pc.any(_theirs(rows, customers)).as_py() for rows in _batches(parquet, [*ID_FIELDS, "received_at"]))


def _rewrite(file: File, there: Destination, customers: Customers) -> File:
    deadline = time.monotonic() + WRITE_SECONDS
    with tempfile.TemporaryDirectory(prefix="pulse-export-") as folder:
        with there.open(file.path) as content:
            parquet = pq.ParquetFile(content)
            writer = DayFile(Path(folder) / file.day, parquet.schema_arrow, deadline)
            for rows in _batches(parquet, None):
                writer.add(rows.filter(pc.invert(_theirs(rows, customers))))
        return writer.put(there, file)


def _batches(parquet: pq.ParquetFile, names: list[str] | None) -> Iterable[pa.RecordBatch]:
    batches: Iterable[pa.RecordBatch] = parquet.iter_batches(_ROWS, columns=names)
    return batches


def _theirs(rows: pa.RecordBatch, customers: Customers) -> pa.Array:
    """For each row, whether it names one of the customers and was received before their time."""
    theirs = []
    received_at = rows["received_at"]
    for before, ids in by_time(customers).items():
        named = [pc.is_in(rows[name], value_set=pa.array(ids, pa.string())) for name in ID_FIELDS]
        early = pc.less(received_at, pa.scalar(before, received_at.type))
        theirs.append(pc.and_(reduce(pc.or_, named), early))
    return reduce(pc.or_, theirs) if theirs else pa.array([False] * len(rows))
