"""Reads the intact events of a damaged journal, page by page, without LMDB, which may crash on it.

The format is that of LMDB 0.9 on 64-bit machines (docs/decisions, 42).
"""

import mmap
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

from api.journal.check import is_event
from api.journal.journal import is_intact

_PAGE_HEADER = struct.Struct("<QHHHH")  # number, padding, flags, end of the offsets, beginning of the nodes
_NODE_HEADER = struct.Struct("<HHHH")  # lower and upper half of a size, flags, size of the key
_META = struct.Struct("<IIQQ")  # magic, version, address and size of the map; then the trees of free pages and of data
_TREE = struct.Struct("<IHHQQQQQ")  # page size (in the first), flags, depth, pages and entries (four counts), root
_META_END = struct.Struct("<QQ")  # last page, transaction
_MAGIC = 0xBEEFC0DE
_BRANCH, _LEAF, _OVERFLOW = 1, 2, 4
_ELSEWHERE = 1
_KEY_BYTES = {8, 12}
# The keys in the tree of free pages are transaction numbers that begin with their lowest byte.
_FIRST_OF_A_POSITION = bytes(3)
_DEEPEST = 16
_LARGEST_VALUE_BYTES = 16 * 1024 * 1024
# Copies of a page are close to each other in the order of positions: within N to 2 N events.
_REMEMBERED = 100_000
_PAGE_BITS = 40
_PAGES_AT_HAND = 64


class _Node(NamedTuple):
    """In a leaf: a key, its position, and its value or, if `elsewhere`, the number of the value's first page. In a
    branch: `size` is the page below it.
    """

    key: bytes
    position: int
    size: int
    elsewhere: bool
    rest: bytes


def salvaged(file: Path, *, after_power_cut: bool = False) -> Iterator[bytes]:
    """The readable events, oldest first as far as that is known. Raises OSError if the file cannot be opened.

    LMDB does not overwrite a freed page: some of the events may already be in Kafka. After a power cut, the pages of an
    entry, and those of the tree, may be of different moments: an entry counts only if it is intact, wherever it is.
    """
    with file.open("rb", buffering=0) as data:
        pages = _Pages(data)
        oldest = 0 if after_power_cut else pages.oldest_position()
        # A torn page has its entries in no order.
        places = sorted(
            node.position << _PAGE_BITS | number
            for number in range(file.stat().st_size // pages.page_bytes + 1)
            for node in pages.nodes(number, _LEAF)
            if node.position >= oldest
        )
        nodes = lru_cache(_PAGES_AT_HAND)(lambda number: pages.nodes(number, _LEAF))
        seen: set[int] = set()
        seen_before: set[int] = set()
        for place in places:
            for node in nodes(place & (1 << _PAGE_BITS) - 1):
                if node.position != place >> _PAGE_BITS:
                    continue
                value = pages.value(node)
                intact = is_intact(node.key, value)
                if after_power_cut and intact is False:
                    continue
                for event in value.split(b"\n"):
                    known = hash(event)
                    if known not in seen and known not in seen_before and (intact or is_event(event)):
                        seen.add(known)
                        if len(seen) > _REMEMBERED:
                            seen, seen_before = set(), seen
                        yield event


class _Pages:
    """A file's pages; each may be corrupt or unreadable."""

    def __init__(self, data: BinaryIO) -> None:
        self._data = data
        self.page_bytes = mmap.PAGESIZE
        self._root: int | None = None
        newest = -1
        # The second page's position follows from the page size in the first one, or from a good guess.
        for number in (0, 1):
            meta = self._read(number * self.page_bytes, 4096)[_PAGE_HEADER.size :]
            if len(meta) < _META.size + 2 * _TREE.size + _META_END.size or _META.unpack_from(meta)[0] != _MAGIC:
                continue
            page_bytes = _TREE.unpack_from(meta, _META.size)[0]
            if page_bytes not in {1 << power for power in range(9, 17)}:
                continue
            self.page_bytes = page_bytes
            transaction = _META_END.unpack_from(meta, _META.size + 2 * _TREE.size)[1]
            if transaction > newest:
                newest, self._root = transaction, _TREE.unpack_from(meta, _META.size + _TREE.size)[-1]

    def oldest_position(self) -> int:
        """The first position of the newest tree, or 0 if unknown: earlier ones are in Kafka."""
        number = self._root
        for _ in range(_DEEPEST):
            if number is None:
                break
            leaf = self.nodes(number, _LEAF)
            if leaf:
                return leaf[0].position
            branch = self.nodes(number, _BRANCH)
            number = branch[0].size if branch else None
        return 0

    def nodes(self, number: int, kind: int) -> list[_Node]:
        """The nodes of a page of this kind; empty if it is of another kind, or corrupt."""
        page = self._read(number * self.page_bytes, self.page_bytes)
        if len(page) < self.page_bytes:
            return []
        own_number, _, flags, end, _ = _PAGE_HEADER.unpack_from(page)
        if own_number != number or not flags & kind or not _PAGE_HEADER.size < end <= self.page_bytes:
            return []
        found = []
        for (offset,) in struct.iter_unpack("<H", page[_PAGE_HEADER.size : end - end % 2]):
            if offset + _NODE_HEADER.size > self.page_bytes:
                continue
            low, high, node_flags, key_bytes = _NODE_HEADER.unpack_from(page, offset)
            begin = offset + _NODE_HEADER.size
            key, rest = page[begin : begin + key_bytes], page[begin + key_bytes :]
            size = low | high << 16
            if kind == _BRANCH:
                # The first key of a branch is empty.
                found.append(_Node(b"", 0, size | node_flags << 32, elsewhere=False, rest=b""))
            elif key_bytes in _KEY_BYTES and size <= _LARGEST_VALUE_BYTES and key[:3] == _FIRST_OF_A_POSITION:
                elsewhere = bool(node_flags & _ELSEWHERE)
                rest = rest[: 8 if elsewhere else size]
                found.append(_Node(key, int.from_bytes(key[:8], "big"), size, elsewhere, rest))
        return found

    def value(self, node: _Node) -> bytes:
        """An entry's value, or its readable part."""
        if not node.elsewhere:
            return node.rest
        number = int.from_bytes(node.rest, "little")
        page = self._read(number * self.page_bytes, _PAGE_HEADER.size + node.size)
        if len(page) < _PAGE_HEADER.size:
            return b""
        own_number, _, flags, _, _ = _PAGE_HEADER.unpack_from(page)
        return page[_PAGE_HEADER.size :] if own_number == number and flags & _OVERFLOW else b""

    def _read(self, offset: int, length: int) -> bytes:
        """Fewer bytes at the end of the file; empty after a disk error."""
        try:
            self._data.seek(offset)
            return self._data.read(length)
        except (OSError, OverflowError, ValueError):
            return b""
