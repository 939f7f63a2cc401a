"""Plans which events are exported next: closed ranges of offsets, each planned once.

Below the group's committed offset, each record is stored or is a dead letter. So a range that ends there gets no more
events: the documents found in it, up to the newest document of the collection, are all of them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from bson import ObjectId

from common.errors import ExportError
from common.kafka import GroupOffsets
from common.terminal import printable
from ops.export.state import Events, Exports, Former, Frontier, Generation, Place, Range

_FIRST_ID = ObjectId("0" * 24)
_END = 2**63 - 1


Offsets = Mapping[int, GroupOffsets]
MissingEvent = Callable[[int, range], str | None]
"""Given offsets of a partition that have no document: the id of an event that should have one, if any."""


def plan(
    topic: str,
    ask: Callable[[], Offsets],
    exports: Exports,
    events: Events,
    missing_event: MissingEvent,
    *,
    max_rows: int,
    min_age: float,
) -> int:
    """Plan the events that the group has stored; returns the number of new ranges. `ask` returns the group's offsets.

    Events stored less than `min_age` seconds ago wait for the next run. Raises ExportError if the topic is not the one
    that was exported before, or the collection is not the one that the group's consumer writes to.
    """
    generation = exports.generation(topic)
    frontiers = exports.frontiers(topic, generation.number)
    # In this order: another exporter may plan in the meantime, but not beyond the offsets queried after it.
    offsets = ask()
    exports.catch_up(topic)
    for number, at in offsets.items():
        if at.end < _next(frontiers, number):
            raise ExportError(
                f"Partition {number} of {topic} ends at offset {at.end:,}, but was exported up to "
                f"{_next(frontiers, number):,}: the topic was created again. Once the consumer reads it, run "
                "`python -m ops.export run --new-generation`."
            )
    for number, at in offsets.items():
        span = range(_next(frontiers, number), min(at.committed or 0, at.end))
        if span and not events.has_any(number, span) and (event_id := missing_event(number, span)) is not None:
            raise ExportError(
                f"The consumer has read {len(span):,} records of partition {number} of {topic}, but MongoDB has none "
                f"of their events, such as {printable(event_id)}: are MONGO_DATABASE, MONGO_COLLECTION and "
                "KAFKA_GROUP_ID the consumer's? Nothing was planned. If the events were deleted, the export continues "
                "when new ones are stored."
            )
    new = sum(exports.plan(rest) for rest in generation.rest)
    newest = events.newest_id()
    if newest is None:
        # Nothing is stored yet, or all of it was deleted.
        return new
    stored_before = datetime.now(UTC) - timedelta(seconds=min_age) if min_age else None
    for number, at in sorted(offsets.items()):
        span = range(_next(frontiers, number), min(at.committed or 0, at.end))
        for offsets_of_range in _cut(number, span, generation, events, max_rows=max_rows, stored_before=stored_before):
            first, last = offsets_of_range[0], offsets_of_range[-1]
            after, _ = generation.after(number, first)
            if not exports.plan(Range(topic, generation.number, number, first, last, after, newest)):
                # The other exporter continues from there.
                break
            new += 1
    return new


def _next(frontiers: Mapping[Place, Frontier], partition: int) -> int:
    offset: int = frontiers[partition].next if partition in frontiers else 0
    return offset


def _cut(
    partition: int,
    span: range,
    generation: Generation,
    events: Events,
    *,
    max_rows: int,
    stored_before: datetime | None,
) -> Iterator[range]:
    """The offsets of the next ranges, which are adjacent."""
    first = span.start
    if span and first == 0 and generation.number == 1:
        # All offsets below the first event are one range without files.
        lowest = events.lowest_offset(partition)
        first = span.stop if lowest is None else min(lowest, span.stop)
        if first:
            yield range(first)
    while first < span.stop:
        _, same_until = generation.after(partition, first)
        upto = min(first + max_rows, span.stop, same_until or span.stop)
        if stored_before is not None:
            upto = events.settled(partition, first, upto, stored_before)
        if upto == first:
            return
        yield range(first, upto)
        first = upto


def begin_generation(topic: str, exports: Exports, events: Events) -> None:
    """Continue with a topic that was deleted and created again; record what was exported of the previous one.

    No other exporter may plan at the same time.
    """
    generation = exports.generation(topic)
    exports.catch_up(topic)
    since = events.newest_id() or _FIRST_ID
    frontiers = exports.frontiers(topic, generation.number)
    former, rest = {}, []
    for number in sorted({place for place in frontiers if isinstance(place, int)} | generation.former.keys()):
        first = _next(frontiers, number)
        former[number] = Former(first, frontiers[number].newest if number in frontiers else _FIRST_ID)
        while first <= _END:
            after, holds_to = generation.after(number, first)
            last = _END if holds_to is None else holds_to - 1
            rest.append(Range(topic, generation.number, number, first, last, after, since))
            first = last + 1
    exports.begin_generation(topic, Generation(generation.number + 1, since, former, rest))


def plan_backfill(topic: str, exports: Exports, events: Events, *, max_rows: int, min_age: float) -> int:
    """Plan the events that have no place in Kafka, by ranges of documents' ids; returns the number of new ranges."""
    exports.catch_up(topic)
    frontiers = exports.frontiers(topic, 1)
    first = frontiers["backfill"].next if "backfill" in frontiers else _FIRST_ID
    stored_before = datetime.now(UTC) - timedelta(seconds=min_age)
    new = 0
    while (last := events.next_id(first, max_rows, stored_before)) is not None:
        if not exports.plan(Range(topic, 1, "backfill", first, last, None, last)):
            break
        new += 1
        first = last
    return new


def find_late(
    topic: str, documents: Iterable[tuple[ObjectId, int, int]], ranges: Sequence[Range], exports: Exports
) -> list[ObjectId]:
    """The documents that no range has or will ever have.

    `documents`: id, partition and offset of documents that are in no file; `ranges`: all ranges. Such a document was
    stored after its place was exported: by a consumer that was cut off for long, while its record became a dead letter,
    or by a group that was reset to earlier offsets.
    """
    frontiers = exports.frontiers(topic, exports.generation(topic).number)
    planned = {one.first for one in ranges if one.partition == "late"}
    return [
        id_
        for id_, partition, offset in documents
        if id_ not in planned
        and 0 <= offset < _next(frontiers, partition)
        and not any(one.has(partition, offset, id_) for one in ranges)
    ]


def plan_late(topic: str, late: Iterable[ObjectId], exports: Exports) -> None:
    """Plan these documents, one range each. Idempotent."""
    for id_ in late:
        exports.plan(Range(topic, 1, "late", id_, id_, None, id_))
