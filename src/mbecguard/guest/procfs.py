# SPDX-License-Identifier: GPL-2.0-or-later
"""Parsers for what the kernel prints under /proc and /sys: text in, frozen values out. No I/O here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mbecguard.errors import die
from mbecguard.pages import ADDRESS_SPACE_PAGES, PageRange

KERNEL_HALF = 1 << 63  #: lowest address that can only be a kernel address, 4 or 5 levels of page tables


@dataclass(frozen=True, slots=True)
class Symbol:
    """A kernel symbol: address in bytes, and the tag in brackets (module, `bpf`, `__builtin__ftrace`, or "")."""

    va: int
    name: str
    tag: str


@dataclass(frozen=True, slots=True)
class IomemRegion:
    """One line of /proc/iomem: physical bytes `[start, end)`."""

    start: int
    end: int
    name: str


@dataclass(frozen=True, slots=True)
class LoadedModule:
    """One line of /proc/modules; `bytes` is the size of all its memory."""

    name: str
    bytes: int
    state: str


@dataclass(frozen=True, slots=True)
class VmallocArea:
    """One line of /proc/vmallocinfo: virtual bytes `[start, end)` with the guard page, and the caller's symbol."""

    start: int
    end: int
    caller: str


class Kallsyms:
    """/proc/kallsyms, searched in place: the file is megabytes and only a few lines of it matter."""

    def __init__(self, data: bytes) -> None:
        if not data:
            die("no kernel symbols: /proc/kallsyms is empty or absent", "CONFIG_KALLSYMS is needed")
        self._data = data
        if self.address("_text") is None:
            die("kernel symbols lack _text", "this /proc/kallsyms is truncated or not of an x86-64 kernel")
        if not self.address("_text"):
            die(
                "kernel symbol addresses are hidden (all zero)",
                "read /proc/kallsyms with CAP_SYSLOG, and with kernel.kptr_restrict below 2",
            )

    def address(self, name: str) -> int | None:
        """Address of a symbol of the kernel proper; None if there is none of that name."""
        position = self._data.find(b" " + name.encode() + b"\n")
        return None if position < 0 else self._line(position).va

    def tagged(self, tag: str) -> tuple[Symbol, ...]:
        """All symbols that carry `[tag]`, in file order."""
        needle = b"\t[" + tag.encode() + b"]"
        found = []
        position = self._data.find(needle)
        while position >= 0:
            found.append(self._line(position))
            position = self._data.find(needle, position + 1)
        return tuple(found)

    def nearest(self, va: int) -> str:
        """`symbol+0xoffset` of the last symbol at or below `va`, or "no symbol"."""
        best = max((s for s in self._symbols() if s.va <= va), key=lambda s: s.va, default=None)
        return f"{best.name}+{va - best.va:#x}" if best else "no symbol"

    def _symbols(self) -> Iterator[Symbol]:
        return (symbol for line in self._data.splitlines() if (symbol := _symbol(line)))

    def _line(self, position: int) -> Symbol:
        start = self._data.rfind(b"\n", 0, position) + 1
        end = self._data.find(b"\n", position)
        line = self._data[start : end if end >= 0 else None]
        return _symbol(line) or die(f"/proc/kallsyms has a malformed line: {line[:60]!r}")


def _symbol(line: bytes) -> Symbol | None:
    match = re.fullmatch(rb"([0-9a-f]{1,16}) \S ([^\t ]+)(?:\t\[(\S+)\])?\s*", line)
    if not match:
        return None
    va, name, tag = match.groups(default=b"")
    return Symbol(int(va, 16), name.decode(errors="replace"), tag.decode(errors="replace"))


def parse_iomem(text: str) -> tuple[IomemRegion, ...]:
    """All lines, whatever their depth. Dies if the kernel hid the addresses (all zero without CAP_SYS_ADMIN)."""
    lines = re.findall(r"^ *([0-9a-f]+)-([0-9a-f]+) : (.*)$", text, re.MULTILINE)
    regions = tuple(IomemRegion(int(a, 16), int(b, 16) + 1, name) for a, b, name in lines)
    if regions and all(r.end == 1 for r in regions):
        die("physical addresses are hidden (/proc/iomem is all zero)", "run as root with CAP_SYS_ADMIN")
    return tuple(r for r in regions if r.start < r.end)


def parse_modules(text: str) -> tuple[LoadedModule, ...]:
    """/proc/modules: name, size in bytes, refcount, users, state, address, taints."""
    modules = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 6 or not words[1].isdigit():
            die(f"/proc/modules has a malformed line: {line[:60]!r}")
        modules.append(LoadedModule(words[0], int(words[1]), words[4]))
    return tuple(modules)


def parse_vmallocinfo(text: str) -> tuple[VmallocArea, ...]:
    """Areas with real addresses. At kptr_restrict=0 the kernel hashes them to 32 bits: those lines are dropped."""
    lines = re.findall(r"^0x([0-9a-f]+)-0x([0-9a-f]+) +\d+ ([\w.]+)\+0x", text, re.MULTILINE)
    areas = (VmallocArea(int(a, 16), int(b, 16), caller) for a, b, caller in lines)
    return tuple(area for area in areas if KERNEL_HALF <= area.start < area.end)


def parse_max_pfn(cpuinfo: str) -> int:
    """Guest-physical page frames by "address sizes" (CPUID 80000008H EAX[7:0]); the architectural limit if absent."""
    match = re.search(r"^address sizes\s*: (\d+) bits physical", cpuinfo, re.MULTILINE)
    if not match:
        return ADDRESS_SPACE_PAGES
    bits = int(match[1])
    if not 32 <= bits <= 52:
        die(f"/proc/cpuinfo gives {bits} physical address bits", "32 to 52 are possible on x86-64")
    return 1 << (bits - 12)


def parse_number(text: str, where: str) -> int:
    """A decimal or 0x number as sysfs and sysctl files have it."""
    try:
        return int(text.strip(), 0)
    except ValueError:
        die(f"{where} does not hold a number: {text.strip()[:40]!r}")


def page_frames(region: IomemRegion) -> PageRange:
    """The page frames that a physical region touches."""
    return PageRange.covering(region.start, region.end - region.start)
