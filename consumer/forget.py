"""`python -m consumer.forget CUSTOMER…`: deletes customers in MongoDB, and keeps them from being stored again.

The next run of the exporter deletes them from files and from BigQuery.
"""

import json
import logging.config
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click
from pymongo import MongoClient
from pymongo.errors import PyMongoError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from common.dead_letter_headers import REPLAYED_AT
from common.errors import ForgetError, PulseError
from common.events import format_timestamp
from common.kafka import KafkaError, KafkaReader, RecordReader
from common.logs import logging_config
from common.mongo_errors import first_line
from common.settings import KafkaSettings, load_forget_settings, read_dotenv
from common.terminal import printable
from consumer.customer_data import CustomerData, Found
from consumer.dlq.letters import Letter
from consumer.dlq.views import as_json
from consumer.forgetting import Forgetting, Kept, kept_in_kafka
from consumer.forgotten import FORGOTTEN, GRACE_SECONDS, Documents, whose_record

_CONNECT_MS = 10_000
# For one answer: a scan of a large collection takes long.
_ANSWER_MS = 3_600_000
_ALWAYS = datetime.max.replace(tzinfo=UTC)
_MOST_BESIDE = 10
_IN_EXPORTS = (
    "Exported files and BigQuery still have their events; `python -m ops.export run` deletes them there. "
    "`python -m ops.export status` shows whether it has finished."
)
_INTERRUPTED = "Interrupted. Deleted events stay deleted; run `python -m consumer.forget` again to continue."


@dataclass(frozen=True, slots=True)
class Stores:
    """The servers that hold data of a customer, and how to reach them."""

    events: Documents
    kafka: KafkaSettings
    open_letters: Callable[[], RecordReader]
    kept: Callable[[], list[Kept]]
    forgetting: Forgetting


@click.command()
@click.argument("customers", nargs=-1, metavar="CUSTOMER…")
@click.option("--show", is_flag=True, help="Print all stored data of them, one JSON object per line; delete nothing.")
@click.option("--dry-run", is_flag=True, help="Count what would be deleted; delete nothing.")
@click.pass_context
def cli(context: click.Context, customers: tuple[str, ...], *, show: bool, dry_run: bool) -> None:
    """Delete customers in MongoDB, and prevent that events which Kafka still holds of them are stored again.

    If events were exported, the next `python -m ops.export run` deletes them from files and from BigQuery.

    CUSTOMER is the customer_id, user_id, anonymous_id or previous_id of their events; `-` reads one per line from
    standard input. Without a CUSTOMER, the command continues an interrupted run.

    Events that they send from now on are stored.
    """
    try:
        ids = _ids(customers)
        stores: Stores = context.obj or _stores()
        if (show or dry_run) and not ids:
            raise click.UsageError("Name the customers.")
        if show:
            _show(stores, ids)
        elif dry_run:
            _count(stores, ids)
        else:
            _forget(stores, ids)
    except PyMongoError as error:
        raise click.ClickException(
            f"MongoDB failed ({first_line(error)}). Run the command again: it continues."
        ) from error
    except PulseError as error:
        raise click.ClickException(str(error)) from error
    except KafkaError as error:
        raise click.ClickException(f"Kafka refused: {error!r}") from error
    except KeyboardInterrupt:
        click.echo(_INTERRUPTED, err=True)
        sys.exit(130)


def _stores() -> Stores:
    read_dotenv()
    settings = load_forget_settings()
    logging.config.dictConfig(logging_config(settings.log))
    client: MongoClient[dict[str, Any]] = MongoClient(
        settings.mongo.uri,
        appname="pulse-forget",
        # Otherwise mongodb+srv would query the DNS here.
        connect=False,
        serverSelectionTimeoutMS=_CONNECT_MS,
        connectTimeoutMS=_CONNECT_MS,
        socketTimeoutMS=_ANSWER_MS,
        # A reported deletion must survive the loss of the primary.
        w="majority",
        journal=True,
    )
    events = client[settings.mongo.database][settings.mongo.collection]
    kafka = settings.kafka
    click.echo(f"Events in {events.full_name}, dead letters in {kafka.dlq_topic} at {kafka.broker_list}", err=True)
    return Stores(
        events,
        kafka,
        lambda: KafkaReader(kafka, kafka.dlq_topic),
        lambda: kept_in_kafka(kafka, datetime.now(UTC)),
        Forgetting(events),
    )


def _ids(customers: Sequence[str]) -> list[str]:
    """The ids to forget, without repetitions."""
    lines = sys.stdin.read().splitlines() if tuple(customers) == ("-",) else customers
    ids = list(dict.fromkeys(filter(str.strip, lines)))
    for id_ in ids:
        try:
            id_.encode()
        except UnicodeEncodeError:
            raise ForgetError("A customer's id is not valid UTF-8: no event can have it.") from None
    return ids


