# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare three accounts of what this sealed kernel may execute, page for page; one line each: name, then what is so.

REPORT is the agent's (JSON). HOST holds `range START END PERMISSIONS` of the host's map (hexadecimal page frames).
The third are the page tables, walked by the oracle that the captured guests are compared with: neither shim nor agent
has a part in it. /proc/kcore is where it finds memory.
"""

from __future__ import annotations

import json
import os
import re
import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.corpus.oracle import KERNEL_HALF, PAGE, START_KERNEL_MAP, Leaf, walk

KEPT, DENIED = "15", "11"  #: read, write, execute, immutable; the same without execute
PT_LOAD, NOWHERE = 1, 2**64 - 1
RANGE = re.compile(r"range ([0-9a-f]+) ([0-9a-f]+) (\d+)")
Frames = set[int]


class Core:
    """Memory by /proc/kcore (fs/proc/kcore.c): of some segments it tells the physical address."""

    def __init__(self, path: str = "/proc/kcore") -> None:
        self._file = os.open(path, os.O_RDONLY)
        header = os.pread(self._file, PAGE, 0)
        start, entry, count = *struct.unpack_from("<Q", header, 32), *struct.unpack_from("<HH", header, 54)
        table = os.pread(self._file, entry * count, start)
        rows = [struct.unpack_from("<IIQQQQ", table, entry * i) for i in range(count)]
        #: (virtual address, physical address, offset in the file, bytes)
        self._segments: list[tuple[int, int, int, int]] = [
            (va, pa, at, size) for kind, _, at, va, pa, size in rows if kind == PT_LOAD and pa != NOWHERE
        ]

    def read(self, pa: int, length: int) -> bytes:
        """Bytes of the direct map; empty where there is none."""
        for va, base, at, size in self._segments:
            if va < START_KERNEL_MAP and base <= pa < base + size:
                return os.pread(self._file, length, at + pa - base)
        return b""

    def physical(self, va: int) -> int:
        """Of an address in the kernel's image."""
        return next(pa + va - base for base, pa, _, size in self._segments if base <= va < base + size)


def frames(leaves: Iterable[Leaf]) -> dict[int, int]:
    """Executable virtual pages -> page frames."""
    return {(leaf.va + at) // PAGE: (leaf.pa + at) // PAGE for leaf in leaves for at in range(0, leaf.bytes, PAGE)}


def planned(plan: dict[str, Any]) -> Frames:
    """What the plan keeps."""
    return {pfn for kept in plan["keep"] for pfn in range(int(kept["start"], 16), int(kept["end"], 16))}


def granted(text: str, max_pfn: int) -> tuple[Frames, list[str]]:
    """What the host lets the kernel execute, and what is wrong with its map: every frame is immutably one or other."""
    executable: Frames = set()
    problems = []
    end = 0
    for first, behind, permissions in RANGE.findall(text):
        start, expected, end = int(first, 16), end, int(behind, 16)
        if start != expected:
            problems.append(f"{expected:#x} to {start:#x} is missing")
        if permissions == KEPT:
            executable.update(range(start, end))
        elif permissions != DENIED:
            problems.append(f"{start:#x} has permissions {permissions}")
    if end != max_pfn:
        problems.append(f"it ends at {end:#x}")
    return executable, problems


def compare(tables: dict[int, int], plan: dict[str, Any], host: str, canary: int) -> dict[str, str]:
    """What is to be told; `canary` is the address of the page that exists to be denied."""
    executable, keep = set(tables.values()), planned(plan)
    allowed, problems = granted(host, max(int(part["end"], 16) for part in (*plan["keep"], *plan["deny"])))
    hidden = tables.get(canary // PAGE)
    unplanned = executable - keep - {hidden}
    return {
        "executable": str(len(executable)),
        "canary": "executable, denied" if hidden and hidden not in allowed else "no witness",
        "unplanned": some(unplanned),
        "no-code": some(keep - executable - {hidden}),
        "host-more": some(allowed - keep),
        "host-less": some(keep - allowed - {hidden}),
        "host-map": "; ".join(problems[:4]) or "whole",
    }


def some(pages: Frames) -> str:
    """How many, and the first few."""
    return " ".join([str(len(pages)), *(f"{pfn:#x}" for pfn in sorted(pages)[:4])])


def address(symbols: str, name: str) -> int:
    """Of one of the kernel's symbols; `name.cold` is another."""
    found = re.search(rf"^([0-9a-f]+) \w {name}(?:\s|$)", symbols, re.MULTILINE)
    assert found, name
    return int(found[1], 16)


def main(report: str, host: str) -> None:
    """Tell how the three accounts differ."""
    core, symbols = Core(), Path("/proc/kallsyms").read_text()
    levels = 5 if " la57 " in Path("/proc/cpuinfo").read_text() else 4
    tables = frames(walk(core, core.physical(address(symbols, "init_top_pgt")), levels, KERNEL_HALF))
    plan = json.loads(Path(report).read_text())["plan"]
    told = compare(tables, plan, Path(host).read_text(), address(symbols, "mbecg_canary"))
    for name, value in told.items():
        print(name, value)


if __name__ == "__main__":
    main(*sys.argv[1:])
