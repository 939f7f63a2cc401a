"""A small file system at a folder, which a test can fill and free."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import disk_usage, which
from subprocess import CalledProcessError, run


class MountError(Exception):
    """This user may not mount a file system, which usually needs root."""


class SmallDisk:
    """A file system in memory."""

    def __init__(self, folder: Path, size: int) -> None:
        """Mount it, `size` in bytes, at an empty folder. Raises MountError."""
        self.folder = folder
        self._size = size
        try:
            self._mount(f"size={size}", "-t", "tmpfs", "tmpfs")
        except (OSError, CalledProcessError) as error:
            raise MountError(f"a disk cannot be mounted at {folder}: {error}") from error

    def fill(self) -> None:
        """Reduce the free space to 512 KiB; less is not possible while files grow."""
        self._mount(f"remount,size={disk_usage(self.folder).used + 512 * 1024}")

    def free(self) -> None:
        """Restore its size."""
        self._mount(f"remount,size={self._size}")

    def unmount(self) -> None:
        """Unmount it, even if processes have files open there."""
        _unmount(self.folder)

    def _mount(self, options: str, *what: str) -> None:
        run(["mount", "-o", options, *what, self.folder], capture_output=True, timeout=10, check=True)


def _unmount(folder: Path) -> None:
    run(["umount", "--lazy", folder], capture_output=True, timeout=10, check=True)


@contextmanager
def mounted(folder: Path, size: int) -> Iterator[SmallDisk]:
    """A disk at an empty folder, until the block ends. Raises MountError."""
    disk = SmallDisk(folder, size)
    try:
        yield disk
    finally:
        disk.unmount()


@contextmanager
def mounted_ext4(folder: Path, size: int) -> Iterator[None]:
    """A disk with ext4, `size` bytes, in a file beside the folder, until the block ends. Raises MountError."""
    image = folder.with_suffix(".ext4")
    with image.open("wb") as file:
        file.truncate(size)
    try:
        run([which("mkfs.ext4") or "/sbin/mkfs.ext4", "-q", "-m", "0", image], capture_output=True, check=True)
        run(["mount", "-o", "loop", image, folder], capture_output=True, timeout=10, check=True)
    except (OSError, CalledProcessError) as error:
        raise MountError(f"a disk with ext4 cannot be mounted at {folder}: {error}") from error
    try:
        yield
    finally:
        _unmount(folder)