def _show(stores: Stores, ids: Sequence[str]) -> None:
    data = CustomerData(stores.events)
    customers = dict.fromkeys(ids, _ALWAYS)
    counts = [0, 0, 0]
    for event in data.events(customers):
        counts[0] += 1
        _print_json("event", {name: value for name, value in event.items() if name != "_id"})
    for stored in data.letters(customers):
        counts[1] += 1
        readable = {
            name: value.decode(errors="backslashreplace") if isinstance(value, bytes) else value
            for name, value in stored.fields.items()
            if name != "headers"
        }
        _print_json("dead letter in MongoDB", {"letter": stored.name, **readable})
    for letter in _letters_in_kafka(stores, ids):
        counts[2] += 1
        _print_json("dead letter in Kafka", json.loads(letter))
    click.echo(
        f"{counts[0]:,} events and {counts[1]:,} dead letters in MongoDB, {counts[2]:,} dead letters in Kafka.",
        err=True,
    )
    for id_ in ids:
        if record := stores.forgetting.record_of(id_):
            click.echo(_on_record(id_, record), err=True)


def _letters_in_kafka(stores: Stores, ids: Sequence[str]) -> Iterator[str]:
    with closing(stores.open_letters()) as reader:
        for record in reader.read():
            # A note holds only the key.
            if all(name != REPLAYED_AT for name, _ in record.headers):
                whose = whose_record(record.key, record.value, record.headers, record.timestamp_ms)
                if not set(ids).isdisjoint(whose.ids):
                    yield as_json(Letter.of(record, stores.kafka.dlq_topic, stores.kafka.topic), record)


def _print_json(what: str, content: dict[str, Any]) -> None:
    def text(value: Any) -> str:
        return format_timestamp(value) if isinstance(value, datetime) else str(value)

    click.echo(json.dumps({what.replace(" ", "_"): content}, default=text, ensure_ascii=False))


def _on_record(id_: str, record: Any) -> str:
    counts = f"{record.get('events', 0):,} events and {record.get('dead_letters', 0):,} dead letters deleted"
    begun = f"{printable(id_)}: forgotten on {record['before']:%Y-%m-%d %H:%M:%S} UTC, {counts}"
    if "done_at" in record:
        return f"{begun}; done on {record['done_at']:%Y-%m-%d %H:%M:%S} UTC, on record as {record['_id']}."
    command = "ops.export run" if record["state"] == "in_exports" else "consumer.forget"
    return f"{begun}; not finished: run `python -m {command}`."


def _count(stores: Stores, ids: Sequence[str]) -> None:
    found = CustomerData(stores.events).count(dict.fromkeys(ids, _ALWAYS))
    for id_ in ids:
        click.echo(f"{printable(id_)}: {found.events[id_]:,} events and {found.letters[id_]:,} dead letters in MongoDB")
    _print_beside(found)


def _forget(stores: Stores, ids: Sequence[str]) -> None:
    forgetting = stores.forgetting
    if ids:
        forgetting.begin(ids)
    customers = forgetting.unfinished()
    if not customers:
        raise click.UsageError("Name the customers: there is no interrupted run to continue.")
    if left := len(customers.keys() - set(ids)):
        click.echo(f"Continues with {left:,} customers of an interrupted run.", err=True)
    found = Found()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"))
    errors = Console(stderr=True)
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        deleting = progress.add_task("deleting", total=None, said="")
        waiting = progress.add_task("waiting for consumers", total=GRACE_SECONDS, said="", visible=False)
        deleted = 0

        def on_deleted(more: int) -> None:
            nonlocal deleted
            deleted += more
            progress.update(deleting, said=f"{deleted:,}")

        found.add(forgetting.delete(customers, on_deleted))
        while True:
            forgetting.wait(lambda seconds: progress.update(waiting, completed=seconds, visible=True))
            again = forgetting.delete(customers, on_deleted)
            if not again:
                break
            # A consumer had read these events before it read the list. There may be another consumer.
            found.add(again)
    try:
        kept, silence = stores.kept(), ""
    except (KafkaError, OSError, KeyError, ValueError) as error:
        kept, silence = [], f"Kafka did not tell how long it keeps their events ({error!r})."
    in_exports = forgetting.finish(customers, kept)
    _print_outcome(stores, customers, found, kept, silence)
    if in_exports:
        click.echo(_IN_EXPORTS)


def _print_outcome(
    stores: Stores, customers: dict[str, datetime], found: Found, kept: Sequence[Kept], silence: str
) -> None:
    deleted = f"{found.events.total():,} events and {found.letters.total():,} dead letters"
    click.echo(f"Forgotten: {len(customers):,} customers. Deleted in MongoDB: {deleted}.")
    click.echo("Events received before now are not stored again; events that they send from now on are.")
    if silence:
        click.echo(silence)
    for one in kept:
        if one.until is None:
            click.echo(f"Kafka keeps their records in {one.topic} forever: its retention.ms is negative.")
        else:
            click.echo(
                f"Kafka deletes their records in {one.topic} by {one.until:%Y-%m-%d %H:%M} UTC "
                f"(after {one.retention:g} days of retention and up to {one.segment:g} days until a file is closed)."
            )
    click.echo(
        "Not deleted: backups of MongoDB, and events in the journals of APIs, which are not stored once they are sent."
    )
    name = stores.events.name + FORGOTTEN
    for id_ in customers:
        click.echo(f"On record in {name}: {stores.forgetting.name_of(id_)}")
    _print_beside(found)


def _print_beside(found: Found) -> None:
    """Print the other ids in the events: of the same person, or of a device that others use, too."""
    for id_, count in found.beside.most_common(_MOST_BESIDE):
        click.echo(
            f"{count:,} of these events also name {printable(id_)}: if it is the same person, forget that id, too."
        )


if __name__ == "__main__":
    cli(prog_name="python -m consumer.forget")
