"""Knows whether the machine stopped while a journal was open without sync: its file may then lack any recent write.

A mark beside the journal, named MARK, has the boot in which the journal was opened; a clean close removes it.
"""

import errno
import os
from contextlib import suppress
from pathlib import Path

MARK = "open-since-boot"

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def was_cut(folder: Path) -> bool:
    """Whether a journal was open when the machine stopped. Raises OSError."""
    try:
        marked = (folder / MARK).read_bytes()
    except FileNotFoundError:
        return False
    return marked != _boot()


def mark(folder: Path) -> None:
    """Before the first write to a journal without sync. Blocks until the disk has the mark."""
    # A full disk takes no mark; the journal is then opened next time as after the death of a process.
    with suppress(OSError):
        with (folder / MARK).open("wb") as file:
            file.write(_boot())
            file.flush()
            os.fsync(file.fileno())
        sync_folder(folder)


def unmark(folder: Path) -> None:
    """The disk has the journal. Ignores errors, since a mark too many loses nothing."""
    with suppress(OSError):
        (folder / MARK).unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Return when the disk has the names in a folder. Raises OSError."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        # A folder that this user may not read is older than the journal.
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems have no such operation, and read-only ones no new names.
        if error.errno not in {errno.EINVAL, errno.ENOTSUP, errno.EROFS}:
            raise
    finally:
        os.close(descriptor)


def _boot() -> bytes:
    """The same until the machine starts again; without Linux always the same."""
    with suppress(OSError):
        return _BOOT.read_bytes()
    return b"unknown"
