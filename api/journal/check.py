"""Reads a journal through: `python -m api.journal.check`, a process of its own since LMDB can crash on a damaged file.

The process ends with 0 when all is sound, with FOUND_DAMAGE when the file is damaged, and with 1 and the cause as the
last line on standard error when it cannot find out.
"""

import sys
from datetime import datetime
from pathlib import Path

import msgspec

from api.journal.journal import DAMAGE, open_environment

FOUND_DAMAGE = 3

_TRIED = 1000


class _Event(msgspec.Struct):
    """What the way to Kafka needs of an event (`api/intake.py`, which takes a second to import)."""

    event_id: str
    event_type: str
    customer_id: str
    received_at: datetime


_EVENT = msgspec.json.Decoder(_Event)
_JSON = msgspec.json.Decoder()


def is_event(value: bytes) -> bool:
    """Whether these bytes are an event as the API writes it into its journal."""
    try:
        _EVENT.decode(value)
        _JSON.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    return True


def is_sound(folder: Path) -> bool:
    """Whether every entry can be read and is made of events, and the first ones can be deleted. Changes nothing.

    May crash on a damaged file. Raises lmdb.Error or OSError when the file cannot be used for another reason.
    """
    try:
        environment = open_environment(folder, 0, sync=False)
        with environment.begin() as transaction, transaction.cursor() as cursor:
            if not all(is_event(event) for value in cursor.iternext(keys=False) for event in value.split(b"\n")):
                return False
        # The list of free pages is no part of what was read; who deletes needs it.
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
