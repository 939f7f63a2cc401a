"""Keeps accepted events on disk until Kafka has them, so that a 202 survives the death of the process."""

import errno
import logging
import math
import os
import zlib
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path

import lmdb

from api.journal import power
from common.errors import JournalError, JournalFullError

logger = logging.getLogger(__name__)

DATA = "data.mdb"

DAMAGE = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError)
"""LMDB's errors for a damaged file. Its other errors are about the system, or its version."""

# The map is address space, not memory or disk. Deletions need pages too, so leave room beyond the limit for appends.
_SPARE_MAP_BYTES = 64 * 1024 * 1024
_NEARLY = 0.95
# Deletions need disk pages, too: on a completely full disk, they start slowly.
_SPARE_DISK_BYTES = 512 * 1024
_USED_OF_FILE = 0.75
_POSITION_BYTES = 8
# LMDB's header of a value, and the maximum of pages that an entry adds to those of its value: one for its key,
# and one on each level of the tree.
_HEADER_BYTES = 16
_MOST_NEW_PAGES = 5
# A transaction that deletes more takes too much time and memory; a call to forget makes at most _DELETE_STEPS of them.
_DELETED_AT_ONCE = 2000
_DELETE_STEPS = 16
_ALL_OF_IT = tuple(map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)))


class JournalState(StrEnum):
    """A journal's state; docs/architecture.md shows the transitions. In every state except ROOM it refuses events."""

    ROOM = "up"
    FULL = "full"
    """It has reached its limit, or nearly."""
    LOWERED = "lowered"
    """It holds more than its limit, which was higher once."""
    DISK_FULL = "disk_full"
    FAILING = "failing"
    """The disk, or the system, returns errors other than a full disk."""
    FATAL = "fatal"
    """LMDB refuses every operation until the file is opened again."""


_REASONS = {
    JournalState.FULL: "journal_full",
    JournalState.LOWERED: "journal_lowered",
    JournalState.DISK_FULL: "disk_full",
    JournalState.FAILING: "journal_failing",
    JournalState.FATAL: "journal_fatal",
}


