"""The folders of the journals: whose each is, what is opened there, and what is set aside for being damaged."""

import errno
import fcntl
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import IO

import lmdb

from api.journal.check import FOUND_DAMAGE
from api.journal.journal import DATA, Journal
from api.journal.salvage import salvaged
from common.errors import JournalError

logger = logging.getLogger(__name__)

_LOCK = "owner.lock"
_RESTORED = "worker-restored-"
_CHECK_TIMEOUT = 300.0
_COUNT_SECONDS = 60.0
_SIGNS_OF_DAMAGE = (FOUND_DAMAGE, -signal.SIGBUS, -signal.SIGSEGV, -signal.SIGABRT)
_SET_ASIDE = re.compile(r"damaged-[^.]*?(?:-(?P<events>[0-9]+)-events)?\.mdb")

_OWNER = "give the folder and all in it to the user that runs the API (uid {uid})"
_FOLDER = "give a path that is a folder, or can become one"
_VERSION = "another version wrote it: run that one until it has sent all events"
_REMEDIES = {
    os.strerror(errno.EACCES): _OWNER,
    os.strerror(errno.EPERM): _OWNER,
    os.strerror(errno.EROFS): "mount its disk for writing",
    os.strerror(errno.ENOSPC): "make room on its disk",
    os.strerror(errno.EDQUOT): "make room on its disk, or raise the quota",
    os.strerror(errno.EMFILE): "allow the API more open files (ulimit -n)",
    os.strerror(errno.ENFILE): "allow the system more open files (sysctl fs.file-max)",
    os.strerror(errno.ENOMEM): "give the API more memory (ulimit -v, or the container's limit)",
    os.strerror(errno.EIO): "the kernel's log (dmesg) says what is wrong with its disk",
    os.strerror(errno.ENOTDIR): _FOLDER,
    os.strerror(errno.EEXIST): _FOLDER,
    "VERSION_MISMATCH": _VERSION,
    "is not supported by this build": _VERSION,
}
_ANYTHING_ELSE = "make it a folder that the API can write to"


class Claim:
    """A journal's folder, ours as long as this process lives or until `release`."""

    def __init__(self, folder: Path, lock: IO[bytes]) -> None:
        self.folder = folder
        self._lock = lock

    def release(self) -> None:
        """Leave the folder to others."""
        self._lock.close()

    def remove(self) -> None:
        """Delete the folder with its journal, but for what was set aside there. Does nothing where it may not."""
        with suppress(OSError):
            for name in (DATA, _LOCK):
                (self.folder / name).unlink()
            self.folder.rmdir()


@dataclass(frozen=True, slots=True)
class SetAside:
    """A damaged journal, and how many of its events can be read."""

    file: Path
    events: int


def claim(folder: Path) -> Claim | None:
    """A folder of a journal; None when somebody else has it, or has just removed it. Raises OSError."""
    try:
        # Closed by the operating system when the process ends, however it ends.
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
    """The first folder `worker-N` that no living process has, made if need be. Raises JournalError."""
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
    """The folders of workers that are gone, one after the other. Each has to be released.

    `failed` is told of those that cannot be claimed, though nobody has them, and why.
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
    """The journal in a claimed folder. One that is damaged is set aside under another name, with an error in the log.

    Blocks for as long as reading what was left takes. Raises JournalError when it cannot be used for a reason other
    than damage: nothing is changed then.
    """
    with told(folder):
        data = folder / DATA
        if data.exists():
            # What LMDB would say of a file that it may not open is less clear than what the system says.
            data.open("r+b").close()
            if not _is_sound(folder):
                _set_aside(data)
        return Journal(folder, max_bytes=max_bytes, sync=sync, on_fatal=on_fatal)


def set_aside_files(root: Path) -> list[SetAside]:
    """The damaged journals in the folders of all workers, oldest first in each. Raises nothing: none if unreadable."""
    found = []
    for file in sorted(root.glob("worker-*/damaged-*.mdb")):
        named = _SET_ASIDE.fullmatch(file.name)
        if named:
            # Of those that have no number nobody has counted; and one without any is to be looked at, too.
            found.append(SetAside(file, max(1, int(named["events"] or 1))))
    return found


def restored_folder(root: Path, file: Path) -> tuple[Path, Path]:
    """For what was read in a damaged file: a folder that no worker looks into, and the name that lets the next one."""
    name = f"{file.parent.name}-{file.stem.removeprefix('damaged-')}"
    return root / f"restoring-{name}", root / f"{_RESTORED}{name}"


def is_restored(folder: Path) -> bool:
    """Whether the folder was made of a damaged file: no worker ever makes it its own."""
    return folder.name.startswith(_RESTORED)


@contextmanager
def told(folder: Path) -> Iterator[None]:
    """Turn whatever keeps a journal from being used into a JournalError that says what to do."""
    try:
        yield
    except (OSError, lmdb.Error, UnicodeError, MemoryError) as error:
        text = str(error) or type(error).__name__
        remedies = (remedy for sign, remedy in _REMEDIES.items() if sign in text)
        remedy = next(remedies, _ANYTHING_ELSE).format(uid=os.geteuid())
        raise JournalError(f"API_JOURNAL_DIR: {folder} cannot be used: {text}; {remedy}") from error


def _set_aside(data: Path) -> None:
    # gunicorn kills a worker that takes 300 s to start: what is not counted by then is there all the same.
    until = time.monotonic() + _COUNT_SECONDS
    events = sum(1 for _ in takewhile(lambda _: time.monotonic() < until, salvaged(data)))
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ").replace(".", "")
    aside = data.with_name(f"damaged-{now}-{events}-events.mdb")
    data.rename(aside)
    extra = {"file": str(aside), "events": events}
    logger.error("a damaged journal was set aside; `python -m api.journal` brings its events back", extra=extra)


def _is_sound(folder: Path) -> bool:
    """Whether all of it can be read. Raises OSError when that cannot be found out.

    Asked of another process, since LMDB can crash on a damaged file.
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
        raise OSError(f"it cannot be read through within {_CHECK_TIMEOUT:g} s") from error
    if check.returncode in _SIGNS_OF_DAMAGE:
        return False
    if check.returncode < 0:
        # As the kernel does when memory is short.
        raise OSError(f"the process that reads it through was ended by {signal.Signals(-check.returncode).name}")
    if check.returncode != 0:
        raise OSError((check.stderr.strip().splitlines() or ["the process that reads it through failed"])[-1])
    return True
