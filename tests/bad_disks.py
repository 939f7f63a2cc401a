"""Disks that take nothing: this process's writes to a file are answered as the kernel answers for such a disk."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = "/dev/full"
"""Each write: no space left on device."""

BROKEN = "/proc/self/mem"
"""Each write to its beginning: input/output error. Nothing of a process is mapped there."""


@contextmanager
def bad_disk(device: str, file: Path, *, synced_writes: bool = False) -> Iterator[None]:
    """Lead this process's writes to an open file to a device instead; its reads through a map go on.

    LMDB has a second descriptor, whose writes are synced: with `sync`, for the page that makes a transaction count. An
    error there is one that it does not get over.
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
    """The same for the page that makes a transaction count, and for as long as the process lives."""
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
            # The one that the folder itself was read with.
            continue
    return found


def _is_synced(number: int) -> bool:
    flags = next(
        line.split()[1] for line in Path(f"/proc/self/fdinfo/{number}").read_text().splitlines() if "flags" in line
    )
    return bool(int(flags, 8) & os.O_DSYNC)