class Journal:
    """The requests of one worker that Kafka does not have yet, in order of acceptance (an LMDB environment).

    Committed events survive
    - the death of the process, also by kill -9: always, since the operating system has them;
    - the death of the machine: with `sync` always, since they are on disk before `commit` returns (about 0.5 ms);
      without it, except those that the operating system had not written, and older ones in the same page. The file is
      then rebuilt from its intact entries when it is next opened.

    Any thread may read its state and size. All other calls are for one thread at a time, which the queue's lock
    ensures. Calls block only on the disk.
    """

    def __init__(
        self, folder: Path, *, max_bytes: int, sync: bool, on_fatal: Callable[[], None] = lambda: None
    ) -> None:
        """Open or create it. The folder must be claimed. `max_bytes` limits its size, in whole pages; it may already
        hold more, from a time with a higher limit. `on_fatal` is called when only opening it again can help.

        Raises lmdb.Error or OSError if it is unusable.
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
        """The number of events in it, including acknowledged ones that cannot be deleted yet."""
        return self._events

    @property
    def unacknowledged(self) -> int:
        """The number of its events without Kafka's acknowledgement."""
        return self._events - self._undeleted

    @property
    def used_bytes(self) -> int:
        """The used part of `max_bytes`."""
        return self._used_bytes

    @property
    def state(self) -> JournalState:
        """Its state."""
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
        """Add all events of a request (JSON, one line each) to the next `commit`; returns their position.

        Positions increase. Raises JournalFullError, and adds no event, if it cannot keep them for any reason.
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
        """Write the added events, in one transaction. Raises JournalFullError, and keeps no event, if that fails."""
        coming, self._coming, self._coming_bytes = self._coming, [], 0
        if not coming:
            return
        try:
            with self._environment.begin(write=True) as transaction:
                for position, (value, _) in enumerate(coming, self._next):
                    transaction.put(_key(position) + checksum(position, value), value, append=True)
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

        Reads whole, unacknowledged entries until they have `enough_events` or `enough_bytes`, or there are no more.
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
        """Forget the entries up to and including a position, with a number of `events` that Kafka has acknowledged.
        Entries that a full disk does not let it delete are not read again; `recover` deletes them.
        """
        self._acknowledged_to = max(self._acknowledged_to, position)
        self._undeleted += events
        self._forget()

    def recover(self) -> None:
        """Retry failed deletions, and test whether the disk accepts events again.

        Call it regularly: there may be no requests while the journal refuses them.
        """
        if self._trouble is JournalState.FATAL:
            return
        if self._undeleted:
            self._forget()
        elif self._trouble is not None:
            self._may_not_grow = not self._disk_has_room()
            if not self._may_not_grow:
                self._try_to_write()

    def settle(self) -> None:
        """Return when the disk has all of it (blocks), so that the machine may stop. Write nothing afterwards."""
        try:
            self._environment.sync(True)
        except lmdb.Error:
            logger.exception("the disk may lack the last events of a journal", extra={"folder": str(self._folder)})
        else:
            power.unmark(self._folder)

    def close(self) -> None:
        """Settle it, and release the file. Do not use the journal afterwards."""
        self.settle()
        self._environment.close()

    @property
    def _limit(self) -> float:
        """Its current limit: while its file may not grow, the size that leaves pages in the file for deletions."""
        return min(self.max_bytes, self._file_bytes * _USED_OF_FILE) if self._may_not_grow else self.max_bytes

    def _needed(self, length: int) -> int:
        """The maximum of bytes that a value of this length takes, in whole pages."""
        return (-(-(length + _HEADER_BYTES) // self._page_bytes) + _MOST_NEW_PAGES) * self._page_bytes

    def _no_room(self) -> JournalState:
        """Why the current limit is reached."""
        if self._trouble is JournalState.FATAL:
            return self._trouble
        if self._used_bytes > self.max_bytes:
            return JournalState.LOWERED
        if not self._may_not_grow:
            return JournalState.FULL
        self._enter(JournalState.DISK_FULL, f"less than {_SPARE_DISK_BYTES >> 10} KiB are left")
        return JournalState.DISK_FULL

    def _forget(self) -> None:
        """Delete the acknowledged entries: many at once, or fewer and fewer if a full disk refuses that. A small step
        needs few pages, and frees some for a larger one.
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
        """Delete at most N of the oldest acknowledged entries; returns whether those were all. Raises lmdb.Error."""
        with self._environment.begin(write=True) as transaction, transaction.cursor() as cursor:
            more = cursor.first()
            # Each entry's position is at least one more than that of the one before.
            all_of_them = not more or self._acknowledged_to - _position(cursor.key()) < most
            events = self._undeleted if all_of_them else 0
            while more and _position(cursor.key()) <= self._acknowledged_to and most:
                if not all_of_them:
                    events += cursor.value().count(b"\n") + 1
                # After the last entry a cursor reports a move, but has no key.
                more = cursor.delete() and bool(cursor.key())
                most -= 1
        self._events -= events
        self._undeleted -= events
        self._used_bytes = self._measure()
        return all_of_them

    def _try_to_write(self) -> None:
        """Write a transaction that changes nothing. Raises lmdb.Error if the first event would end the journal."""
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
        """Enter the state that follows from an error, and return it."""
        state = self._cause(error)
        self._enter(state, str(error))
        return state

    def _cause(self, error: lmdb.Error) -> JournalState:
        if isinstance(error, (lmdb.PanicError, *DAMAGE)) or self._is_dead():
            return JournalState.FATAL
        if isinstance(error, lmdb.MapFullError):
            return JournalState.FULL
        # LMDB may report a partial write to a full disk as an input/output error.
        if str(error).endswith(_ALL_OF_IT) or not self._disk_has_room():
            return JournalState.DISK_FULL
        return JournalState.FAILING

    def _is_dead(self) -> bool:
        """Whether an error, even one that looks harmless, has made the environment unusable."""
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
            logger.critical("the journal is unusable; opening it again may help", extra=extra)
            self._on_fatal()
        else:
            logger.warning("the journal refuses events for now", extra=extra)

    def _disk_has_room(self) -> bool:
        try:
            disk = os.statvfs(self._folder)
        except OSError:
            # The error does not say that the disk is full.
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
    """A claimed folder's file, mapped with room for its contents and their deletion. Raises lmdb.Error or OSError."""
    data = folder / DATA
    held = data.stat().st_size if data.exists() else 0
    # The claim excludes other processes, and the queue's lock other threads, so LMDB needs no lock file, which could be
    # broken or owned by another user. Bytes, since the name of a folder may not be UTF-8.
    return lmdb.open(
        os.fsencode(folder), map_size=max(max_bytes, held) + _SPARE_MAP_BYTES, sync=sync, metasync=sync, lock=False
    )


def checksum(position: int, value: bytes) -> bytes:
    """The second part of an entry's key: after a power cut, a value may consist of parts of two entries."""
    return zlib.crc32(value, position & 0xFFFFFFFF).to_bytes(4, "big")


def is_intact(key: bytes, value: bytes) -> bool | None:
    """Whether an entry is as it was added; None if an earlier version of Pulse added it, without a checksum."""
    if len(key) == _POSITION_BYTES:
        return None
    return key[_POSITION_BYTES:] == checksum(_position(key), value)


def _key(position: int) -> bytes:
    return position.to_bytes(_POSITION_BYTES, "big")


def _position(key: bytes) -> int:
    return int.from_bytes(key[:_POSITION_BYTES], "big")
