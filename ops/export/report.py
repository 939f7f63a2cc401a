"""The state of the export and its lag, for `status` and for the metrics."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from common.kafka import GroupOffsets
from ops.export.mongo import MongoStore


@dataclass(frozen=True, slots=True)
class Report:
    """`waiting`: by partition, the records below the committed offset that are in no written range. `oldest`: when the
    first of their events was stored, in seconds since the epoch; None if no record waits. `without_place`: a backfill
    is due. `forgotten`: the number of customers to delete from files.
    """

    ranges: Mapping[str, int]
    rows: Mapping[str, int]
    waiting: Mapping[int, int]
    oldest: float | None
    open_loads: int
    failed_loads: int
    without_place: bool
    forgotten: int

    def lines(self) -> Iterator[str]:
        """The report for a person."""
        for state, meaning in (
            ("planned", "planned, not written"),
            ("written", "in files"),
            ("loaded", "in files and loaded, or without events"),
        ):
            yield f"{self.ranges.get(state, 0):>12,} ranges {meaning}: {self.rows.get(state, 0):,} events"
        for partition, records in sorted(self.waiting.items()):
            yield f"{records:>12,} records of partition {partition} are stored and not exported"
        if self.oldest is not None:
            yield f"The oldest waiting event was stored {max(0, time.time() - self.oldest):,.0f} s ago."
        if self.open_loads or self.failed_loads:
            yield f"{self.open_loads:,} loads into BigQuery are open; {self.failed_loads:,} jobs of them have failed."
        if self.without_place:
            yield "There are events without a place in Kafka: `python -m ops.export backfill` exports them."
        if self.forgotten:
            yield f"{self.forgotten:,} forgotten customers are still in files: `python -m ops.export run` deletes them."


def report(topic: str, store: MongoStore, offsets: Mapping[int, GroupOffsets]) -> Report:
    """Query the current state. Blocks for some seconds; raises StoreError."""
    generation = store.generation(topic)
    frontiers = store.frontiers(topic, generation.number)
    planned = store.in_state(topic, "planned")
    waiting: Counter[int] = Counter()
    oldest: list[float] = []
    for partition, at in offsets.items():
        begin: int = frontiers[partition].next if partition in frontiers else 0
        if not begin and generation.number == 1:
            begin = store.lowest_offset(partition) or 0
        unplanned = max(0, min(at.committed or 0, at.end) - begin)
        unwritten = [one for one in planned if one.partition == partition]
        waiting[partition] = unplanned + sum(one.last - one.first + 1 for one in unwritten)
        if waiting[partition]:
            stored_at = store.stored_at(partition, min([begin, *(one.first for one in unwritten)]))
            oldest += [stored_at] if stored_at else []
    counts, rows = store.counts(topic)
    open_loads = store.open_loads()
    return Report(
        ranges=counts,
        rows=rows,
        waiting=waiting,
        oldest=min(oldest, default=None),
        open_loads=len(open_loads),
        failed_loads=sum(one.attempt - 1 for one in open_loads),
        without_place=store.has_more_without_place(frontiers.get("backfill")),
        forgotten=len(store.forgotten()),
    )
