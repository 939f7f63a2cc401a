"""Checks a journal: `python -m api.journal.check`, a separate process, since LMDB can crash on a damaged file.

The exit status is 0 if the file is sound, FOUND_DAMAGE if it is damaged, and 1 if the check fails; the cause is then
the last line on standard error.
"""

import sys
from datetime import datetime
from pathlib import Path

import msgspec

from api.journal.journal import DAMAGE, is_intact, open_environment

FOUND_DAMAGE = 3

_TRIED = 1000


class _Event(msgspec.Struct):
    """The fields that the producer needs (as in `api/intake.py`, which takes a second to import)."""

    event_id: str
    event_type: str
    customer_id: str
    received_at: datetime


_EVENT = msgspec.json.Decoder(_Event)
_JSON = msgspec.json.Decoder()


def is_event(value: bytes) -> bool:
    """Whether these bytes are an event in the API's journal format."""
    try:
        _EVENT.decode(value)
        _JSON.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    return True


def is_sound(folder: Path) -> bool:
    """Whether every entry is readable and as it was added, and the first ones can be deleted. Changes nothing.

    May crash on a damaged file. Raises lmdb.Error or OSError if the file is unusable for another reason.
    """
    try:
        environment = open_environment(folder, 0, sync=False)
        with environment.begin() as transaction, transaction.cursor() as cursor:
            entries, before = 0, b""
            for key, value in cursor:
                intact = is_intact(key, value)
                if intact is None:
                    intact = all(map(is_event, value.split(b"\n")))
                # A page that a power cut left in an older version has other keys, or fewer.
                if not intact or key <= before:
                    return False
                entries, before = entries + 1, key
            if entries != transaction.stat()["entries"]:
                return False
        # Reading does not touch the list of free pages, but deleting does.
        transaction = environment.begin(write=True)
        with transaction.cursor() as cursor:
            found = cursor.first()
            for _ in range(_TRIED):
                found = found and cursor.delete()
        transaction.abort()
    except DAMAGE:
        return False
    return True


if __name__ == "__main__":
    sys.exit(0 if is_sound(Path(sys.argv[1])) else FOUND_DAMAGE)
