"""Full and broken disks: writes of this process to a file fail as the kernel lets them fail on such a disk."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = "/dev/full"
"""Each write fails with "No space left on device"."""

BROKEN = "/proc/self/mem"
"""Each write to its beginning fails with "Input/output error", since no memory is mapped there."""


@contextmanager
def bad_disk(device: str, file: Path, *, synced_writes: bool = False) -> Iterator[None]:
    """Redirect this process's writes to an open file to a device; its reads through a map continue.

    With `sync`, LMDB writes the page that commits a transaction through a second descriptor, whose writes are synced.
    It cannot recover from an error there.
    """
    descriptors = [number for number in _descriptors(file) if _is_synced(number) == synced_writes]
    kept = {number: os.dup(number) for number in descriptors}
    replacement = os.open(device, os.O_RDWR)
    try:
        for number in kept:
            os.dup2(replacement, number)
        yield
    finally:
        os.close(replacement)
        for number, own in kept.items():
            os.dup2(own, number)
            os.close(own)


def break_for_good(device: str, file: Path) -> None:
    """Redirect the writes of the page that commits a transaction, until the process ends."""
    replacement = os.open(device, os.O_RDWR)
    for number in [number for number in _descriptors(file) if _is_synced(number)]:
        os.dup2(replacement, number)
    os.close(replacement)


def _descriptors(file: Path) -> list[int]:
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            if entry.readlink() == file:
                found.append(int(entry.name))
        except FileNotFoundError:
            # The descriptor that listed the folder.
            continue
    return found


def _is_synced(number: int) -> bool:
    flags = next(
        line.split()[1] for line in Path(f"/proc/self/fdinfo/{number}").read_text().splitlines() if "flags" in line
    )
    return bool(int(flags, 8) & os.O_DSYNC)
