# SPDX-License-Identifier: GPL-2.0-or-later
"""The one gate to ELF files: pyelftools reads the header, the section table is checked and taken in one piece.

pyelftools trusts its input: it follows `sh_link` from section to section, scans string tables for a NUL that
may never come, and lets a dozen exception types escape. A section of it also takes longer than to decompress a small
module. So it gets no further than the header, only loadable sections without links are taken for code, and whatever
goes wrong is a `UserError`. Layout: System V ABI, chapter 4, with the AMD64 supplement.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cache, cached_property, partial
from typing import Any, NamedTuple, TypeVar

from mbecguard.image.outline import NotHeldError, Outline
from mbecguard.values.errors import UserError, die

T = TypeVar("T")
Content = memoryview | Outline

MAGIC = b"\x7fELF"
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR, SHF_COMPRESSED = 0x1, 0x2, 0x4, 0x800

_IDENT = MAGIC + b"\x02\x01\x01"  # 64 bit, little endian, version 1
_HEADER_BYTES = 64
_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
_SHT_NULL, _SHT_STRTAB, _SHT_NOBITS = 0, 3, 8
SHT_PROGBITS, SHT_SYMTAB, SHT_RELA, SHT_NOTE = 1, 2, 4, 7
_XINDEX = 0xFFFF  # SHN_XINDEX: the number stands in section 0, as do counts of 0xff00 and more

_HINT = "Take the file from the package of the running kernel; the copy here may be damaged or cut short."


class ElfType(IntEnum):
    """e_type."""

    REL = 1  #: a kernel module
    EXEC = 2  #: vmlinux
    DYN = 3  #: vmlinux linked as PIE


class RawSection(NamedTuple):
    """One section as its header has it; its content is empty if it takes no room in the file."""

    name: str
    type: int
    flags: int
    address: int
    bytes: int
    link: int
    info: int
    align: int
    offset: int
    file: Content

    @property
    def content(self) -> memoryview:
        """What the file has of it."""
        held = 0 if self.type in (_SHT_NULL, _SHT_NOBITS) else self.bytes
        return memoryview(self.file[self.offset : self.offset + held])


@dataclass(frozen=True)
class Elf:
    """A checked x86-64 ELF: its loadable (SHF_ALLOC) program and note sections in header order."""

    type: ElfType
    sections: tuple[RawSection, ...]
    _section: Callable[[_SectionHeader], RawSection]
    _headers: tuple[_SectionHeader, ...]

    @cached_property
    def raw(self) -> tuple[RawSection, ...]:
        """Every section by its number, as bytes that nobody interprets. A module has 50 that only text/ asks for."""
        return tuple(map(self._section, self._headers))


class _SectionHeader(NamedTuple):
    name: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entry_size: int


def read_elf(data: bytes | Outline, name: str, types: frozenset[ElfType], extract: Callable[[Elf], T]) -> T:
    """What `extract` makes of the ELF file `data`; any fault of the file is a UserError that names it."""
    try:
        return extract(_open(memoryview(data) if isinstance(data, bytes) else data, types))
    except NotHeldError:
        raise
    except UserError as error:
        die(f"{name}: {error.message}", error.hint or _HINT)
    except Exception as error:  # pyelftools: ELFError, construct's own, AssertionError, UnicodeDecodeError, ...
        die(f"{name}: not a usable ELF file ({type(error).__name__}: {error})", _HINT)


def _open(data: Content, types: frozenset[ElfType]) -> Elf:
    if len(data) < _HEADER_BYTES or data[: len(_IDENT)] != _IDENT:
        die("not a 64-bit little-endian ELF file")
    header = _header_layout().parse(bytes(data[:_HEADER_BYTES]))
    kinds = {f"ET_{kind.name}": kind for kind in types}
    if header.e_machine != "EM_X86_64" or header.e_type not in kinds:
        wanted = " or ".join(sorted(kinds))
        die(f"not an x86-64 ELF file of type {wanted} (type {header.e_type}, machine {header.e_machine})")
    headers, names = _section_headers(data, header)
    section = partial(_raw, data, bytes(data[names.offset : names.offset + names.size]))
    return Elf(kinds[header.e_type], tuple(map(section, _loadable(headers))), section, headers)


def _raw(file: Content, names: bytes, item: _SectionHeader) -> RawSection:
    name = names[item.name : names.index(b"\0", item.name)].decode(errors="replace")
    _, type_, flags, address, offset, size, link, info, align, _ = item
    return RawSection(name, type_, flags, address, size, link, info, align, offset, file)


@cache
def _header_layout() -> Any:
    """pyelftools' own, made once: to make it takes longer than to use it."""
    from elftools.elf.structs import ELFStructs

    structs = ELFStructs(little_endian=True, elfclass=64)
    structs.create_basic_structs()
    return structs.Elf_Ehdr


def _section_headers(data: Content, header: Any) -> tuple[tuple[_SectionHeader, ...], _SectionHeader]:
    """All of them, and that of their names."""
    offset, entry_size, count, names_index = header.e_shoff, header.e_shentsize, header.e_shnum, header.e_shstrndx
    if offset and entry_size == _SECTION_HEADER.size and offset + entry_size <= len(data):
        first = _SectionHeader(*_SECTION_HEADER.unpack(data[offset : offset + entry_size]))
        count, names_index = count or first.size, first.link if names_index == _XINDEX else names_index
    if entry_size != _SECTION_HEADER.size or not 0 < names_index < count:
        die("its ELF header has no usable section table")
    if offset + count * entry_size > len(data):
        die("cut short: the section table lies behind the end of the file")
    table = data[offset : offset + count * entry_size]
    headers = tuple(map(_SectionHeader._make, _SECTION_HEADER.iter_unpack(table)))
    for item in headers:
        if item.type not in (_SHT_NULL, _SHT_NOBITS) and item.offset + item.size > len(data):
            die("cut short: a section lies behind the end of the file")
    _check_names(data, headers, headers[names_index])
    return headers, headers[names_index]


def _check_names(data: Content, headers: Iterable[_SectionHeader], names: _SectionHeader) -> None:
    if names.type != _SHT_STRTAB:
        die("its section names are not in a string table")
    for item in headers:
        if item.name >= names.size:
            die("a section name does not end")
    # Every name inside the table ends if its last one does; names have no limit of their own.
    if data[names.offset + names.size - 1 : names.offset + names.size] != b"\0":
        die("a section name does not end")


def _loadable(headers: Iterable[_SectionHeader]) -> Iterator[_SectionHeader]:
    for item in headers:
        if not item.flags & SHF_ALLOC:
            continue
        if item.type in (SHT_PROGBITS, _SHT_NOBITS, SHT_NOTE) and not item.flags & SHF_COMPRESSED:
            yield item
        elif item.flags & SHF_EXECINSTR:
            die(f"code in a section of type {item.type:#x}, flags {item.flags:#x}")
