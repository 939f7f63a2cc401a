"""The events in Kafka, in order of arrival."""

import json

from common.kafka import KafkaSource
from common.settings import KafkaSettings
from tests.contracts import Recorder, fresh_name
from tests.waiting import eventually


def in_kafka(settings: KafkaSettings, count: int) -> dict[str, list[int]]:
    """For each customer, the numbers of the events in the topic in order of first arrival, once the topic has N."""
    source = KafkaSource(settings, fresh_name("reader"))
    source.connect()
    source.subscribe(Recorder())
    seen: dict[str, list[int]] = {}
    ids: set[str] = set()

    def all_there() -> bool:
        for record in source.poll(0.2):
            found = json.loads(record.value or b"")
            if found["event_id"] not in ids:
                ids.add(found["event_id"])
                seen.setdefault(found["customer_id"], []).append(found["properties"]["number"])
        return len(ids) >= count

    try:
        eventually(all_there, timeout=90, what=f"{count} events in Kafka")
    finally:
        source.close()
    return seen
