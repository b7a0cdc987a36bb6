# SPDX-License-Identifier: GPL-2.0-or-later
"""The independent witness: the guest's page tables, walked in the paused guest's RAM file.

It shares no code with the product, on purpose.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

PAGE = 4096
SCHEMA = "mbecguard.oracle/1"
PRESENT, WRITE, USER, LARGE, NX = 1, 2, 4, 1 << 7, 1 << 63
ADDRESS = 0x000F_FFFF_FFFF_F000
CR4_LA57 = 1 << 12
KERNEL_HALF = 256  #: first top-level index of the upper half
START_KERNEL_MAP = 0xFFFF_FFFF_8000_0000


@dataclass(frozen=True, slots=True, order=True)
class Leaf:
    """One supervisor-executable leaf; addresses and size in bytes."""

    va: int
    pa: int
    bytes: int
    writable: bool
    user: bool

    def as_json(self) -> dict[str, int | bool]:
        """The form that execmap.json and oracle.json share."""
        return {
            "va": self.va,
            "pa": self.pa,
            "bytes": self.bytes,
            "writable": self.writable,
            "user": self.user,
        }


class Memory(Protocol):
    """Guest-physical memory, wherever it is read from."""

    def read(self, pa: int, length: int) -> bytes:
        """Bytes at a guest-physical address; empty when it is not RAM."""
        ...


class Ram:
    """That of a q35 machine, from its backing file."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.size = len(self._map)
        # hw/i386/pc_q35.c: from 2.75 GiB on, only 2 GiB stay below the PCI hole.
        self.low = self.size if self.size < 0xB000_0000 else 0x8000_0000

    def read(self, pa: int, length: int) -> bytes:
        """Bytes at a guest-physical address; empty when it is not RAM."""
        offset = pa if pa < self.low else pa - (1 << 32) + self.low
        inside = 0 <= pa < self.low or (pa >= 1 << 32 and offset + length <= self.size)
        return self._map[offset : offset + length] if inside else b""


def walk(ram: Memory, root: int, levels: int, first: int = 0) -> Iterator[Leaf]:
    """Supervisor-executable leaves under the table at `root`, top-level entries from `first` on, in VA order."""
    yield from _table(ram, root, levels, 0, WRITE | USER, first, levels)


def _table(ram: Memory, table: int, level: int, base: int, granted: int, first: int, levels: int) -> Iterator[Leaf]:
    entries = struct.unpack("<512Q", ram.read(table, PAGE) or bytes(PAGE))
    span = PAGE << 9 * (level - 1)
    for index in range(first, 512):
        entry = entries[index]
        if not entry & PRESENT or entry & NX:
            continue
        va, rights = base + index * span, granted & entry
        if level == levels and index >= KERNEL_HALF:
            va |= -(512 * span) & (1 << 64) - 1
        if level > 1 and not (entry & LARGE and level <= 3):
            yield from _table(ram, entry & ADDRESS, level - 1, va, rights, 0, levels)
        elif not rights & USER:
            yield Leaf(va, entry & ADDRESS & -span, span, bool(rights & WRITE), False)


def translate(ram: Memory, root: int, levels: int, va: int) -> int | None:
    """The guest-physical address behind a linear one."""
    table = root
    for level in range(levels, 0, -1):
        span = PAGE << 9 * (level - 1)
        entry = int.from_bytes(ram.read(table + 8 * (va // span % 512), 8), "little")
        if not entry & PRESENT:
            return None
        if level == 1 or (entry & LARGE and level <= 3):
            return (entry & ADDRESS & -span) + va % span
        table = entry & ADDRESS
    return None


def int3_pages(ram: Ram, leaves: list[Leaf]) -> list[tuple[int, int]]:
    """Page-frame ranges [start, end) of the executable pages that hold nothing but int3."""
    frames = {leaf.pa // PAGE + n for leaf in leaves for n in range(leaf.bytes // PAGE)}
    empty = b"\xcc" * PAGE
    ranges: list[tuple[int, int]] = []
    for frame in sorted(frames):
        if ram.read(frame * PAGE, PAGE) == empty:
            start = ranges.pop()[0] if ranges and ranges[-1][1] == frame else frame
            ranges.append((start, frame + 1))
    return ranges


def efi_root(ram: Ram, root: int, levels: int, efi_mm: int, pgd_offset: int) -> int | None:
    """Guest-physical address of efi_mm's top-level table; None while there is none."""
    where = translate(ram, root, levels, efi_mm + pgd_offset)
    pgd = int.from_bytes(ram.read(where, 8), "little") if where else 0
    return translate(ram, root, levels, pgd) if pgd else None


def differences(tables: dict[str, list[dict[str, int]]], mappings: list[dict[str, int]]) -> set[tuple[int, int]]:
    """(va, pa) of the pages that only one of the oracle's tables and a capture's execmap.json has."""

    def pages(rows: Iterable[dict[str, int]]) -> set[tuple[int, int]]:
        return {(row["va"] + offset, row["pa"] + offset) for row in rows for offset in range(0, row["bytes"], PAGE)}

    return pages(row for rows in tables.values() for row in rows) ^ pages(mappings)


def survey(ram: Ram, registers: dict[str, int], symbols: dict[str, int], facts: dict[str, int]) -> dict[str, Any]:
    """The content of oracle.json. `facts`: pti, and pgd_offset (bytes) where there is EFI.

    efi_mm's table lists only what init_mm's does not have.
    """
    levels = 5 if registers["CR4"] & CR4_LA57 else 4
    # Bits 0-11 are PCID and flags; under PTI bit 12 chooses the user half of a pair of tables.
    root = registers["CR3"] & ADDRESS & ~(PAGE if facts["pti"] else 0)
    tables = {"init_mm": list(walk(ram, root, levels, KERNEL_HALF)), "efi_mm": []}
    if "efi_mm" in symbols and "pgd_offset" in facts:
        efi = efi_root(ram, root, levels, symbols["efi_mm"], facts["pgd_offset"])
        known = set(tables["init_mm"])
        tables["efi_mm"] = [leaf for leaf in walk(ram, efi, levels) if leaf not in known] if efi else []
    everything = [leaf for table in tables.values() for leaf in table]
    return {
        "schema": SCHEMA,
        "tables": {name: [leaf.as_json() for leaf in table] for name, table in tables.items()},
        "int3_pages": int3_pages(ram, everything),
        "memory": {
            "ram_bytes": ram.size,
            "low_ram_bytes": ram.low,
            "paging_levels": levels,
            "top_table_pa": root,
            "cr3": registers["CR3"],
        },
    }
