"""The folders of the journals: claims them, opens journals, and sets damaged ones aside."""

import errno
import fcntl
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice, takewhile
from pathlib import Path
from typing import IO

import lmdb

from api.journal import power
from api.journal.check import FOUND_DAMAGE
from api.journal.journal import DATA, Journal
from api.journal.salvage import salvaged
from common.errors import JournalError, JournalFullError

logger = logging.getLogger(__name__)

_LOCK = "owner.lock"
_RESTORED = "worker-restored-"
_CHECK_TIMEOUT = 300.0
_COUNT_SECONDS = 60.0
_EVENTS_AN_ENTRY = 100
_ROOM_FOR_PAGES = 4
_LEAST_BYTES = 64 * 1024 * 1024
_SIGNS_OF_DAMAGE = (FOUND_DAMAGE, -signal.SIGBUS, -signal.SIGSEGV, -signal.SIGABRT)
_SET_ASIDE = re.compile(r"damaged-[^.]*?(?:-(?P<events>[0-9]+)-events)?\.mdb")

_OWNER = "give the folder and its contents to the user that runs the API (uid {uid})"
_FOLDER = "give a path that is a folder, or can become one"
_VERSION = "another version wrote it: run that version until it has sent all events"
_REMEDIES = {
    os.strerror(errno.EACCES): _OWNER,
    os.strerror(errno.EPERM): _OWNER,
    os.strerror(errno.EROFS): "mount its disk read-write",
    os.strerror(errno.ENOSPC): "make room on its disk",
    os.strerror(errno.EDQUOT): "make room on its disk, or raise the quota",
    os.strerror(errno.EMFILE): "allow the API more open files (ulimit -n)",
    os.strerror(errno.ENFILE): "allow the system more open files (sysctl fs.file-max)",
    os.strerror(errno.ENOMEM): "give the API more memory (ulimit -v, or the container's limit)",
    os.strerror(errno.EIO): "see the kernel's log (dmesg) for the disk's fault",
    os.strerror(errno.ENOTDIR): _FOLDER,
    os.strerror(errno.EEXIST): _FOLDER,
    "VERSION_MISMATCH": _VERSION,
    "is not supported by this build": _VERSION,
}
_ANYTHING_ELSE = "give a folder that the API can write to"


class Claim:
    """A journal's folder, claimed until this process ends or until `release`."""

    def __init__(self, folder: Path, lock: IO[bytes]) -> None:
        self.folder = folder
        self._lock = lock

    def release(self) -> None:
        """Release the folder for other processes."""
        self._lock.close()

    def remove(self) -> None:
        """Delete the folder with its journal, except for files that were set aside there. Ignores errors."""
        with suppress(OSError):
            for name in (DATA, power.MARK, _LOCK):
                (self.folder / name).unlink(missing_ok=True)
            self.folder.rmdir()


@dataclass(frozen=True, slots=True)
class SetAside:
    """A damaged journal, and its number of readable events."""

    file: Path
    events: int


def claim(folder: Path) -> Claim | None:
    """Claim a journal's folder; None if another process has it, or has just removed it. Raises OSError."""
    try:
        # The operating system closes it whenever the process ends.
        lock = (folder / _LOCK).open("ab")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    except OSError:
        lock.close()
        raise
    if not (folder / _LOCK).exists():
        lock.close()
        return None
    return Claim(folder, lock)


def claim_own(root: Path) -> Claim:
    """Claim the first folder `worker-N` that no living process has; creates it if necessary. Raises JournalError."""
    number = 0
    with told(root):
        while True:
            folder = root / f"worker-{number}"
            folder.mkdir(parents=True, exist_ok=True)
            claimed = claim(folder)
            if claimed is not None:
                return claimed
            number += 1


def claim_left_behind(root: Path, failed: Callable[[Path, JournalError], None]) -> Iterator[Claim]:
    """Claim the folders of dead workers, one after the other. The caller must release each.

    `failed` is called for each folder that no process has but that cannot be claimed, with the error.
    """
    for folder in sorted(root.glob("worker-*")):
        try:
            with told(folder):
                claimed = claim(folder)
        except JournalError as error:
            failed(folder, error)
        else:
            if claimed is not None:
                yield claimed


def open_journal(folder: Path, *, max_bytes: int, sync: bool, on_fatal: Callable[[], None] = lambda: None) -> Journal:
    """The journal in a claimed folder. Renames a damaged one, and rebuilds one that lost writes when the machine
    stopped; logs an error for both.

    Blocks while it reads the leftover events, and with `sync` until the disk has the names of the file and its folders.
    Raises JournalError, and changes nothing, if the journal is unusable for a reason other than damage.
    """
    with told(folder):
        data = folder / DATA
        if data.exists():
            # The system's error for a file that may not be opened is clearer than LMDB's.
            data.open("r+b").close()
            if power.was_cut(folder):
                _rebuild(folder)
            if not _is_sound(folder):
                _set_aside(data)
        if not sync:
            power.mark(folder)
        journal = Journal(folder, max_bytes=max_bytes, sync=sync, on_fatal=on_fatal)
        if sync:
            # A synced file without a name is lost, and so is a folder.
            for path in (folder, *folder.resolve().parents):
                power.sync_folder(path)
            power.unmark(folder)
        return journal


