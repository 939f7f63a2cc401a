"""Accepted events on disk until Kafka has them: what makes a 202 survive the death of the process."""

import errno
import logging
import math
import os
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path

import lmdb

from common.errors import JournalError, JournalFullError

logger = logging.getLogger(__name__)

DATA = "data.mdb"

DAMAGE = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError)
"""What LMDB raises when a file is not as LMDB wrote it. Its other errors are about the system, or its version."""

# The map is address space, not memory or disk. Deleting needs pages of its own: room beyond the limit for appending.
_SPARE_MAP_BYTES = 64 * 1024 * 1024
_NEARLY = 0.95
# Deleting needs pages, too: on a disk that is full to the last one, it takes long to get going.
_SPARE_DISK_BYTES = 512 * 1024
_USED_OF_FILE = 0.75
# What LMDB keeps in front of a value, and the most pages that an entry adds beside those of its value: one for its key,
# and one more on each level of the tree.
_HEADER_BYTES = 16
_MOST_NEW_PAGES = 5
# A transaction that deletes more takes long, and memory; each call to forget makes so many at most.
_DELETED_AT_ONCE = 2000
_DELETE_STEPS = 16
_ALL_OF_IT = tuple(map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)))


class JournalState(StrEnum):
    """What a journal can do; docs/architecture.md draws how one becomes another. In all but ROOM it refuses events."""

    ROOM = "up"
    FULL = "full"
    """Its limit is reached, or nearly."""
    LOWERED = "lowered"
    """It holds more than its limit, which was higher once."""
    DISK_FULL = "disk_full"
    FAILING = "failing"
    """The disk, or the system, answers with errors that do not say it is full."""
    FATAL = "fatal"
    """LMDB does nothing more with the file until it is opened anew."""


_REASONS = {
    JournalState.FULL: "journal_full",
    JournalState.LOWERED: "journal_lowered",
    JournalState.DISK_FULL: "disk_full",
    JournalState.FAILING: "journal_failing",
    JournalState.FATAL: "journal_fatal",
}


