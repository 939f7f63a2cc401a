"""Builds the possible contents of a disk after a power cut, from a recording of `recorder.c`.

The rules are those of POSIX, and stricter than most file systems:

- After `fsync` or `fdatasync` of a file, all earlier writes to it are on the disk, with its size. A write with O_DSYNC
  is on the disk when it returns.
- After later writes, each page (4 KiB) may have any of its versions, or a mix of two versions by sectors (512 bytes).
  The file may have any of its sizes since the sync.
- Names (new, renamed, removed) reach the disk in order; only a sync of the folder guarantees it.
"""

import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple

PAGE, SECTOR = 4096, 512

_EMPTY = bytes(PAGE)


class Operation(NamedTuple):
    """A recorded call: `offset` is a size for `truncate` and `grow`; `data` is the new name for `rename`."""

    kind: str
    offset: int
    path: str
    data: bytes
    end: int
    """The end of its entry in the recording; earlier calls have smaller ones."""


class Loss(Enum):
    """The selection of unsynced writes that are on the disk."""

    NOTHING = auto()
    EVERYTHING = auto()
    ORDERED = auto()
    """The writes before some moment."""
    PAGES = auto()
    """Any version of each page."""
    FEW = auto()
    """An older version of a few pages, and the newest of the others."""
    SECTORS = auto()
    """Any version of each page, or a mix of two versions by sectors."""


class _Version(NamedTuple):
    moment: int
    content: bytes