def set_aside_files(root: Path) -> list[SetAside]:
    """The damaged journals in the folders of all workers, oldest first in each; empty if unreadable. Never raises."""
    found = []
    for file in sorted(root.glob("worker-*/damaged-*.mdb")):
        named = _SET_ASIDE.fullmatch(file.name)
        if named:
            # Files without a number were not counted; and the operator should look at a file without events, too.
            found.append(SetAside(file, max(1, int(named["events"] or 1))))
    return found


def restored_folder(root: Path, file: Path) -> tuple[Path, Path]:
    """The two names of the folder for a damaged file's events: one that workers ignore, and the final one."""
    name = f"{file.parent.name}-{file.stem.removeprefix('damaged-')}"
    return root / f"restoring-{name}", root / f"{_RESTORED}{name}"


def is_restored(folder: Path) -> bool:
    """Whether the folder has a damaged file's events: no worker ever uses it as its own."""
    return folder.name.startswith(_RESTORED)


@contextmanager
def told(folder: Path) -> Iterator[None]:
    """Turn any error of a journal into a JournalError that says what to do."""
    try:
        yield
    except (OSError, lmdb.Error, UnicodeError, MemoryError) as error:
        text = str(error) or type(error).__name__
        remedies = (remedy for sign, remedy in _REMEDIES.items() if sign in text)
        remedy = next(remedies, _ANYTHING_ELSE).format(uid=os.geteuid())
        raise JournalError(f"API_JOURNAL_DIR: {folder} cannot be used: {text}; {remedy}") from error


def copy_events(events: Iterator[bytes], folder: Path, room: int) -> int:
    """Write events into the new, synced journal of a folder, `room` bytes at most; returns their number. Raises
    JournalError if they have no room.
    """
    journal = Journal(folder, max_bytes=room, sync=True)
    try:
        while some := list(islice(events, _EVENTS_AN_ENTRY)):
            journal.append(some)
        copied = journal.events
    except JournalFullError as error:
        raise JournalError(
            f"the events of a journal cannot be copied to {folder}: {error}; make room on the disk"
        ) from error
    finally:
        journal.close()
    return copied


def room_for_copy(file: Path) -> int:
    """How large a journal may become with the events of a file."""
    return max(file.stat().st_size * _ROOM_FOR_PAGES, _LEAST_BYTES)


def _rebuild(folder: Path) -> None:
    """Replace a journal by one of its intact events, after the machine stopped with writes that the disk had not got.

    LMDB's tree and its list of free pages may be of different moments: a check cannot find all of that, and the next
    writes would overwrite events, or crash.
    """
    data, making = folder / DATA, folder / "rebuilding"
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir()
    try:
        events = copy_events(salvaged(data, after_power_cut=True), making, room_for_copy(data))
        (making / DATA).replace(data)
        power.sync_folder(folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    extra = {"folder": str(folder), "events": events}
    logger.error(
        "the machine stopped while a journal was open: its intact events are sent, the last may be lost", extra=extra
    )


def _set_aside(data: Path) -> None:
    # gunicorn kills a worker that takes 300 s to start; the file also keeps events that are not counted by then.
    until = time.monotonic() + _COUNT_SECONDS
    events = sum(1 for _ in takewhile(lambda _: time.monotonic() < until, salvaged(data)))
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ").replace(".", "")
    aside = data.with_name(f"damaged-{now}-{events}-events.mdb")
    data.rename(aside)
    extra = {"file": str(aside), "events": events}
    logger.error("a damaged journal was set aside; `python -m api.journal` restores its events", extra=extra)


def _is_sound(folder: Path) -> bool:
    """Whether the whole journal is readable. Raises OSError if the check fails.

    Another process checks it, since LMDB can crash on a damaged file.
    """
    try:
        check = subprocess.run(  # noqa: S603, nothing here comes from outside
            [sys.executable, "-m", "api.journal.check", os.fsencode(folder.resolve())],
            cwd=Path(__file__).parents[2],
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=_CHECK_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"the check did not finish within {_CHECK_TIMEOUT:g} s") from error
    if check.returncode in _SIGNS_OF_DAMAGE:
        return False
    if check.returncode < 0:
        # The kernel does this when memory is short.
        raise OSError(f"the process that checks it was ended by {signal.Signals(-check.returncode).name}")
    if check.returncode != 0:
        raise OSError((check.stderr.strip().splitlines() or ["the process that checks it failed"])[-1])
    return True
