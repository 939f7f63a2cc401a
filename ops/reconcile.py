"""`python -m ops.reconcile --day D`: checks that each event received on a day is where it should be, once.

It compares Kafka, dead letters, MongoDB, exported files and BigQuery, and names each missing id.
"""

import logging.config
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

import click
import pyarrow.parquet as pq

from common import event_json
from common.errors import InvalidEventError, PulseError
from common.kafka import GroupOffsets, KafkaError, KafkaReader, ReceivedRecord, group_offsets
from common.logs import logging_config
from common.settings import load_export_settings, read_dotenv
from consumer.forgotten import ForgottenList, ids_in
from ops.export.consumed import dead_places
from ops.export.destination import Destination
from ops.export.load import BigQuery
from ops.export.mongo import MongoStore
from ops.export.plan import find_late, plan_late
from ops.restore import files_of

_SHOWN = 20


@dataclass(slots=True)
class Findings:
    """The number of events in each place; by sentence, the ids of faults (`wrong`) and of other states (`notes`)."""

    found: dict[str, int] = field(default_factory=dict)
    wrong: dict[str, list[str]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def lines(self, most: int) -> Iterator[str]:
        """The findings for a person, with at most `most` ids per sentence."""
        for place, count in self.found.items():
            yield f"{count:>12,} {place}"
        for said in (self.wrong, self.notes):
            for sentence, ids in said.items():
                if ids:
                    yield f"{len(ids):>12,} {sentence}"
                    yield from (f"{'':14}{one}" for one in sorted(ids)[:most])
                    if len(ids) > most:
                        yield f"{'':14}and {len(ids) - most:,} more: see --all"

    @property
    def ok(self) -> bool:
        return not any(self.wrong.values())


@click.command()
@click.option(
    "--day", type=click.DateTime(["%Y-%m-%d"]), required=True, help="The day on which the API received the events."
)
@click.option("--all", "all_ids", is_flag=True, help=f"Name all missing ids, not {_SHOWN} of each kind.")
@click.option(
    "--export-late", is_flag=True, help="Plan events stored after their range was exported: the next run exports them."
)
def main(day: datetime, *, all_ids: bool, export_late: bool) -> None:
    """Compare where a day's events are. Exits 1 if an event is missing, or is in a place twice."""
    read_dotenv()
    settings = load_export_settings()
    logging.config.dictConfig(logging_config(settings.log))
    kafka = settings.kafka
    warehouse = BigQuery(settings.bigquery_table) if settings.bigquery_table else None
    with closing(MongoStore(settings.mongo)) as store:
        # The group's offsets before MongoDB is read: events that it commits later may be stored later.
        offsets = group_offsets(kafka, kafka.topic, settings.group_id)
        store.catch_up(kafka.topic)
        in_kafka = _in_kafka(KafkaReader(kafka, kafka.topic), day.date(), offsets, store.forgotten_list())
        dead = dead_places(KafkaReader(kafka, kafka.dlq_topic), kafka.topic)
        findings = compare(
            kafka.topic,
            day.date(),
            in_kafka=in_kafka,
            dead=dead,
            store=store,
            destination=Destination(settings.url),
            in_bigquery=warehouse.event_ids if warehouse else None,
            export_late=export_late,
        )
    click.echo(f"Events received on {day.date()} (UTC)")
    for line in findings.lines(sys.maxsize if all_ids else _SHOWN):
        click.echo(line)
    click.echo("Nothing is missing." if findings.ok else "Something is missing: see above.")
    sys.exit(not findings.ok)


Places = Mapping[tuple[int, int], str]
"""By partition and offset, the id of the event there."""


def compare(
    topic: str,
    day: date,
    *,
    in_kafka: Places,
    dead: frozenset[tuple[int, int]],
    store: MongoStore,
    destination: Destination,
    in_bigquery: Callable[[date, tuple[datetime, datetime]], Counter[str]] | None,
    export_late: bool = False,
) -> Findings:
    """Compare where a day's events are. Raises StoreError, ExportError, OSError."""
    # Before MongoDB is read: an event written in the meantime is not missing.
    ranges = store.ranges(topic)
    stored = {event_id: (id_, place) for event_id, id_, place in store.received_on(day)}
    in_files: Counter[str] = Counter()
    times: list[datetime] = []
    for file in files_of(day.isoformat(), ranges):
        with destination.open(file.path) as content:
            rows = pq.ParquetFile(content).read(["event_id", "timestamp"])
        in_files.update(rows["event_id"].to_pylist())
        times += rows["timestamp"].to_pylist()
    findings = Findings()
    findings.found["in Kafka, up to the consumer's offsets"] = len(in_kafka)
    findings.found["in MongoDB"] = len(stored)
    findings.found["in exported files"] = in_files.total()
    lost = [event for place, event in in_kafka.items() if event not in stored and place not in dead]
    findings.wrong["are neither in MongoDB nor a dead letter, although the consumer has read them"] = [
        event for event in lost if event not in in_files
    ]
    findings.wrong["are in files more than once"] = [event for event, times_ in in_files.items() if times_ > 1]
    covered: list[str] = []
    waiting: list[str] = []
    for event, (id_, place) in stored.items():
        if event not in in_files:
            at = (place["partition"], place["offset"]) if place else None
            done = any(at and one.has(*at, id_) and one.state != "planned" for one in ranges)
            (covered if done else waiting).append(event)
    findings.wrong["are in MongoDB, but not in the files of their range"] = covered
    by_id = {stored[event][0]: event for event in waiting}
    places = [(id_, place["partition"], place["offset"]) for id_, event in by_id.items() if (place := stored[event][1])]
    late = find_late(topic, places, ranges, store)
    if export_late:
        plan_late(topic, late, store)
        findings.notes["were stored after their range was exported; the next export takes them"] = [
            by_id[id_] for id_ in late
        ]
    else:
        findings.wrong["were stored after their range was exported: --export-late plans them"] = [
            by_id[id_] for id_ in late
        ]
    findings.notes["wait for the next export"] = [event for id_, event in by_id.items() if id_ not in late]
    findings.notes["are in files, but no longer in MongoDB: `python -m ops.restore` brings them back"] = [
        event for event in in_files if event not in stored
    ]
    if in_bigquery is not None and times:
        _compare_bigquery(findings, in_bigquery(day, (min(times), max(times))), in_files)
    return findings


def _compare_bigquery(findings: Findings, rows: Counter[str], in_files: Mapping[str, int]) -> None:
    findings.found["in BigQuery"] = rows.total()
    findings.wrong["are in BigQuery more than once"] = [event for event, times in rows.items() if times > 1]
    findings.wrong["are in files, but not in BigQuery"] = [event for event in in_files if event not in rows]


def _in_kafka(reader: KafkaReader, day: date, offsets: Mapping[int, GroupOffsets], forgotten: ForgottenList) -> Places:
    """The day's events in Kafka, below the committed offsets, that the consumer stores."""
    begin = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)
    with closing(reader):
        # A record is never older than the receipt of its event.
        return events_of(day, reader.read(reader.since(begin)), offsets, forgotten)


def events_of(
    day: date, records: Iterable[ReceivedRecord], offsets: Mapping[int, GroupOffsets], forgotten: ForgottenList
) -> Places:
    """The day's events in these records, below the committed offsets, without those of forgotten customers."""
    places = {}
    for record in records:
        committed = offsets[record.partition].committed if record.partition in offsets else None
        if record.offset >= (committed or 0):
            continue
        try:
            event = event_json.decode(record.value)
        except InvalidEventError:
            continue
        if event["received_at"].date() == day and not forgotten.covers(ids_in(event), event["received_at"]):
            places[record.partition, record.offset] = event["event_id"]
    return places


if __name__ == "__main__":
    try:
        main(prog_name="python -m ops.reconcile")
    except (PulseError, KafkaError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)