class Journal:
    """The requests of one worker that Kafka does not have yet, in the order they were accepted (an LMDB environment).

    What was committed survives
    - the death of the process, by kill -9 too: always, since the operating system has it;
    - the death of the machine: with `sync` always, since it is on the disk before `commit` returns (about 0.5 ms);
      without it, all but what the operating system had not written out, some seconds' worth as a rule. The file may be
      damaged then: it is set aside when it is opened next, and the journal starts empty.

    Any thread may ask for its state and how full it is. All else is for one thread at a time, which the queue's lock
    sees to. No call blocks but for the disk.
    """

    def __init__(
        self, folder: Path, *, max_bytes: int, sync: bool, on_fatal: Callable[[], None] = lambda: None
    ) -> None:
        """Open or create it. The folder has to be claimed. `max_bytes` bounds what it takes, in whole pages: it may
        hold more, of a time when the limit was higher. `on_fatal` is called once nothing but opening it anew can help.

        Raises lmdb.Error or OSError when it cannot be used.
        """
        self.max_bytes = max_bytes
        self._folder = folder
        self._on_fatal = on_fatal
        self._trouble: JournalState | None = None
        self._may_not_grow = False
        self._coming: list[tuple[bytes, int]] = []
        self._coming_bytes = 0
        self._environment = open_environment(folder, max_bytes, sync=sync)
        try:
            self._page_bytes = int(self._environment.stat()["psize"])
            self._next = self._last_position() + 1
            self._events = self._count()
            self._acknowledged_to = 0
            self._undeleted = 0
            self._used_bytes = self._measure()
            self._file_bytes = self._measure_file()
            self._try_to_write()
        except BaseException:
            self._environment.close()
            raise

    @property
    def events(self) -> int:
        """How many events it holds, those included that Kafka has and that cannot be deleted yet."""
        return self._events

    @property
    def unacknowledged(self) -> int:
        """How many of its events Kafka does not have for certain."""
        return self._events - self._undeleted

    @property
    def used_bytes(self) -> int:
        """How much of `max_bytes` is used."""
        return self._used_bytes

    @property
    def state(self) -> JournalState:
        """What it can do."""
        if self._trouble is not None:
            return self._trouble
        if self._used_bytes > self.max_bytes:
            return JournalState.LOWERED
        if self._used_bytes > self._limit * _NEARLY:
            return JournalState.DISK_FULL if self._may_not_grow else JournalState.FULL
        return JournalState.ROOM

    def append(self, events: Sequence[bytes]) -> int:
        """Add a request's events and commit; as `add` and `commit`."""
        position = self.add(events)
        self.commit()
        return position

    def add(self, events: Sequence[bytes]) -> int:
        """Take a request's events (JSON, a line each), all or none, for the next `commit`; returns their position.

        Positions grow. Raises JournalFullError, whatever is in the way: then nothing of the request is taken.
        """
        value = b"\n".join(events)
        if self._may_not_grow:
            self._may_not_grow = not self._disk_has_room()
        needed = self._needed(len(value))
        if self._used_bytes + self._coming_bytes + needed > self._limit:
            raise JournalFullError(_REASONS[self._no_room()])
        position = self._next + len(self._coming)
        self._coming.append((value, len(events)))
        self._coming_bytes += needed
        return position

    def commit(self) -> None:
        """Write what was added, in one transaction. Raises JournalFullError: then nothing of it is kept."""
        coming, self._coming, self._coming_bytes = self._coming, [], 0
        if not coming:
            return
        try:
            with self._environment.begin(write=True) as transaction:
                for position, (value, _) in enumerate(coming, self._next):
                    transaction.put(_key(position), value, append=True)
        except lmdb.Error as error:
            raise JournalFullError(_REASONS[self._note(error)]) from error
        self._trouble = None
        self._used_bytes = self._measure()
        self._next += len(coming)
        self._events += sum(count for _, count in coming)
        file_bytes = self._measure_file()
        if file_bytes > self._file_bytes:
            self._file_bytes = file_bytes
            self._may_not_grow = not self._disk_has_room()

    def read(self, after: int, enough_events: int, enough_bytes: float = math.inf) -> tuple[list[bytes], int]:
        """The events of the entries after a position, oldest first, and the position of the last entry read.

        Reads whole entries until there are so many events, so many bytes, or no more; never one that is acknowledged.
        Raises JournalError.
        """
        events: list[bytes] = []
        size = 0
        after = max(after, self._acknowledged_to)
        try:
            with self._environment.begin() as transaction, transaction.cursor() as cursor:
                found = cursor.set_range(_key(after + 1))
                while found and len(events) < enough_events and size < enough_bytes:
                    after = _position(cursor.key())
                    entry = cursor.value()
                    events += entry.split(b"\n")
                    size += len(entry)
                    found = cursor.next()
        except lmdb.Error as error:
            self._note(error)
            raise JournalError(f"the journal in {self._folder} cannot be read: {error}") from error
        return events, after

    def acknowledge(self, position: int, events: int) -> None:
        """Forget the entries up to and including a position, with so many events not acknowledged before: Kafka has
        them. What a full disk does not let go is not read again; `recover` deletes it.
        """
        self._acknowledged_to = max(self._acknowledged_to, position)
        self._undeleted += events
        self._forget()

    def recover(self) -> None:
        """Delete what could not be deleted before, and look whether the disk takes events again.

        To be called now and then: nobody may send any while the journal refuses them.
        """
        if self._trouble is JournalState.FATAL:
            return
        if self._undeleted:
            self._forget()
        elif self._trouble is not None:
            self._may_not_grow = not self._disk_has_room()
            if not self._may_not_grow:
                self._try_to_write()

    def close(self) -> None:
        """Release the file. Not to be used after."""
        self._environment.close()

    @property
    def _limit(self) -> float:
        """How much it may hold now: while its file may not grow, what fits into that and leaves pages for deleting."""
        return min(self.max_bytes, self._file_bytes * _USED_OF_FILE) if self._may_not_grow else self.max_bytes

    def _needed(self, length: int) -> int:
        """How many bytes a value of this length takes at most, in whole pages."""
        return (-(-(length + _HEADER_BYTES) // self._page_bytes) + _MOST_NEW_PAGES) * self._page_bytes

    def _no_room(self) -> JournalState:
        """Why the limit of now is reached."""
        if self._trouble is JournalState.FATAL:
            return self._trouble
        if self._used_bytes > self.max_bytes:
            return JournalState.LOWERED
        if not self._may_not_grow:
            return JournalState.FULL
        self._enter(JournalState.DISK_FULL, f"less than {_SPARE_DISK_BYTES >> 10} KiB are left")
        return JournalState.DISK_FULL

    def _forget(self) -> None:
        """Delete what is acknowledged: much at once, or less and less if a full disk refuses that. A small step needs
        few pages, and frees some for a larger one.
        """
        at_once = _DELETED_AT_ONCE
        for _ in range(_DELETE_STEPS):
            try:
                finished = self._delete(at_once)
            except lmdb.Error as error:
                if at_once == 1 or self._cause(error) in {JournalState.FAILING, JournalState.FATAL}:
                    self._note(error)
                    return
                at_once = max(1, at_once // 8)
            else:
                self._trouble = None
                if finished:
                    return
                at_once = min(_DELETED_AT_ONCE, at_once * 2)

    def _delete(self, most: int) -> bool:
        """Delete the oldest acknowledged entries, at most so many; whether that were all. Raises lmdb.Error."""
        with self._environment.begin(write=True) as transaction, transaction.cursor() as cursor:
            more = cursor.first()
            # Each entry's position is at least one more than that of the one before.
            all_of_them = not more or self._acknowledged_to - _position(cursor.key()) < most
            events = self._undeleted if all_of_them else 0
            while more and _position(cursor.key()) <= self._acknowledged_to and most:
                if not all_of_them:
                    events += cursor.value().count(b"\n") + 1
                # Behind the last entry a cursor says that it has moved, and has no key.
                more = cursor.delete() and bool(cursor.key())
                most -= 1
        self._events -= events
        self._undeleted -= events
        self._used_bytes = self._measure()
        return all_of_them

    def _try_to_write(self) -> None:
        """Change nothing, and have that written. Raises lmdb.Error when the journal would end at its first event."""
        try:
            with self._environment.begin(write=True) as transaction:
                transaction.put(_key(0), b"")
                transaction.delete(_key(0))
        except lmdb.Error as error:
            if self._note(error) is JournalState.FATAL:
                raise
        else:
            self._trouble = None

    def _note(self, error: lmdb.Error) -> JournalState:
        """The state that an error has brought about."""
        state = self._cause(error)
        self._enter(state, str(error))
        return state

    def _cause(self, error: lmdb.Error) -> JournalState:
        if isinstance(error, (lmdb.PanicError, *DAMAGE)) or self._is_dead():
            return JournalState.FATAL
        if isinstance(error, lmdb.MapFullError):
            return JournalState.FULL
        # LMDB may call a disk that took a part of a write an input/output error.
        if str(error).endswith(_ALL_OF_IT) or not self._disk_has_room():
            return JournalState.DISK_FULL
        return JournalState.FAILING

    def _is_dead(self) -> bool:
        """Whether an error, which may have looked harmless, has ended the environment."""
        try:
            self._environment.begin().abort()
        except lmdb.PanicError:
            return True
        except lmdb.Error:
            return False
        return False

    def _enter(self, state: JournalState, why: str) -> None:
        if self._trouble in {state, JournalState.FATAL}:
            return
        self._trouble = state
        extra = {"state": state.value, "folder": str(self._folder), "error": why}
        if state is JournalState.FATAL:
            logger.critical("the journal can no longer be used; opening it anew may help", extra=extra)
            self._on_fatal()
        else:
            logger.warning("the journal takes no more events for now", extra=extra)

    def _disk_has_room(self) -> bool:
        try:
            disk = os.statvfs(self._folder)
        except OSError:
            # It is no answer to how full it is.
            return True
        return disk.f_bavail * disk.f_frsize >= _SPARE_DISK_BYTES

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
            return _position(cursor.key()) if cursor.last() else 0


def open_environment(folder: Path, max_bytes: int, *, sync: bool) -> lmdb.Environment:
    """A claimed folder's file, mapped with room for all it holds and to delete it. Raises lmdb.Error or OSError."""
    data = folder / DATA
    held = data.stat().st_size if data.exists() else 0
    # The claim keeps other processes out, and the queue's lock other threads: LMDB needs no lock file of its own, which
    # could be broken or another user's. Bytes, since the name of a folder need not be UTF-8.
    return lmdb.open(
        os.fsencode(folder), map_size=max(max_bytes, held) + _SPARE_MAP_BYTES, sync=sync, metasync=sync, lock=False
    )


def _key(position: int) -> bytes:
    return position.to_bytes(8, "big")


def _position(key: bytes) -> int:
    return int.from_bytes(key, "big")
