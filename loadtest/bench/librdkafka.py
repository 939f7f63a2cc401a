"""The upper limit for a producer in Python: librdkafka sends the records that the API would send."""

import time
from collections.abc import Sequence

from confluent_kafka import Producer

from common.errors import PulseError
from common.kafka import Record
from common.settings import KafkaSettings


def produce(settings: KafkaSettings, records: Sequence[Record], times: int) -> float:
    """Send the records N times, as safely as the API; returns the records per second until the last answer."""
    producer = Producer(
        {
            "bootstrap.servers": settings.broker_list,
            "acks": "all",
            "partitioner": "murmur2_random",
            "linger.ms": 10,
            "queue.buffering.max.messages": 10_000_000,
        }
    )
    begun = time.perf_counter()
    for _ in range(times):
        for record in records:
            producer.produce(settings.topic, value=record.value, key=record.key)
        producer.poll(0)
    if producer.flush(60):
        raise PulseError("librdkafka could not send everything within a minute.")
    return len(records) * times / (time.perf_counter() - begun)
