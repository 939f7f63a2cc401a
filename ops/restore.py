"""`python -m ops.restore --day D`: brings the exported events of a day back into MongoDB.

It sends each event of the day's files to the events topic; the consumer stores those that MongoDB does not have.
"""

import logging.config
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime

import click
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import track

from common import event_json, restored
from common.errors import DeliveryError, PulseError
from common.kafka import KafkaError, KafkaSender, Record
from common.logs import logging_config
from common.settings import load_export_settings, read_dotenv
from ops.export import columns
from ops.export.destination import Destination
from ops.export.mongo import MongoStore
from ops.export.state import File, Range

_CHUNK = 500


@click.command()
@click.option(
    "--day", type=click.DateTime(["%Y-%m-%d"]), required=True, help="The day on which the API received the events."
)
def main(day: datetime) -> None:
    """Send the events of a day's exported files to the events topic; the consumer stores those that are missing.

    They are not exported again. Events of forgotten customers are not stored, whether files still have them or not.
    """
    read_dotenv()
    settings = load_export_settings()
    logging.config.dictConfig(logging_config(settings.log))
    errors = Console(stderr=True)
    destination = Destination(settings.url)
    sent = 0
    with (
        closing(MongoStore(settings.mongo)) as store,
        closing(KafkaSender(settings.kafka, settings.kafka.topic)) as sender,
    ):
        files = files_of(day.date().isoformat(), store.ranges(settings.kafka.topic))
        for file in track(files, "files", console=errors, transient=True, disable=not errors.is_terminal):
            for records in records_of(file, destination):
                failed = [error for error in sender.send(records) if error is not None]
                if failed:
                    raise DeliveryError(
                        f"Kafka did not accept {len(failed):,} records ({failed[0]!r}): run the command again."
                    )
                sent += len(records)
    click.echo(f"{sent:,} events of {len(files):,} files were sent to {settings.kafka.topic}.")


def files_of(day: str, ranges: list[Range]) -> list[File]:
    """The files of a day, in the order of the places of their events."""
    return [file for one in ranges for file in one.files if file.day == day]


def records_of(file: File, destination: Destination) -> Iterator[list[Record]]:
    """The records that restore the events of a file, in chunks."""
    with destination.open(file.path) as content:
        for batch in pq.ParquetFile(content).iter_batches(_CHUNK):
            yield [
                Record(
                    row["customer_id"].encode(),
                    event_json.encode(columns.as_event(row)),
                    (restored.header(row["kafka"]),),
                )
                for row in batch.to_pylist()
            ]


if __name__ == "__main__":
    try:
        main(prog_name="python -m ops.restore")
    except (PulseError, KafkaError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)
