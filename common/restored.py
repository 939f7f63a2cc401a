"""The header of a restored event's record: the place of the event's first record, which the consumer stores.

So an event that is restored from an exported file keeps its place, and is not exported again.
"""

import re
from collections.abc import Mapping, Sequence

HEADER = "restored.first"
_PLACE = re.compile(rb"(-1|[0-9]{1,9}):(-1|[0-9]{1,18})")

Place = Mapping[str, int]
NOWHERE: Place = {"partition": -1, "offset": -1}
"""The place of an event from before events had places: neither an export nor a backfill looks for it."""


def header(first: Place | None) -> tuple[str, bytes]:
    """The header of a record that restores an event with this place."""
    place = first or NOWHERE
    return HEADER, b"%d:%d" % (place["partition"], place["offset"])


def first_place(headers: Sequence[tuple[str, bytes]], partition: int, offset: int) -> dict[str, int]:
    """The place of a record's event: that of the record, unless it restores an event."""
    for name, value in headers:
        if name == HEADER and (match := _PLACE.fullmatch(value)):
            return {"partition": int(match[1]), "offset": int(match[2])}
    return {"partition": partition, "offset": offset}
