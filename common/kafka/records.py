"""Records for Kafka, and records from Kafka."""

from typing import NamedTuple


class Record(NamedTuple):
    """A record for Kafka. Records with the same key go to the same partition."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class ReceivedRecord(NamedTuple):
    """A record from Kafka. `timestamp_ms`: the time of its production, since the epoch."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
