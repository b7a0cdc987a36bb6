# SPDX-License-Identifier: GPL-2.0-or-later
"""A second, naive page walk: one translation per page, as the CPU does it (Intel SDM volume 3A, chapter "Paging").

With it a maker of page tables: sparse tables in a dict {physical address: 4096 bytes}.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

P, W, U, PS, PAT, NX = 1, 1 << 1, 1 << 2, 1 << 7, 1 << 12, 1 << 63
Memory = dict[int, bytes]


@dataclass
class Tables:
    """Page tables under construction; tables are allocated upwards from `free`."""

    levels: int = 4
    root: int = 0x10000
    free: int = 0x11000
    entries: dict[int, dict[int, int]] = field(default_factory=dict)

    def set(self, table: int, index: int, entry: int) -> None:
        """Write one entry."""
        self.entries.setdefault(table, {})[index] = entry

    def table(self) -> int:
        """A new, empty table."""
        self.free += 0x1000
        self.entries[self.free - 0x1000] = {}
        return self.free - 0x1000

    def map(self, va: int, pa: int, flags: int = P, level: int = 1, above: int = P | W | U) -> None:
        """Map one leaf of `level` at `va`; entries above it that do not exist yet get the flags `above`."""
        table = self.root
        self.entries.setdefault(table, {})
        for depth in range(self.levels, level, -1):
            index = va >> 12 + 9 * (depth - 1) & 511
            entry = self.entries[table].get(index, 0)
            if not entry & P:
                entry = self.table() | above
                self.set(table, index, entry)
            table = entry & 0xFFFFFFFFFF000
        self.set(table, va >> 12 + 9 * (level - 1) & 511, pa | flags | (PS if level > 1 else 0))

    def memory(self) -> Memory:
        """The tables as bytes."""
        whole = {pa: [table.get(index, 0) for index in range(512)] for pa, table in self.entries.items()}
        return {pa: struct.pack("<512Q", *entries) for pa, entries in whole.items()}


def translate(memory: Memory, root: int, levels: int, va: int, ignore: int = 0) -> tuple[int, bool, bool, bool] | None:
    """(physical address, writable, user, executable) of one page; None if it is not mapped."""
    table, writable, user, executable = root, True, True, True
    for level in range(levels, 0, -1):
        shift = 12 + 9 * (level - 1)
        (entry,) = struct.unpack_from("<Q", memory[table], 8 * (va >> shift & 511))
        if not entry & P:
            return None
        writable, user = writable and bool(entry & W), user and bool(entry & U)
        executable = executable and not entry & NX
        frame = entry & 0xFFFFFFFFFF000 & ~ignore
        if level == 1 or entry & PS:
            size = 1 << shift
            return frame // size * size + va % size, writable, user, executable
        table = frame
    return None


Page = tuple[int, int, bool, bool]


def executable_pages(memory: Memory, root: int, levels: int, pages: Iterable[int], ignore: int = 0) -> set[Page]:
    """(va, pa, writable, user) of the executable ones among the pages at these virtual addresses."""
    found = set()
    for va in pages:
        leaf = translate(memory, root, levels, va, ignore)
        if leaf and leaf[3]:
            found.add((va, *leaf[:3]))
    return found


def spread(mappings: Iterable[tuple[int, int, int, bool, bool]]) -> Iterator[Page]:
    """Extents (va, pa, bytes, writable, user) as single pages."""
    for va, pa, size, writable, user in mappings:
        yield from ((va + at, pa + at, writable, user) for at in range(0, size, 4096))


def canonical(va: int, levels: int) -> int:
    """`va` with its highest translated bit copied upwards."""
    bits = 12 + 9 * levels
    va &= (1 << bits) - 1
    return va | (2**64 - (1 << bits) if va >> bits - 1 else 0)
