# SPDX-License-Identifier: GPL-2.0-or-later
"""Parsers for what the kernel prints under /proc and /sys: text in, frozen values out. No I/O here.

A lock looks several times, and mostly nothing has changed: of the same text each parser knows the answer.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from functools import cache, cached_property, lru_cache
from typing import NamedTuple

from mbecguard.values.errors import die
from mbecguard.values.pages import ADDRESS_SPACE_PAGES, PageRange

CODE = b"tTwW"  #: letters of symbols that are code
_NAME, _BLANK, _BRACKET = 19, ord(" "), ord("]")  # where a name begins in a line, and what stands around it
NAMED_DISTANCE = 1 << 30  #: bytes behind a symbol in which it still says something about an address
KERNEL_HALF = 1 << 63  #: lowest address that can only be a kernel address, 4 or 5 levels of page tables


class Symbol(NamedTuple):
    """A kernel symbol: address in bytes, and the tag in brackets (module, `bpf`, `__builtin__ftrace`, or "")."""

    va: int
    name: str
    tag: str


class IomemRegion(NamedTuple):
    """One line of /proc/iomem: physical bytes `[start, end)`."""

    start: int
    end: int
    name: str


class LoadedModule(NamedTuple):
    """One line of /proc/modules; `bytes` is the size of all its memory, `text_va` where its text begins (0: hidden).

    `unload`: the kernel can unload modules; without CONFIG_MODULE_UNLOAD it has no use counts, and shows "-".
    """

    name: str
    bytes: int
    state: str
    text_va: int = 0
    unload: bool = True


class VmallocArea(NamedTuple):
    """One line of /proc/vmallocinfo: where it starts, its bytes with the guard page, and who asked for it.

    At kernel.kptr_restrict=0 the kernel hashes addresses: `start` is None then. `caller` is the function's name in the
    source, without what compilers put behind it; `module` is its module, empty for the kernel proper.
    """

    start: int | None
    bytes: int
    caller: str
    module: str = ""


class Kallsyms:
    """/proc/kallsyms, searched in place: the file is megabytes and only a few lines of it matter."""

    def __init__(self, data: bytes) -> None:
        if not data:
            die("no kernel symbols: /proc/kallsyms is empty or absent", "CONFIG_KALLSYMS is needed")
        self._data = data
        self._tagged: dict[str, tuple[Symbol, ...]] = {}
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

    def said_by(self, data: bytes) -> bool:
        """Whether these symbols are of exactly that file."""
        return self._data == data

    def address(self, name: str) -> int | None:
        """Address of a symbol of the kernel proper; None if there is none of that name."""
        position = self._data.find(b" " + name.encode(errors="replace") + b"\n")
        return None if position < 0 else self._line(position).va

    def named(self, name: str) -> tuple[Symbol, ...]:
        """All symbols of a name, in file order: several static functions may share one. Code, if any of them is."""
        needle = b" " + name.encode(errors="replace")
        found = [
            (self._data[position - 1 : position] in CODE, self._line(position))
            for position in self._places(needle)
            if self._data[position + len(needle) : position + len(needle) + 1] in (b"\n", b"\t", b"")
        ]
        code = tuple(symbol for is_code, symbol in found if is_code)
        return code or tuple(symbol for _, symbol in found)

    def tagged(self, tag: str) -> tuple[Symbol, ...]:
        """All symbols that carry `[tag]`, in file order."""
        if tag not in self._tagged:
            self._tagged[tag] = tuple(map(self._line, self._places(b"\t[" + tag.encode() + b"]")))
        return self._tagged[tag]

    def _places(self, needle: bytes) -> Iterator[int]:
        position = self._data.find(needle)
        while position >= 0:
            yield position
            position = self._data.find(needle, position + 1)

    def lines(self) -> tuple[list[bytes], list[bytes]]:
        """Every line, those of the kernel proper and those with a tag. For who needs most of them.

        Sixteen digits, a blank, a letter, a blank, the name, as the kernel prints them; others are left out.
        """
        lines = [line for line in self._data.split(b"\n") if len(line) > _NAME and line[_NAME - 1] == _BLANK]
        # Not `in`: of a piece of bytes it makes and drops an exception each time.
        return [line for line in lines if line[-1] != _BRACKET], [line for line in lines if line[-1] == _BRACKET]

    def require_whole(self) -> None:
        """Die if the file ends before its time: what is missing could not be told from what is not there."""
        if self.address("_etext") is None or not self._data.endswith(b"\n"):
            die("/proc/kallsyms is cut short", _DAMAGED)

    @cached_property
    def tags(self) -> frozenset[str]:
        """All tags: names of modules, and what the kernel calls the code that it makes.

        Nearly every line has the tag of the line before: pieces in which that is so are counted, not taken apart.
        """
        found, last, start = set(), b"", 0
        while start < len(self._data):
            end = self._data.find(b"\n", start + _PIECE) + 1 or len(self._data)
            if self._data.count(b"\t[", start, end) != (self._data.count(last, start, end) if last else 0):
                found.update(tags := _TAG.findall(self._data, start, end))
                last = b"\t[%s]" % tags[-1] if tags else b""
            start = end
        return frozenset(tag.decode(errors="replace") for tag in found)

    def matching(self, pattern: bytes) -> bool:
        """Whether a symbol of the kernel proper has a name that matches, with whatever a compiler put behind it."""
        return re.search(rb" (?:%s)(?:\.[\w.]+)?\n" % pattern, self._data) is not None

    def nearest(self, va: int) -> str:
        """`symbol+0xoffset` of the last symbol at or below `va`, or "no symbol" if none is near."""
        addresses, places = self._index
        index = bisect_right(addresses, va) - 1
        if index < 0 or va - addresses[index] >= NAMED_DISTANCE:
            return "no symbol"
        first = _WORD.match(self._data, places[bisect_left(addresses, addresses[index])])
        return f"{first[0].decode(errors='replace') if first else ''}+{va - addresses[index]:#x}"

    @cached_property
    def _index(self) -> tuple[array[int], array[int]]:
        """All addresses, sorted, and where in the file the name of each begins: 12 bytes a symbol."""
        found = sorted(int(line[1], 16) << 32 | line.start(2) for line in _SYMBOL.finditer(self._data))
        return array("Q", (pair >> 32 for pair in found)), array("I", (pair & 0xFFFFFFFF for pair in found))

    def _line(self, position: int) -> Symbol:
        start = self._data.rfind(b"\n", 0, position) + 1
        end = self._data.find(b"\n", position)
        line = self._data[start : end if end >= 0 else None]
        return _symbol(line) or die(f"/proc/kallsyms has a malformed line: {line[:60]!r}", _DAMAGED)


_PIECE = 1 << 11  #: bytes
_TAG = re.compile(rb"\t\[([^\]\n]+)\]")
_WORD = re.compile(rb"[^\t \n]+")
_SYMBOL = re.compile(rb"^([0-9a-f]{1,16}) \S ([^\t \n]+)", re.MULTILINE)


def _symbol(line: bytes) -> Symbol | None:
    match = re.fullmatch(rb"([0-9a-f]{1,16}) \S ([^\t ]+)(?:\t\[(\S+)\])?\s*", line)
    if not match:
        return None
    va, name, tag = match.groups(default=b"")
    return Symbol(int(va, 16), name.decode(errors="replace"), tag.decode(errors="replace"))


_DAMAGED = "if this is a capture it is damaged: capture the guest again"


@lru_cache(maxsize=1)
def parse_iomem(text: str) -> tuple[IomemRegion, ...]:
    """All lines, whatever their depth. Dies if the kernel hid the addresses (all zero without CAP_SYS_ADMIN)."""
    lines = re.findall(r"^ *([0-9a-f]{1,16})-([0-9a-f]{1,16}) : (.*)$", text, re.MULTILINE)
    regions = tuple(IomemRegion(int(a, 16), int(b, 16) + 1, name) for a, b, name in lines)
    if regions and all(r.end == 1 for r in regions):
        die("physical addresses are hidden (/proc/iomem is all zero)", "run as root with CAP_SYS_ADMIN")
    return tuple(r for r in regions if r.start < r.end)


@lru_cache(maxsize=1)
def parse_modules(text: str) -> tuple[LoadedModule, ...]:
    """/proc/modules: name, size in bytes, refcount, users, state, address, taints."""
    modules = []
    for line in text.splitlines():
        match = _MODULE.match(line) or die(f"/proc/modules has a malformed line: {line[:60]!r}", _DAMAGED)
        va, unload = int(match["va"], 16), match["uses"] != "-"
        modules.append(LoadedModule(match["name"], int(match["bytes"]), match["state"], va, unload))
    return tuple(modules)


# The name becomes part of a path: no slash, and not "..".
_MODULE = re.compile(
    r"(?P<name>\w[\w.+-]*) (?P<bytes>\d{1,12}) (?P<uses>\S+) \S+ (?P<state>\S+) 0x(?P<va>[0-9a-f]{1,16})", re.ASCII
)


@lru_cache(maxsize=1)
def parse_vmallocinfo(text: str) -> tuple[VmallocArea, ...]:
    """All areas that name who asked for them."""
    areas = (_area(*line) for line in _AREA.findall(text))
    return tuple(area for area in areas if area.bytes)


_AREA = re.compile(
    r"^0x([0-9a-f]{16})-0x([0-9a-f]{16}) +(\d{1,18}) ([\w.]+)\+0x[0-9a-f]+(?:/0x[0-9a-f]+)?(?: \[([\w-]+)\])?",
    re.MULTILINE,
)
#: What GCC and Clang put behind the name of a function that they copied or split.
_SUFFIXES = re.compile(r"(?<=\w)(?:\.(?:llvm|isra|constprop|part|cold|lto_priv|__uniq)(?:\.?\d+)?)+$")


def _area(start: str, end: str, size: str, caller: str, module: str) -> VmallocArea:
    first, last = int(start, 16), int(end, 16)
    real = first >= KERNEL_HALF and last - first == int(size)  # a hash is shorter than an address
    return VmallocArea(first if real else None, int(size), source_name(caller), module)


@cache  # few functions allocate, and each many times
def source_name(function: str) -> str:
    """A function's name as its source has it: `alloc_new_pack.llvm.4242` is `alloc_new_pack`."""
    return _SUFFIXES.sub("", function)


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
