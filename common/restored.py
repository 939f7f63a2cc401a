"""The header of a restored event's record: where the event's first record was, which the consumer stores with it.

So an event that was deleted from MongoDB and comes back from an exported file has the place under which it was
exported, and is not exported once more.
"""

import re
from collections.abc import Mapping, Sequence

HEADER = "restored.first"
_PLACE = re.compile(rb"(-1|[0-9]{1,9}):(-1|[0-9]{1,18})")

Place = Mapping[str, int]
NOWHERE: Place = {"partition": -1, "offset": -1}
"""Of an event that was stored before places were kept: neither an export nor a backfill looks for events there."""


def header(first: Place | None) -> tuple[str, bytes]:
    """The header of a record that restores an event which was first at this place."""
    place = first or NOWHERE
    return HEADER, b"%d:%d" % (place["partition"], place["offset"])


def first_place(headers: Sequence[tuple[str, bytes]], partition: int, offset: int) -> dict[str, int]:
    """Where the event of a record was first: where the record is, unless it restores one."""
    for name, value in headers:
        if name == HEADER and (match := _PLACE.fullmatch(value)):
            return {"partition": int(match[1]), "offset": int(match[2])}
    return {"partition": partition, "offset": offset}
