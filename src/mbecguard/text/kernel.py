# SPDX-License-Identifier: GPL-2.0-or-later
"""The text of a kernel: its bytes and its sites out of the image, with the symbols that the running kernel tells.

Debian's image has no symbol table. Where a table is part of a larger section only /proc/kallsyms tells its bounds.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from mbecguard.image.elf import Elf, ElfType, RawSection, read_elf
from mbecguard.image.kernel import unpack
from mbecguard.image.sections import build_id
from mbecguard.text import tables
from mbecguard.text.kinds import KINDS, REGISTERS, TEMPLATES, THUNK, UNKNOWN_SECTIONS, SiteKind
from mbecguard.text.reference import KERNEL_BASE, NOWHERE, Fixups, Piece, Reference, Sites, Symbol
from mbecguard.text.tables import Table, matching
from mbecguard.values.errors import die

_REL32 = struct.Struct("<i")
KEY_BITS = 0xFFFFFFFC  #: the lower two say something else: include/linux/jump_label.h, static_call_types.h


@dataclass(frozen=True, slots=True)
class Linked:
    """Symbols by name, at the addresses that the image was linked at."""

    addresses: Mapping[str, int]

    def like(self, pattern: str) -> Iterator[int]:
        """Addresses of all symbols that a pattern means."""
        return (va for name, va in self.addresses.items() if matching(pattern, name))


def read_kernel_text(data: bytes, name: str, symbols: Mapping[str, int], text_va: int) -> Reference:
    """The text of a kernel image of any form. `symbols` are those of the running kernel, whose text is at `text_va`.

    Raises UserError if anything is not as expected: what is not understood is not compared.
    """
    plain = unpack(data, name)
    return read_elf(
        plain, name, frozenset({ElfType.EXEC, ElfType.DYN}), lambda elf: _read(elf, plain, symbols, text_va)
    )


def _read(elf: Elf, plain: bytes, symbols: Mapping[str, int], text_va: int) -> Reference:
    refuse_unknown(elf.raw)
    text = next((section for section in elf.raw if section.name == ".text"), None) or die("has no .text section")
    templates = [section for section in elf.raw if section.name == TEMPLATES]
    pieces, blob = joined([(text, True), *((section, False) for section in templates)])
    moved = text_va - text.address
    image = _Image(elf.raw, pieces, blob, Linked({symbol: va - moved for symbol, va in symbols.items()}))
    found = (*(image.listed(kind) for kind in KINDS), *(image.named(kind) for kind in KINDS))
    return tables.settled(
        Reference(
            build_id=build_id(elf),
            blob=blob,
            pieces=pieces,
            symbols=(Symbol(KERNEL_BASE, ""),),
            fixups=tuple(relocations(plain, pieces, blob)),
            sites=tuple(one for one in found if len(one.where)),
        )
    )


def refuse_unknown(sections: Iterable[RawSection]) -> None:
    """Die of text that is patched in ways that kinds.py does not know."""
    for section in sections:
        if section.name in UNKNOWN_SECTIONS and section.bytes:
            die(f"was built with {UNKNOWN_SECTIONS[section.name]}, whose patching mbecguard does not know", "report it")


def joined(sections: Iterable[tuple[RawSection, bool]]) -> tuple[tuple[Piece, ...], bytes]:
    """Sections one after the other, and what they hold."""
    pieces: list[Piece] = []
    blob = bytearray()
    for section, kept in sections:
        if not section.bytes or len(section.content) != section.bytes:
            die("has no code in it, only where it would be", "the file was made for debuggers; give the one that runs")
        pieces.append(Piece(section.name, section.address, len(blob), section.bytes, kept))
        blob += section.content
    return tuple(pieces), bytes(blob)


@dataclass(frozen=True, slots=True)
class _Image:
    sections: tuple[RawSection, ...]
    pieces: tuple[Piece, ...]
    blob: bytes
    linked: Linked

    def listed(self, kind: SiteKind) -> Sites:
        """Sites that a table lists."""
        return tables.sites(kind, [*self._tables(kind)], self.blob, self._register)

    def named(self, kind: SiteKind) -> Sites:
        """Sites that symbols name."""
        found = tables.empty(kind)
        for pattern in kind.symbols:
            for va in sorted(set(self.linked.like(pattern))):
                if (where := self._place(va)) != NOWHERE:
                    tables.add(found, where, tables.length_at(kind, self.blob, where))
        return found

    def _tables(self, kind: SiteKind) -> Iterator[Table]:
        names = (section for section in self.sections if any(matching(p, section.name) for p in kind.sections))
        for section in names:
            yield self._table(section.name, section.address, section.content)
        if kind.bounds[0]:
            yield self._bounded(*kind.bounds)

    def _bounded(self, first: str, last: str) -> Table:
        start, end = (self.linked.addresses.get(name) for name in (first, last))
        if start is None or end is None:
            die(f"/proc/kallsyms does not tell {first} and {last}", "the kernel needs CONFIG_KALLSYMS_ALL")
        for section in self.sections:
            offset = start - section.address
            if section.address and 0 <= offset <= offset + end - start <= len(section.content):
                return self._table(first, start, section.content[offset : offset + end - start])
        die(f"{first} to {last}, {start:#x} to {end:#x}, is in no section of the file")

    def _table(self, name: str, address: int, content: memoryview) -> Table:
        def place(offset: int, width: str, number: int) -> int:
            return self._place(number if width == "abs64" else address + offset + number)

        def key(offset: int, number: int) -> int:
            return address + offset + number - self.pieces[0].va & KEY_BITS

        return Table(name, content, place, key)

    def _place(self, va: int) -> int:
        for piece in self.pieces:
            if 0 <= va - piece.va < piece.bytes:
                return piece.start + va - piece.va
        return NOWHERE

    def _register(self, where: int) -> int:
        """The register of the thunk that is called, or jumped to, at a place."""
        operand = where + tables.length_at(_RETPOLINE, self.blob, where) - 4
        piece = self.pieces[0] if operand < self.pieces[0].end else self.pieces[-1]
        target = piece.va + operand - piece.start + 4 + _REL32.unpack_from(self.blob, operand)[0]
        names = (name for name in REGISTERS if self.linked.addresses.get(THUNK + name) == target)
        return next((REGISTERS.index(name) for name in names), NOWHERE)


_RETPOLINE = next(kind for kind in KINDS if kind.id == "retpoline")


def relocations(plain: bytes, pieces: tuple[Piece, ...], blob: bytes) -> Iterator[Fixups]:
    """What KASLR changes: arch/x86/boot/compressed/misc.c handle_relocations() reads the same, from the end.

    Behind the ELF file, each with a zero before it: places of 64 bits, then, up to 6.14, places from which the distance
    is taken away, then places of 32 bits.
    """
    (sections,) = struct.unpack_from("<Q", plain, 40)
    (count,) = struct.unpack_from("<H", plain, 60)
    tail = plain[sections + 64 * count :]
    numbers = array("i", tail[len(tail) % 4 :])
    groups: list[list[int]] = [[]]
    for number in numbers:
        if number:
            groups[-1].append(number)
        else:
            groups.append([])
    if len(groups) not in (3, 4):
        die("holds no relocations of its text", "give the image that was booted: vmlinuz, not vmlinux")
    forms = ("", "abs64", "minus32", "abs32") if len(groups) == 4 else ("", "abs64", "abs32")
    for form, group in zip(forms, groups, strict=True):
        for index, piece in enumerate(pieces):
            inside = (number % 2**64 - piece.va for number in group)
            where = array("I", sorted(piece.start + offset for offset in inside if 0 <= offset < piece.bytes))
            if form and where:
                yield Fixups(form, index, where, array("I", bytes(4 * len(where))), _values(form, where, blob))


def _values(form: str, where: array[int], blob: bytes) -> array[int]:
    """What stands at each place."""
    bytes_ = 8 if form == "abs64" else 4
    if where[-1] + bytes_ > len(blob):
        die("has a relocation that leads behind its text")
    signed = form == "abs64"
    return array("q", (int.from_bytes(blob[at : at + bytes_], "little", signed=signed) for at in where))
