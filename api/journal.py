"""Accepted events on disk until Kafka has them: what makes a 202 survive the death of the process."""

import fcntl
import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import lmdb

from common.errors import JournalFullError

logger = logging.getLogger(__name__)

# The map is address space, not memory or disk. Deleting needs pages of its own: room beyond the limit for appending.
_SPARE_MAP_BYTES = 64 * 1024 * 1024
_CHECK_TIMEOUT = 300.0
_CHECK_EVENTS = 1000
_CHECK_BYTES = 1024 * 1024
_DAMAGED = 3
_SIGNS_OF_DAMAGE = (_DAMAGED, -signal.SIGBUS, -signal.SIGSEGV, -signal.SIGABRT)
_NEARLY = 0.95
# Deleting needs pages, too: on a disk that is full to the last one, no event could ever be forgotten.
_SPARE_DISK_BYTES = 512 * 1024
_USED_OF_FILE = 0.75


class Journal:
    """The requests of one worker that Kafka does not have yet, in the order they were accepted (an LMDB environment).

    What was appended survives
    - the death of the process, by kill -9 too: always, since the operating system has it;
    - the death of the machine: with `sync` always, since it is on the disk before `append` returns (about 0.5 ms);
      without it, all but what the operating system had not written out, some seconds' worth as a rule. The file may be
      damaged then: it is set aside when it is opened next, and the journal starts empty.

    Any thread may ask how full it is. All else is for one thread at a time, which the queue's lock sees to. No call
    blocks but for the disk.
    """

    def __init__(self, folder: Path, *, max_bytes: int, sync: bool) -> None:
        """Open or create it. The folder has to be claimed. `max_bytes` bounds what it holds, in whole pages."""
        self.max_bytes = max_bytes
        self._folder = folder
        self._disk_full = False
        self._may_not_grow = False
        self._environment = lmdb.open(
            str(folder), map_size=max_bytes + _SPARE_MAP_BYTES, sync=sync, metasync=sync, max_readers=8
        )
        self._page_bytes = int(self._environment.stat()["psize"])
        self._next = self._last_position() + 1
        self._events = self._count()
        self._used_bytes = self._measure()
        self._file_bytes = self._measure_file()

    @property
    def events(self) -> int:
        """How many events it holds."""
        return self._events

    @property
    def used_bytes(self) -> int:
        """How much of `max_bytes` is used."""
        return self._used_bytes

    @property
    def nearly_full(self) -> bool:
        """Whether it will soon take no more events, or the disk is full and nothing has been forgotten since."""
        return self._disk_full or self.used_bytes > self._limit * _NEARLY

    def append(self, events: Sequence[bytes]) -> int:
        """Add a request's events (JSON, a line each), all or none; returns the position of their entry.

        Positions grow. Raises JournalFullError, for a full disk too: then nothing of the request is kept.
        """
        value = b"\n".join(events)
        if self._may_not_grow:
            self._may_not_grow = not self._disk_has_room()
        if self.used_bytes + len(value) > self._limit:
            if self._may_not_grow:
                self._find_disk_full(f"less than {_SPARE_DISK_BYTES >> 10} KiB are left")
            raise JournalFullError
        position = self._next
        try:
            with self._environment.begin(write=True) as transaction:
                transaction.put(_key(position), value, append=True)
        except lmdb.Error as error:
            # LMDB calls a full disk an input/output error.
            self._find_disk_full(str(error))
            raise JournalFullError from error
        self._disk_full = False
        self._used_bytes = self._measure()
        self._next += 1
        self._events += len(events)
        file_bytes = self._measure_file()
        if file_bytes > self._file_bytes:
            self._file_bytes = file_bytes
            self._may_not_grow = not self._disk_has_room()
        return position

    def read(self, after: int, enough_events: int, enough_bytes: float = math.inf) -> tuple[list[bytes], int]:
        """The events of the entries after a position, oldest first, and the position of the last entry read.

        Reads whole entries until there are so many events, so many bytes, or no more.
        """
        events: list[bytes] = []
        size = 0
        with self._environment.begin() as transaction, transaction.cursor() as cursor:
            found = cursor.set_range(_key(after + 1))
            while found and len(events) < enough_events and size < enough_bytes:
                after = int.from_bytes(cursor.key(), "big")
                entry = cursor.value()
                events += entry.split(b"\n")
                size += len(entry)
                found = cursor.next()
        return events, after

    def acknowledge(self, position: int, events: int) -> None:
        """Forget the entries up to and including a position, with so many events: Kafka has them."""
        try:
            with self._environment.begin(write=True) as transaction, transaction.cursor() as cursor:
                found = cursor.first()
                while found and int.from_bytes(cursor.key(), "big") <= position:
                    found = cursor.delete()
        except lmdb.Error as error:
            # On a full disk. They go with the next call; until then a restart would send them twice.
            logger.warning("the journal forgets nothing", extra={"error": str(error)})
        else:
            self._disk_full = False
            self._used_bytes = self._measure()
        self._events -= events

    def close(self) -> None:
        """Release the file. Not to be used after."""
        self._environment.close()

    @property
    def _limit(self) -> float:
        """How much it may hold now: while its file may not grow, what fits into that and leaves pages for deleting."""
        return min(self.max_bytes, self._file_bytes * _USED_OF_FILE) if self._may_not_grow else self.max_bytes

    def _disk_has_room(self) -> bool:
        disk = os.statvfs(self._folder)
        return disk.f_bavail * disk.f_frsize >= _SPARE_DISK_BYTES

    def _find_disk_full(self, why: str) -> None:
        if not self._disk_full:
            logger.warning("the journal takes no more events: is the disk full?", extra={"error": why})
        self._disk_full = True

    def _measure(self) -> int:
        stat = self._environment.stat()
        return self._page_bytes * int(stat["leaf_pages"] + stat["branch_pages"] + stat["overflow_pages"])

    def _measure_file(self) -> int:
        return self._page_bytes * int(self._environment.info()["last_pgno"])

    def _count(self) -> int:
        with self._environment.begin() as transaction, transaction.cursor() as cursor:
            return sum(value.count(b"\n") + 1 for value in cursor.iternext(keys=False))

    def _last_position(self) -> int:
        with self._environment.begin() as transaction, transaction.cursor() as cursor:
            return int.from_bytes(cursor.key(), "big") if cursor.last() else 0


