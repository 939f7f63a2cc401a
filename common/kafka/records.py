"""What goes to Kafka, and what comes from it."""

from typing import NamedTuple


class Record(NamedTuple):
    """What goes to Kafka. Records with the same key go to the same partition."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class ReceivedRecord(NamedTuple):
    """What comes from Kafka. `timestamp_ms`: when it was produced, since the epoch."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