@dataclass(slots=True)
class _File:
    pages: dict[int, list[_Version]] = field(default_factory=dict)
    """The first version is on the disk; a reader sees the last one."""
    dirty: set[int] = field(default_factory=set)
    sizes: list[_Version] = field(default_factory=lambda: [_Version(0, b"0")])

    @property
    def size(self) -> int:
        return int(self.sizes[-1].content)

    def resize(self, size: int, moment: int) -> None:
        self.sizes.append(_Version(moment, b"%d" % size))

    def write(self, offset: int, data: bytes, moment: int) -> range:
        """Write bytes; returns the numbers of the changed pages."""
        numbers = range(offset // PAGE, (offset + len(data) - 1) // PAGE + 1)
        for number in numbers:
            versions = self.pages.setdefault(number, [_Version(0, _EMPTY)])
            begin = max(offset, number * PAGE)
            end = min(offset + len(data), (number + 1) * PAGE)
            content = bytearray(versions[-1].content)
            content[begin - number * PAGE : end - number * PAGE] = data[begin - offset : end - offset]
            versions.append(_Version(moment, bytes(content)))
            self.dirty.add(number)
        if offset + len(data) > self.size:
            self.resize(offset + len(data), moment)
        return numbers

    def sync(self) -> None:
        self.sync_pages(list(self.dirty))

    def sync_pages(self, numbers: list[int]) -> None:
        for number in numbers:
            self.pages[number] = self.pages[number][-1:]
            self.dirty.discard(number)
        self.sizes = self.sizes[-1:]


class _Name(NamedTuple):
    """A change of the names: `file` is None for folders."""

    kind: str
    path: str
    to: str
    file: _File | None


class Disk:
    """Follows a recording; `image` writes a possible disk after a power cut at this moment."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the recorded one, which was empty and is on the disk."""
        self._folder = str(folder)
        self._names: dict[str, _File | None] = {}
        self._names_on_disk: dict[str, _File | None] = {}
        self._changes: list[_Name] = []
        self._moment = 0

    def follow(self, operation: Operation) -> None:
        """The call has returned."""
        self._follow(operation, finished=True)

    def begin(self, operation: Operation) -> None:
        """The call has begun, and the power fails before it returns; only `image` may follow."""
        self._follow(operation, finished=False)

    def write_back(self) -> None:
        """The kernel has written all data without a sync."""
        for file in self._names.values():
            if file is not None:
                file.sync()
        self._names_on_disk, self._changes = dict(self._names), []

    def image(self, to: Path, loss: Loss, chance: random.Random) -> None:
        """Write a possible state of the folder after a power cut into `to`, which must not exist."""
        to.mkdir(parents=True)
        names = dict(self._names_on_disk)
        kept = {Loss.NOTHING: 0, Loss.EVERYTHING: len(self._changes)}.get(loss)
        for change in self._changes[: chance.randint(0, len(self._changes)) if kept is None else kept]:
            _rename(names, change)
        until = chance.randint(0, self._moment)
        for path, file in sorted(names.items()):
            target = to / os.path.relpath(path, self._folder)
            if file is None:
                target.mkdir(parents=True, exist_ok=True)
            else:
                target.write_bytes(_content(file, loss, chance, until))

    def _follow(self, operation: Operation, *, finished: bool) -> None:
        self._moment += 1
        kind, path = operation.kind, operation.path
        if kind in {"create", "mkdir", "rename", "remove"}:
            file = self._names.get(path) if kind != "create" else _File()
            change = _Name(kind, path, os.fsdecode(operation.data), file)
            _rename(self._names, change)
            self._changes.append(change)
            return
        file = self._names.get(path)
        if kind == "sync" and finished:
            self._sync(path, file)
        if file is None:
            return
        if kind in {"write", "synced_write"}:
            numbers = file.write(operation.offset, operation.data, self._moment)
            if kind == "synced_write" and finished:
                file.sync_pages(list(numbers))
        elif kind == "truncate" or (kind == "grow" and operation.offset > file.size):
            for number in file.pages:
                if operation.offset < (number + 1) * PAGE:
                    left = file.pages[number][-1].content[: max(0, operation.offset - number * PAGE)]
                    file.pages[number].append(_Version(self._moment, left.ljust(PAGE, b"\0")))
                    file.dirty.add(number)
            file.resize(operation.offset, self._moment)

    def _sync(self, path: str, file: _File | None) -> None:
        if file is not None:
            file.sync()
            return
        touching = [
            number
            for number, change in enumerate(self._changes, 1)
            if path in {str(Path(change.path).parent), str(Path(change.to).parent)}
        ]
        reached = max(touching, default=0)
        for change in self._changes[:reached]:
            _rename(self._names_on_disk, change)
        self._changes = self._changes[reached:]


def recorded(log: Path) -> Iterator[Operation]:
    """The calls of a recording, up to the first unfinished entry."""
    with log.open("rb") as entries:
        while (head := entries.readline()).endswith(b"\n"):
            kind, offset, length, path = head[:-1].split(b" ", 3)
            data = entries.read(int(length))
            if len(data) < int(length):
                return
            yield Operation(kind.decode(), int(offset), os.fsdecode(path), data, entries.tell())


def _rename(names: dict[str, _File | None], change: _Name) -> None:
    if change.kind in {"create", "mkdir"}:
        names[change.path] = change.file
    elif change.kind == "remove":
        names.pop(change.path, None)
    else:
        for path in [path for path in names if path == change.path or path.startswith(change.path + "/")]:
            names[change.to + path.removeprefix(change.path)] = names.pop(path)


def _content(file: _File, loss: Loss, chance: random.Random, until: int) -> bytes:
    sizes = _Choice(loss, chance, until)
    size = int(sizes.of(file.sizes))
    if loss in {Loss.PAGES, Loss.FEW, Loss.SECTORS} and chance.random() < 0.5:
        # Otherwise most images would lack all new pages.
        size = file.size
    content = bytearray(size)
    for number, versions in _within(file.pages, size).items():
        begin = number * PAGE
        content[begin : min(size, begin + PAGE)] = sizes.of(versions)[: size - begin]
    return bytes(content)


def _within(pages: Mapping[int, list[_Version]], size: int) -> dict[int, list[_Version]]:
    return {number: versions for number, versions in pages.items() if number * PAGE < size}


class _Choice:
    def __init__(self, loss: Loss, chance: random.Random, until: int) -> None:
        self._loss = loss
        self._chance = chance
        self._until = until
        self._rarely = chance.choice([0.02, 0.1, 0.3])

    def of(self, versions: list[_Version]) -> bytes:
        chance = self._chance
        if len(versions) == 1 or self._loss is Loss.NOTHING:
            return versions[0].content
        if self._loss is Loss.EVERYTHING:
            return versions[-1].content
        if self._loss is Loss.ORDERED:
            return [version for version in versions if version.moment <= self._until or version is versions[0]][
                -1
            ].content
        if self._loss is Loss.FEW and chance.random() > self._rarely:
            return versions[-1].content
        one, other = chance.choice(versions).content, chance.choice(versions).content
        if self._loss is Loss.SECTORS and len(one) == PAGE and chance.random() < 0.5:
            mixed = (chance.choice([one, other])[at : at + SECTOR] for at in range(0, PAGE, SECTOR))
            return b"".join(mixed)
        return one
