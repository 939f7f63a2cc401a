"""`python -m ops.export`: copies stored events to Parquet files and, if configured, into BigQuery, each event once."""

import logging.config
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from common.commands import Commands
from common.errors import PulseError
from common.kafka import KafkaError, group_offsets
from common.logs import log_settings, logging_config
from common.settings import ExportSettings, load_export_settings, read_dotenv
from ops.export import exporter, metrics_server
from ops.export.consumed import missing_event
from ops.export.destination import Destination
from ops.export.forget import Forgotten
from ops.export.load import BigQuery
from ops.export.mongo import MongoStore
from ops.export.report import Report, report
from ops.export.ttl import refuse_short_ttl

logger = logging.getLogger(__name__)


@click.group(cls=Commands)
@click.pass_context
def cli(context: click.Context) -> None:
    """Export stored events, each once: to Parquet files at EXPORT_URL, and from there to EXPORT_BIGQUERY_TABLE."""
    read_dotenv()
    context.obj = settings = load_export_settings()
    logging.config.dictConfig(logging_config(settings.log))


@cli.command()
@click.option("--new-generation", is_flag=True, help="Continue with a topic that was deleted and created again.")
@click.pass_obj
def run(settings: ExportSettings, *, new_generation: bool) -> None:
    """Export the events stored since the last run. Exits 1 if a part fails; the next run continues."""
    with _parts(settings) as parts:
        sys.exit(_cycle(settings, partial(exporter.run, parts, new_generation=new_generation)))


@cli.command()
@click.option("--every", type=click.IntRange(1), metavar="SECONDS", help="Also run an export every N seconds.")
@click.pass_obj
def serve(settings: ExportSettings, *, every: int | None) -> None:
    """Serve the metrics of all exporters at EXPORT_METRICS_ADDR. Runs until it is stopped."""
    ran_at = -math.inf

    def export_if_due() -> None:
        nonlocal ran_at
        if every is not None and time.monotonic() - ran_at >= every:
            ran_at = time.monotonic()
            try:
                with _parts(settings) as parts:
                    _cycle(settings, partial(exporter.run, parts))
            except (PulseError, KafkaError) as error:
                logger.warning("export failed; the next one continues", extra={"error": str(error)})

    log_settings("export", settings)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with closing(MongoStore(settings.mongo)) as store:
        metrics_server.serve(settings.metrics_address, partial(_report, settings, store), export_if_due)


@cli.command()
@click.pass_obj
def backfill(settings: ExportSettings) -> None:
    """Export events stored by version 0.1, which have no place in Kafka. Run it once all consumers are upgraded."""
    with _parts(settings) as parts:
        sys.exit(_cycle(settings, partial(exporter.backfill, parts)))


@cli.command()
@click.pass_obj
def status(settings: ExportSettings) -> None:
    """Show what is exported and how far the export is behind."""
    with closing(MongoStore(settings.mongo)) as store:
        said = _report(settings, store)
    click.echo(f"Exports of {settings.kafka.topic} to {settings.url}")
    for line in said.lines():
        click.echo(line)


def _report(settings: ExportSettings, store: MongoStore) -> Report:
    topic = settings.kafka.topic
    return report(topic, store, group_offsets(settings.kafka, topic, settings.group_id))


@contextmanager
def _parts(settings: ExportSettings) -> Iterator[exporter.Parts]:
    """The parts of a cycle. Raises ExportError, StoreError, KafkaError."""
    with closing(MongoStore(settings.mongo)) as store:
        store.ensure_index()
        refuse_short_ttl(settings.kafka, store.ttl_seconds())
        yield exporter.Parts(
            topic=settings.kafka.topic,
            store=store,
            destination=Destination(settings.url),
            warehouse=BigQuery(settings.bigquery_table) if settings.bigquery_table else None,
            offsets=partial(group_offsets, settings.kafka, settings.kafka.topic, settings.group_id),
            missing_event=partial(missing_event, settings.kafka, store),
            max_rows=settings.max_rows,
            min_age=settings.min_age,
        )


def _cycle(settings: ExportSettings, cycle: Callable[[exporter.Progress], exporter.Outcome]) -> int:
    """Run a cycle, show its progress and its outcome; returns the exit code."""
    errors = Console(stderr=True)
    columns = (TextColumn("ranges"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rows]:,} rows"))
    with Progress(
        *columns, TimeElapsedColumn(), console=errors, transient=True, disable=not errors.is_terminal
    ) as progress:
        outcome = cycle(_Bar(progress))
    rows = sum(one.rows for one in outcome.written)
    files = [file for one in outcome.written for file in one.files]
    if not files and not outcome.problems:
        click.echo("Nothing new to export.")
    elif files:
        click.echo(f"{rows:,} events in {len(files):,} new files at {settings.url}/events")
        click.echo(f"Read them: {_duckdb(settings.url)}")
    if settings.min_age:
        click.echo(f"Events stored in the last {settings.min_age:g} s wait for the next run (EXPORT_MIN_AGE).")
    for line in _of_forgotten(outcome.forgotten):
        click.echo(line)
    for problem in outcome.problems:
        click.echo(f"Failed: {problem}", err=True)
    return 1 if outcome.problems else 0


def _of_forgotten(forgotten: Forgotten) -> Iterator[str]:
    if forgotten.waits_until is not None:
        yield (
            "Forgotten customers are still in files: another exporter is writing, or was killed while it wrote. A run "
            f"after {forgotten.waits_until:%Y-%m-%d %H:%M} UTC deletes them."
        )
    if forgotten.files or forgotten.customers:
        yield (
            f"Forgotten customers: {forgotten.rows:,} events deleted from {forgotten.files:,} files, "
            f"{forgotten.bigquery_rows:,} rows from BigQuery."
        )
    if forgotten.missing:
        yield f"{forgotten.missing:,} files that may hold forgotten customers no longer exist."


def _duckdb(url: str) -> str:
    """A command that reads the files."""
    files = f"{url.removeprefix('file://')}/events/*/*.parquet"
    return f"duckdb -c \"FROM read_parquet('{files}') SELECT event_type, count(*) GROUP BY ALL\""


class _Bar:
    """The progress of a cycle as a bar."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=0, rows=0)
        self._ranges = 0
        self._rows = 0

    def begin(self, ranges: int) -> None:
        self._ranges += ranges
        self._progress.update(self._task, total=self._ranges)

    def rows(self, more: int) -> None:
        self._rows += more
        self._progress.update(self._task, rows=self._rows)

    def done(self) -> None:
        self._progress.advance(self._task)


if __name__ == "__main__":
    cli(prog_name="python -m ops.export")
