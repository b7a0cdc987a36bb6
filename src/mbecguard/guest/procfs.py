# SPDX-License-Identifier: GPL-2.0-or-later
"""Parsers for what the kernel prints under /proc and /sys: text in, frozen values out. No I/O here."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property

from mbecguard.errors import die
from mbecguard.pages import ADDRESS_SPACE_PAGES, PageRange

NAMED_DISTANCE = 1 << 30  #: bytes behind a symbol in which it still says something about an address
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
        text = self.address("_text") or 0
        if not text:
            die(
                "kernel symbol addresses are hidden (all zero)",
                "read /proc/kallsyms with CAP_SYSLOG, and with kernel.kptr_restrict below 2",
            )
        if text < KERNEL_HALF:
            die(f"/proc/kallsyms has _text at {text:#x}, which is no kernel address", _DAMAGED)

    def address(self, name: str) -> int | None:
        """Address of a symbol of the kernel proper; None if there is none of that name."""
        position = self._data.find(b" " + name.encode(errors="replace") + b"\n")
        return None if position < 0 else self._line(position).va

    def find(self, name: str) -> int | None:
        """Address of a symbol, of the kernel proper if it has one of that name, else of the first module that does."""
        position = self._data.find(b" " + name.encode(errors="replace") + b"\t[")
        own = self.address(name)
        return own if own is not None or position < 0 else self._line(position).va

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
        """`symbol+0xoffset` of the last symbol at or below `va`, or "no symbol" if none is near."""
        addresses, names = self._index
        index = bisect_right(addresses, va) - 1
        if index < 0 or va - addresses[index] >= NAMED_DISTANCE:
            return "no symbol"
        return f"{names[addresses[index]].decode(errors='replace')}+{va - addresses[index]:#x}"

    @cached_property
    def _index(self) -> tuple[list[int], dict[int, bytes]]:
        """All addresses, sorted, and the first name in the file of each."""
        lines = re.findall(rb"^([0-9a-f]{1,16}) \S ([^\t \n]+)", self._data, re.MULTILINE)
        names = {int(va, 16): name for va, name in reversed(lines)}
        return sorted(names), names

    def _line(self, position: int) -> Symbol:
        start = self._data.rfind(b"\n", 0, position) + 1
        end = self._data.find(b"\n", position)
        line = self._data[start : end if end >= 0 else None]
        return _symbol(line) or die(f"/proc/kallsyms has a malformed line: {line[:60]!r}", _DAMAGED)


def _symbol(line: bytes) -> Symbol | None:
    match = re.fullmatch(rb"([0-9a-f]{1,16}) \S ([^\t ]+)(?:\t\[(\S+)\])?\s*", line)
    if not match:
        return None
    va, name, tag = match.groups(default=b"")
    return Symbol(int(va, 16), name.decode(errors="replace"), tag.decode(errors="replace"))


_DAMAGED = "if this is a recording it is damaged: record the guest again"


def parse_iomem(text: str) -> tuple[IomemRegion, ...]:
    """All lines, whatever their depth. Dies if the kernel hid the addresses (all zero without CAP_SYS_ADMIN)."""
    lines = re.findall(r"^ *([0-9a-f]{1,16})-([0-9a-f]{1,16}) : (.*)$", text, re.MULTILINE)
    regions = tuple(IomemRegion(int(a, 16), int(b, 16) + 1, name) for a, b, name in lines)
    if regions and all(r.end == 1 for r in regions):
        die("physical addresses are hidden (/proc/iomem is all zero)", "run as root with CAP_SYS_ADMIN")
    return tuple(r for r in regions if r.start < r.end)


def parse_modules(text: str) -> tuple[LoadedModule, ...]:
    """/proc/modules: name, size in bytes, refcount, users, state, address, taints."""
    modules = []
    for line in text.splitlines():
        match = _MODULE.match(line) or die(f"/proc/modules has a malformed line: {line[:60]!r}", _DAMAGED)
        modules.append(LoadedModule(match["name"], int(match["bytes"]), match["state"]))
    return tuple(modules)


# The name becomes part of a path: no slash, and not "..".
_MODULE = re.compile(r"(?P<name>\w[\w.+-]*) (?P<bytes>\d{1,12}) \S+ \S+ (?P<state>\S+) 0x[0-9a-f]+", re.ASCII)


def parse_vmallocinfo(text: str) -> tuple[VmallocArea, ...]:
    """Areas with real addresses. At kptr_restrict=0 the kernel hashes them to 32 bits: those lines are dropped."""
    lines = re.findall(r"^0x([0-9a-f]{16})-0x([0-9a-f]{16}) +\d+ ([\w.]+)\+0x", text, re.MULTILINE)
    areas = (VmallocArea(int(a, 16), int(b, 16), caller) for a, b, caller in lines)
    return tuple(area for area in areas if KERNEL_HALF <= area.start < area.end)


def parse_max_pfn(cpuinfo: str) -> int:
    """Guest-physical page frames by "address sizes" (CPUID 80000008H EAX[7:0]); the architectural limit if absent."""
    match = re.search(r"^address sizes\s*: ([0-9]{1,9}) bits physical", cpuinfo, re.MULTILINE)
    if not match:
        return ADDRESS_SPACE_PAGES
    bits = int(match[1])
    if not 32 <= bits <= 52:
        die(f"/proc/cpuinfo gives {bits} physical address bits", "32 to 52 are possible on x86-64")
    return 1 << (bits - 12)


def parse_number(text: str, where: str) -> int:
    """A decimal or 0x number of 64 bits, not negative, as sysfs and sysctl files have it."""
    text = text.strip()
    if re.fullmatch(r"0x[0-9a-fA-F]{1,16}|[0-9]{1,19}", text):
        return int(text, 16 if text.startswith("0x") else 10)
    die(f"{where} does not hold a number: {text[:40]!r}", _DAMAGED)


def page_frames(region: IomemRegion) -> PageRange:
    """The page frames that a physical region touches."""
    return PageRange.covering(region.start, region.end - region.start)