def open_journal(folder: Path, *, max_bytes: int, sync: bool) -> Journal:
    """The journal in a claimed folder. One that is damaged is set aside under another name, with an error in the log.

    Blocks for as long as reading what was left takes. Raises OSError or lmdb.Error when the folder cannot be used.
    """
    data = folder / "data.mdb"
    if data.exists() and not _is_sound(folder):
        aside = folder / f"damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.mdb"
        data.rename(aside)
        (folder / "lock.mdb").unlink(missing_ok=True)
        logger.error("a damaged journal was set aside; its events are not sent", extra={"file": str(aside)})
    return Journal(folder, max_bytes=max_bytes, sync=sync)


def _is_sound(folder: Path) -> bool:
    """Whether all of it can be read. Raises OSError when that cannot be found out.

    Asked of another process, since LMDB can crash on a damaged file.
    """
    try:
        check = subprocess.run(  # noqa: S603, nothing here comes from outside
            [sys.executable, "-m", "api.journal", str(folder.resolve())],
            cwd=Path(__file__).parent.parent,
            stderr=subprocess.PIPE,
            text=True,
            timeout=_CHECK_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"the journal cannot be checked within {_CHECK_TIMEOUT:g} s") from error
    if check.returncode in _SIGNS_OF_DAMAGE:
        return False
    if check.returncode != 0:
        raise OSError(f"the journal cannot be checked: {check.stderr.strip()[-200:]}")
    return True


def _read_through(folder: Path) -> None:
    """The check itself: ends the process with a status that tells."""
    try:
        journal = Journal(folder, max_bytes=0, sync=False)
        values, position = journal.read(0, _CHECK_EVENTS, _CHECK_BYTES)
        while values:
            for value in values:
                json.loads(value)
            values, position = journal.read(position, _CHECK_EVENTS, _CHECK_BYTES)
    except (lmdb.Error, ValueError):
        sys.exit(_DAMAGED)


def _key(position: int) -> bytes:
    return position.to_bytes(8, "big")


class Claim:
    """A journal's folder, ours as long as this process lives or until `release`."""

    def __init__(self, folder: Path, lock: IO[bytes]) -> None:
        self.folder = folder
        self._lock = lock

    def release(self) -> None:
        """Leave the folder to others."""
        self._lock.close()


def claim_own(root: Path) -> Claim:
    """The first folder `worker-N` that no living process has, made if need be. Raises OSError."""
    number = 0
    while True:
        folder = root / f"worker-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        claim = _claim(folder)
        if claim is not None:
            return claim
        number += 1


def claim_left_behind(root: Path) -> Iterator[Claim]:
    """The folders of workers that are gone, one after the other. Each has to be released."""
    for folder in sorted(root.glob("worker-*")):
        claim = _claim(folder)
        if claim is not None:
            yield claim


def _claim(folder: Path) -> Claim | None:
    # Closed by the operating system when the process ends, however it ends.
    lock = (folder / "owner.lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return Claim(folder, lock)


if __name__ == "__main__":
    _read_through(Path(sys.argv[1]))
