# SPDX-License-Identifier: GPL-2.0-or-later
"""Executable mappings out of x86-64 page tables, and the file format that keeps them.

Source: Intel SDM volume 3A, chapter "Paging": 4 and 5 levels; a leaf is executable if XD (bit 63) is clear at
every level, a user-mode address if U/S (bit 2) is set at every level, writable if R/W (bit 1) is.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from mbecguard.values.codec import encode
from mbecguard.values.errors import UserError, die
from mbecguard.values.pages import PAGE_SHIFT, PAGE_SIZE, PageRange

SCHEMA = "mbecguard.execmap/1"
TABLE_LIMIT = 1 << 18  #: page-table pages read at most: 1 GiB of tables
LEAF_LIMIT = 1 << 20  #: executable leaves and extents that are looked at; tables may share tables, so this bounds work

_PRESENT, _WRITABLE, _USER, _LARGE, _NX = 1, 1 << 1, 1 << 2, 1 << 7, 1 << 63
_ADDRESS = (1 << 52) - PAGE_SIZE
_ENTRIES = struct.Struct("<512Q")
_EMPTY = bytes(PAGE_SIZE)
_ALL_NX = bytes(range(0x80, 0x100))  #: top bytes of entries that are NX


@dataclass(frozen=True, slots=True)
class Mapping:
    """One executable extent: byte addresses and size, contiguous in both address spaces.

    `user` extents are user-mode linear addresses to MBEC, whatever ring runs them.
    """

    va: int
    pa: int
    bytes: int
    writable: bool = False
    user: bool = False

    @property
    def virtual(self) -> PageRange:
        """Virtual page numbers."""
        return PageRange.covering(self.va, self.bytes)

    @property
    def offset(self) -> int:
        """Virtual page number minus page frame number."""
        return self.va - self.pa >> PAGE_SHIFT

    @property
    def frames(self) -> PageRange:
        """Page frame numbers."""
        return PageRange.covering(self.pa, self.bytes)


ReadTable = Callable[[int], bytes | None]


class PageTables:
    """A walker over one tree of page tables.

    `read` gives the 4096 bytes at a physical byte address, or None where there is no memory.
    `encryption_mask` holds address bits that select encryption (SEV's C bit), not memory.
    """

    def __init__(self, read: ReadTable, *, encryption_mask: int = 0) -> None:
        self._read = read
        self._address_mask = _ADDRESS & ~encryption_mask
        self._levels: dict[int, int] = {}
        self._known: dict[int, list[Mapping]] = {}
        self._leaves = 0

    def executable(self, root: int, levels: int, *, kernel_half_only: bool = True) -> tuple[Mapping, ...]:
        """Executable extents below the table at physical byte address `root`, sorted by virtual address.

        Dies on tables that cannot be a kernel's: loops, pointers outside memory, reserved bits.
        """
        half = 1 << PAGE_SHIFT + 9 * levels - 1
        upper = self.within(root, levels, range(2**64 - half, 2**64))
        # One half after the other, so that no extent spans the hole between them.
        return upper if kernel_half_only else (*self.within(root, levels, range(half)), *upper)

    def within(self, root: int, levels: int, span: range) -> tuple[Mapping, ...]:
        """The same of addresses in `span`, in one half of the space; tables that map nothing there are not read."""
        hole = 2**64 - (1 << PAGE_SHIFT + 9 * levels) if span.start >> 63 else 0
        return tuple(_moved(m, hole) for m in self._table(root, levels, range(span.start - hole, span.stop - hole)))

    def _table(self, pa: int, level: int, span: range) -> list[Mapping]:
        """What is below a table, by offset from the first address that it maps; `span` likewise."""
        self._claim(pa, level)
        if span.start > 0 or span.stop < PAGE_SIZE << 9 * level:
            return self._entries(pa, level, span)
        if pa not in self._known:
            self._known[pa] = self._entries(pa, level, span)
        return self._known[pa]

    def _claim(self, pa: int, level: int) -> None:
        # A table belongs to one level; a loop, or a self-map, always shows as a table used at two.
        if self._levels.setdefault(pa, level) != level:
            die(
                f"page table at {pa:#x} is used at levels {self._levels[pa]} and {level}",
                "the page tables loop or are garbage; nothing can be concluded from them",
            )
        if len(self._levels) > TABLE_LIMIT:
            die(f"more than {TABLE_LIMIT} page tables", "the page tables are garbage")

    def _entries(self, pa: int, level: int, span: range) -> list[Mapping]:
        data = self._read(pa)
        if data is None or len(data) != PAGE_SIZE:
            die(
                f"page table at {pa:#x} lies outside memory",
                "the page tables changed while read, or are garbage",
            )
        if data == _EMPTY or not data[7::8].translate(None, _ALL_NX):
            return []
        shift = PAGE_SHIFT + 9 * (level - 1)
        leaves: list[Mapping] = []
        entries = _ENTRIES.unpack(data)
        for index in range(max(span.start, 0) >> shift, min(-(-span.stop >> shift), 512)):
            entry, base = entries[index], index << shift
            if entry & _PRESENT and not entry & _NX:
                below = self._entry(entry, level, range(span.start - base, span.stop - base))
                self._count(len(below))
                _extend(leaves, below, base, entry)
        return leaves

    def _count(self, leaves: int) -> None:
        self._leaves += leaves
        if self._leaves > LEAF_LIMIT:
            die(
                f"more than {LEAF_LIMIT} executable leaves",
                "the page tables are garbage, or the kernel runs without NX (noexec=off)",
            )

    def _entry(self, entry: int, level: int, span: range) -> Sequence[Mapping]:
        if level > 1 and not entry & _LARGE:
            return self._table(entry & self._address_mask, level - 1, span)
        if level > 3:
            die(
                f"page table entry {entry:#x} at level {level} has a reserved bit",
                "the page tables are garbage",
            )
        shift = PAGE_SHIFT + 9 * (level - 1)
        pa = entry & self._address_mask & -(1 << shift)  # bit 12 of a large leaf is PAT
        return (Mapping(0, pa, 1 << shift, writable=True, user=True),)


def _extend(leaves: list[Mapping], below: Sequence[Mapping], offset: int, entry: int) -> None:
    writable, user = bool(entry & _WRITABLE), bool(entry & _USER)
    for m in below:
        append(leaves, Mapping(m.va + offset, m.pa, m.bytes, m.writable and writable, m.user and user))


def append(leaves: list[Mapping], leaf: Mapping) -> None:
    """Add a mapping behind the others, as one with the last if it continues that in VA and PA with equal rights."""
    if leaves and _continues(leaves[-1], leaf):
        last = leaves.pop()
        leaf = Mapping(last.va, last.pa, last.bytes + leaf.bytes, leaf.writable, leaf.user)
    leaves.append(leaf)


def _continues(before: Mapping, after: Mapping) -> bool:
    return (before.va + before.bytes, before.pa + before.bytes, before.writable, before.user) == (
        after.va,
        after.pa,
        after.writable,
        after.user,
    )


def _moved(mapping: Mapping, offset: int) -> Mapping:
    return Mapping(mapping.va + offset, mapping.pa, mapping.bytes, mapping.writable, mapping.user)


def dump(mappings: Iterable[Mapping]) -> str:
    """`execmap.json` as text, one mapping a line."""
    lines = ",\n".join(json.dumps(encode(m)) for m in mappings)
    return f'{{"schema":"{SCHEMA}","mappings":[\n{lines}\n]}}\n'


@lru_cache(maxsize=1)
def load(text: str, where: str = "execmap.json") -> tuple[Mapping, ...]:
    """The inverse of `dump`; addresses may also be hex strings. Dies on anything that no page table can hold."""
    try:
        data = json.loads(text)
        if data["schema"] != SCHEMA:
            die(f"{where} has schema {data['schema']!r}", f"this version reads {SCHEMA}")
        mappings = sorted((_mapping(item) for item in data["mappings"]), key=lambda m: (m.va, m.pa))
    except UserError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        die(f"{where} is not an executable map: {error!r}", "capture the guest again")
    for before, after in pairwise(mappings):
        if before.va + before.bytes > after.va:
            die(f"{where}: mappings at {before.va:#x} and {after.va:#x} overlap", "capture the guest again")
    return tuple(mappings)


def _mapping(item: dict[str, Any]) -> Mapping:
    va, pa, size = (_number(item[key]) for key in ("va", "pa", "bytes"))
    writable, user = item.get("writable", False), item.get("user", False)
    if unknown := item.keys() - {"va", "pa", "bytes", "writable", "user"}:
        raise ValueError(f"unknown keys {sorted(unknown)}")
    if not (isinstance(writable, bool) and isinstance(user, bool)):
        raise ValueError(f"writable and user are booleans, not {writable!r} and {user!r}")
    if size <= 0 or (va | pa | size) % PAGE_SIZE or min(va, pa) < 0:
        raise ValueError(f"mapping of {size} bytes at {va:#x} to {pa:#x} is not page-aligned or empty")
    if va + size > 1 << 64 or pa + size > 1 << 52:
        raise ValueError(f"mapping at {va:#x} to {pa:#x} leaves the address space")
    return Mapping(va, pa, size, writable, user)


def _number(value: object) -> int:
    if isinstance(value, str):
        return int(value, 0)
    if type(value) is not int:
        raise ValueError(f"{value!r} is not an integer")
    return value
