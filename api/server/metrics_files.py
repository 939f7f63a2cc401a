"""The metrics files of gunicorn's workers, allocated in full when they are created.

prometheus_client maps sparse files into memory: on a full disk, a write to a missing block would kill the worker
(SIGBUS). Here the blocks exist before a worker writes, in shared memory if the machine has it.

A worker's files are named after a slot, not its process id: the next worker in the slot continues the counters, so that
neither a dead worker nor a reload resets a counter or leaves a file behind.
"""

import contextlib
import fcntl
import functools
import json
import logging
import os
import shutil
import struct
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict

from common.errors import SettingsError

logger = logging.getLogger(__name__)

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
SIZES = {
    "counter": 512 * 1024,
    "histogram": 1024 * 1024,
    "gauge_livesum": 64 * 1024,
    "gauge_livemin": 64 * 1024,
    "gauge_livemax": 64 * 1024,
    "gauge_livemostrecent": 64 * 1024,
}
"""Bytes by kind of file: more than all series together need, since prometheus_client would grow a file sparsely."""

_PREFIX = "pulse-metrics-"
_IN_USE = "in-use"


class MetricsFiles:
    """The files of one gunicorn. Create it in the master before anything imports prometheus_client's values."""

    def __init__(self, places: int) -> None:
        """Create the files for N slots, in the folder that PROMETHEUS_MULTIPROC_DIR names, or else in our own folder,
        to which this then sets the variable. Raises SettingsError if there is no room for them.
        """
        given = os.environ.get(VARIABLE)
        self._lock: IO[bytes] | None = None
        if given:
            self.folder = Path(given)
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                for left_over in self.folder.glob("*.db"):
                    left_over.unlink()
                self._reserve_all(places)
            except OSError as error:
                raise SettingsError(VARIABLE, given, _allowed(places, error)) from error
        else:
            self._in_own_folder(places)

    def _in_own_folder(self, places: int) -> None:
        why: OSError | None = None
        for parent in _candidates():
            _sweep(parent)
            try:
                self.folder, self._lock = _own_folder(parent)
            except OSError as error:
                why = error
                continue
            try:
                self._reserve_all(places)
            except OSError as error:
                why = error
                self.remove()
            else:
                os.environ[VARIABLE] = str(self.folder)
                return
        raise SettingsError(VARIABLE, "", _allowed(places, why))

    def reserve(self, place: int) -> None:
        """Create the files of a slot, if missing. In the master, before the fork. Never raises."""
        try:
            self._reserve(place)
        except OSError as error:
            # Only for a worker beyond the planned slots: it is better to run it without reserved files than not at all.
            extra = {"folder": str(self.folder), "error": str(error)}
            logger.warning("there is no room to reserve the metrics files of another worker", extra=extra)

    def count_in(self, place: int) -> None:
        """Use the files of this slot from now on. In the worker, after the fork, before the first metric."""
        identify: Any = lambda: place  # noqa: E731, its type is wrong in prometheus_client
        values.ValueClass = values.MultiProcessValue(identify)  # type: ignore[no-untyped-call]

    def forget_gauges(self, place: int) -> None:
        """Clear a dead worker's gauges. In the master, before another worker takes its slot."""
        for kind, size in SIZES.items():
            if kind.startswith("gauge"):
                # In place, since freed blocks may not be available again.
                with contextlib.suppress(OSError), self._file(kind, place).open("r+b") as file:
                    file.write(bytes(size))

    def remove(self) -> None:
        """Remove the folder, if it is our own. In the master, before it exits."""
        if self._lock is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self._lock.close()
            self._lock = None

    def _reserve_all(self, places: int) -> None:
        for place in range(places):
            self._reserve(place)

    def _reserve(self, place: int) -> None:
        for kind, size in SIZES.items():
            path = self._file(kind, place)
            if path.exists():
                _drop_if_broken(path)
            with path.open("ab") as file:
                file.write(bytes(max(0, size - file.tell())))

    def _file(self, kind: str, place: int) -> Path:
        return self.folder / f"{kind}_{place}.db"


@functools.cache
def metrics_files(places: int) -> MetricsFiles:
    """The files of this process: after a HUP, gunicorn reloads its configuration and keeps them. Raises
    SettingsError.
    """
    return MetricsFiles(places)


def drop_broken(folder: Path) -> None:
    """Delete the files that prometheus_client cannot read, and log an error, so that the others are served."""
    for file in folder.glob("*.db"):
        _drop_if_broken(file)


def _drop_if_broken(file: Path) -> None:
    try:
        for key, *_ in MmapedDict.read_all_values_from_file(str(file)):  # type: ignore[no-untyped-call]
            json.loads(key)
    except (struct.error, ValueError, RuntimeError) as error:
        extra = {"file": str(file), "error": str(error)}
        logger.error("a metrics file is broken and was deleted; its counts are lost", extra=extra)  # noqa: TRY400, it says it all
        file.unlink(missing_ok=True)


def _candidates() -> Iterable[Path]:
    memory = Path("/dev/shm")  # noqa: S108, a folder of our own is made in it
    return (memory, Path(tempfile.gettempdir())) if memory.is_dir() else (Path(tempfile.gettempdir()),)


def _own_folder(parent: Path) -> tuple[Path, IO[bytes]]:
    """A new folder, and its lock, which is released with the last of our processes."""
    # Under another name until it is locked, or another gunicorn would remove it.
    folder = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=parent))
    lock = (folder / _IN_USE).open("ab")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return folder.rename(parent / folder.name.removeprefix(".")), lock


def _sweep(parent: Path) -> None:
    """Remove the folders of killed processes."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), (folder / _IN_USE).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


def _allowed(places: int, error: OSError | None) -> str:
    mebibytes = places * sum(SIZES.values()) / 1024**2
    return f"a folder with {mebibytes:.1f} MiB of room for the workers' metrics ({error})"
