"""Loads written files into BigQuery: one job per received day and cycle, and each file in one job that succeeds.

The state records which files a job loads before it starts, and its id follows from them. So an exporter that starts
it a second time learns that it exists, and queries its outcome.
"""

import logging
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from typing import Any, NamedTuple, Protocol

from common.errors import ExportError
from consumer.forgotten import ID_FIELDS, by_time
from ops.export.destination import Destination
from ops.export.state import Exports, Load

logger = logging.getLogger(__name__)

_MOST_FILES = 1_000
_MOST_IDS = 1_000
_CALL_SECONDS = 60.0
_POLL_SECONDS = 2.0
_JOB_SECONDS = 3_600.0


class Outcome(NamedTuple):
    """The outcome of a job: the number of loaded rows, or the reason why it has loaded none."""

    rows: int
    error: str | None = None


class Warehouse(Protocol):
    """Runs load jobs."""

    table: str
    """The table that they load into."""

    def run(self, job_id: str, urls: Sequence[str]) -> Outcome:
        """Run a job with this id, unless it exists already, and wait for its end. It loads all of the files or none.

        Blocks for an hour at most; raises ExportError if its outcome is unknown.
        """

    def delete(self, customers: Mapping[str, datetime]) -> int:
        """Delete the events that name one of these and were received before their time; returns their number.

        Blocks for some minutes at most; raises ExportError.
        """


def load(topic: str, exports: Exports, warehouse: Warehouse, destination: Destination) -> list[str]:
    """Load the written files; returns a line for each failure. Raises ExportError and StoreError."""
    _propose(topic, exports, f"{warehouse.table} {destination.url}")
    failures = []
    for proposed in exports.open_loads():
        members = exports.settle(proposed)
        files = [file for member in members for file in member.files if file.day == proposed.day]
        if files:
            outcome = warehouse.run(proposed.job_id, [destination.url_of(file.path) for file in files])
            if outcome.error is not None:
                exports.failed(proposed)
                failures.append(f"{proposed.job_id}: {outcome.error}")
                continue
            expected = sum(file.rows for file in files)
            if outcome.rows != expected:
                said = {"job": proposed.job_id, "rows": outcome.rows, "expected": expected}
                logger.error("BigQuery loaded another number of rows than the files have", extra=said)
            logger.info("loaded", extra={"job": proposed.job_id, "files": len(files), "rows": outcome.rows})
        exports.loaded(proposed, members)
    return failures


def _propose(topic: str, exports: Exports, into: str) -> None:
    """Propose a load for each received day that has files which belong to no load."""
    days: dict[str, list[str]] = defaultdict(list)
    for written in exports.in_state(topic, "written"):
        for day in exports.free_days(written):
            days[day].append(written.id)
    for day, ranges in sorted(days.items()):
        for begin in range(0, len(ranges), _MOST_FILES):
            exports.propose(Load.of(day, ranges[begin : begin + _MOST_FILES], into))


