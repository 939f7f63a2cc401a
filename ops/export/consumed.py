"""Checks that the collection has the events that the consumer's group has read, so is the consumer's."""

from contextlib import closing
from datetime import UTC, datetime, timedelta

from common import dead_letter_headers, event_json
from common.errors import InvalidEventError
from common.kafka import KafkaReader
from common.settings import KafkaSettings
from consumer.forgotten import ids_in
from ops.export.mongo import MongoStore

_NEWEST = 100


def missing_event(kafka: KafkaSettings, store: MongoStore, partition: int, span: range) -> str | None:
    """The id of an event that should be in MongoDB if nothing of these offsets is there under its place; None: all is
    well.

    Goes by the newest records of them that Kafka has. Events that are stored under another place, that are forgotten,
    too old, or dead letters, are missing for a reason. Blocks some seconds; raises ReadError, StoreError, KafkaError.
    """
    forgotten, ttl = store.forgotten_list(), store.ttl_seconds()
    kept_since = datetime.now(UTC) - timedelta(seconds=ttl) if ttl is not None else datetime.min.replace(tzinfo=UTC)
    events = {}
    with closing(KafkaReader(kafka, kafka.topic)) as reader:
        for record in reader.read({partition: max(span.start, span.stop - _NEWEST)}):
            if record.offset >= span.stop:
                break
            try:
                event = event_json.decode(record.value)
            except InvalidEventError:
                continue
            received_at = event["received_at"]
            if received_at > kept_since and not forgotten.covers(ids_in(event), received_at):
                events[partition, record.offset] = event["event_id"]
    if not events or store.has_one_of(events.values()):
        return None
    dead = dead_places(KafkaReader(kafka, kafka.dlq_topic), kafka.topic)
    return next((event_id for place, event_id in events.items() if place not in dead), None)


def dead_places(reader: KafkaReader, topic: str) -> frozenset[tuple[int, int]]:
    """The partitions and offsets, in the topic, of records that became dead letters."""
    places = set()
    with closing(reader):
        for record in reader.read():
            found = dict(record.headers)
            partition = found.get(dead_letter_headers.SOURCE_PARTITION, b"")
            offset = found.get(dead_letter_headers.SOURCE_OFFSET, b"")
            if (
                found.get(dead_letter_headers.SOURCE_TOPIC) == topic.encode()
                and partition.isdigit()
                and offset.isdigit()
            ):
                places.add((int(partition), int(offset)))
    return frozenset(places)