class BigQuery:
    """`Warehouse` on BigQuery, or on the server at BIGQUERY_EMULATOR_HOST."""

    def __init__(self, table: str, *, sleep: Callable[[float], None] = time.sleep) -> None:
        """`table`: project.dataset.table. Queries its location: blocks for a minute at most; raises ExportError."""
        # The import takes half a second and 60 MB, which an export to files does not need.
        from google.api_core import exceptions  # noqa: PLC0415
        from google.auth import exceptions as auth_exceptions  # noqa: PLC0415
        from google.auth.credentials import AnonymousCredentials  # noqa: PLC0415
        from google.cloud import bigquery  # noqa: PLC0415
        from requests import RequestException  # noqa: PLC0415

        self.table = table
        self._bigquery = bigquery
        self._exists = exceptions.Conflict
        self._errors = (exceptions.GoogleAPIError, auth_exceptions.GoogleAuthError, RequestException)
        self._sleep = sleep
        # A stand-in needs no credentials.
        emulated = bool(os.environ.get("BIGQUERY_EMULATOR_HOST"))
        credentials: Any = AnonymousCredentials() if emulated else None  # type: ignore[no-untyped-call]
        try:
            self._client = bigquery.Client(project=table.split(".", maxsplit=1)[0], credentials=credentials)
            there = self._client.get_table(table, timeout=_CALL_SECONDS)
        except self._errors as error:
            raise ExportError(f"BigQuery's table {table} cannot be used: {_one_line(error)}") from error
        self._location = there.location

    def run(self, job_id: str, urls: Sequence[str]) -> Outcome:
        config = self._bigquery.LoadJobConfig(
            source_format="PARQUET", write_disposition="WRITE_APPEND", create_disposition="CREATE_NEVER"
        )
        try:
            try:
                job: Any = self._client.load_table_from_uri(
                    list(urls),
                    self.table,
                    job_id=job_id,
                    location=self._location,
                    job_config=config,
                    timeout=_CALL_SECONDS,
                )
            except self._exists:
                job = self._client.get_job(job_id, location=self._location, timeout=_CALL_SECONDS)
            deadline = time.monotonic() + _JOB_SECONDS
            while job.state != "DONE":
                if time.monotonic() > deadline:
                    raise ExportError(
                        f"BigQuery's job {job_id} runs for more than an hour; the next run checks it again."
                    )
                self._sleep(_POLL_SECONDS)
                job.reload(timeout=_CALL_SECONDS)
        except self._errors as error:
            raise ExportError(f"BigQuery did not return the state of job {job_id}: {_one_line(error)}") from error
        if sorted(job.source_uris) != sorted(urls):
            raise ExportError(f"BigQuery's job {job_id} loads other files: does another Pulse use that project?")
        if job.error_result:
            return Outcome(0, _message(job.error_result))
        return Outcome(job.output_rows or 0)

    def event_ids(self, day: date, times: tuple[datetime, datetime]) -> Counter[str]:
        """Count the rows of each event received on a day (UTC), among those with a `timestamp` between two.

        Blocks for some minutes at most; raises ExportError.
        """
        parameter = self._bigquery.ScalarQueryParameter
        config = self._bigquery.QueryJobConfig(
            query_parameters=[
                parameter("day", "DATE", day),
                parameter("first", "TIMESTAMP", times[0]),
                parameter("last", "TIMESTAMP", times[1]),
            ]
        )
        # The second condition selects the table's partitions.
        query = (
            f"SELECT event_id FROM `{self.table}` "  # noqa: S608, as the settings have it
            "WHERE DATE(received_at) = @day AND timestamp BETWEEN @first AND @last"
        )
        try:
            rows = self._client.query_and_wait(query, job_config=config, location=self._location, wait_timeout=600)
            return Counter(row["event_id"] for row in rows)
        except self._errors as error:
            raise ExportError(f"BigQuery's table {self.table} cannot be read: {_one_line(error)}") from error

    def delete(self, customers: Mapping[str, datetime]) -> int:
        deleted = 0
        for before, ids in by_time(customers).items():
            for first in range(0, len(ids), _MOST_IDS):
                some = ids[first : first + _MOST_IDS]
                config = self._bigquery.QueryJobConfig(
                    query_parameters=[
                        self._bigquery.ArrayQueryParameter("ids", "STRING", some),
                        self._bigquery.ScalarQueryParameter("before", "TIMESTAMP", before),
                    ]
                )
                named = " OR ".join(f"{name} IN UNNEST(@ids)" for name in ID_FIELDS)
                # The table requires a condition on its partitions; a client's clock can have any value.
                query = (
                    f"DELETE FROM `{self.table}` WHERE timestamp >= TIMESTAMP '0001-01-01' "  # noqa: S608, as above
                    f"AND received_at < @before AND ({named})"
                )
                try:
                    rows = self._client.query_and_wait(
                        query, job_config=config, location=self._location, wait_timeout=600
                    )
                except self._errors as error:
                    raise ExportError(
                        f"BigQuery did not delete forgotten customers from {self.table}: {_one_line(error)}"
                    ) from error
                deleted += rows.num_dml_affected_rows or 0
        return deleted


def _message(error: Any) -> str:
    return f"{error.get('message')} ({error.get('reason')})"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
