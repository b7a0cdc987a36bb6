# SPDX-License-Identifier: GPL-2.0-or-later
"""The text of a module: its bytes, relocations and sites out of the .ko file, which has them all."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from mbecguard.image.elf import MAGIC, SHT_RELA, SHT_SYMTAB, Elf, ElfType, RawSection, read_elf
from mbecguard.image.expand import expand
from mbecguard.image.sections import SectionKind, build_id, code_sections
from mbecguard.text import tables
from mbecguard.text.fixups import FORMS
from mbecguard.text.kernel import joined, refuse_unknown
from mbecguard.text.kinds import KINDS, REGISTERS, THUNK, SiteKind
from mbecguard.text.reference import NOWHERE, Fixups, Piece, Reference, Sites, Symbol
from mbecguard.text.tables import Table, matching
from mbecguard.values.errors import die

_SYMBOL, _RELA = struct.Struct("<IBBHQQ"), struct.Struct("<QIIq")
_UNDEFINED, _ABSOLUTE, _RESERVED = 0, 0xFFF1, 0xFF00
_SECTION_SYMBOL = 3  # STT_SECTION
#: arch/x86/kernel/module.c __apply_relocate_add(); R_X86_64_PLT32 is the same as PC32 there.
_TYPES = {1: "abs64", 2: "pc32", 4: "pc32", 10: "abs32", 11: "abs32", 24: "pc64"}


class _Relocation(NamedTuple):
    offset: int
    type: int
    symbol: int
    addend: int


class _Name(NamedTuple):
    name: str
    section: int
    value: int
    is_section: bool


def read_module_text(data: bytes, name: str) -> Reference:
    """The text of a .ko file, compressed or not. Raises UserError if anything is not as expected."""
    plain = data if data.startswith(MAGIC) else expand(data, name)
    return read_elf(plain, name, frozenset({ElfType.REL}), _read)


def _read(elf: Elf) -> Reference:
    refuse_unknown(elf.raw)
    core = [s.name for s in code_sections(elf) if s.kind in (SectionKind.RESIDENT, SectionKind.EXIT) and s.bytes]
    numbers = [number for number, section in enumerate(elf.raw) if section.name in core and section.bytes]
    if len(set(core)) != len(numbers):
        die("has two sections of code with one name")
    pieces, blob = joined((elf.raw[number], True) for number in numbers)
    image = _Module(elf.raw, pieces, dict(zip(numbers, pieces, strict=True)), bytearray(blob))
    fixups = tuple(image.fixups())
    found = (*(image.listed(kind) for kind in KINDS), *(image.named(kind) for kind in KINDS))
    return tables.settled(
        Reference(
            build_id=build_id(elf),
            blob=bytes(image.blob),
            pieces=pieces,
            symbols=tuple(image.symbols),
            fixups=fixups,
            sites=tuple(one for one in found if len(one.where)),
        )
    )


@dataclass(slots=True)
class _Module:
    sections: tuple[RawSection, ...]
    pieces: tuple[Piece, ...]
    by_number: dict[int, Piece]
    blob: bytearray
    symbols: list[Symbol] = field(default_factory=list)
    names: list[_Name] = field(init=False)
    examples: dict[int, _Name] = field(init=False)  #: a symbol of each section
    calls: dict[int, str] = field(default_factory=dict)  #: outside symbols by the place that refers to them

    def __post_init__(self) -> None:
        self.names = list(_names(self.sections))
        self.examples = {name.section: name for name in reversed(self.names) if name.name and not name.is_section}

    def fixups(self) -> Iterator[Fixups]:
        """Those of all pieces; what does not depend on where a section lies is put into the blob."""
        numbers: dict[Symbol, int] = {}
        for index, (section, piece) in enumerate(self.by_number.items()):
            columns: dict[str, tuple[array[int], array[int], array[int]]] = {}
            for row in self._relocations(section):
                form, name = _TYPES.get(row.type), self._name(row.symbol)
                if form is None or row.offset + FORMS[form].packed.size > piece.bytes:
                    die(f"has a relocation of type {row.type} at {row.offset:#x} of {piece.name}")
                where, addend = piece.start + row.offset, row.addend + name.value
                if name.section == section and form == "pc32":
                    FORMS[form].packed.pack_into(self.blob, where, addend - row.offset & FORMS[form].mask)
                    continue
                if name.section == _UNDEFINED:
                    self.calls[where] = name.name
                number = numbers.setdefault(self._symbol(name), len(numbers))
                for column, value in zip(_columns(columns, form), (where, number, addend), strict=True):
                    column.append(value)
            yield from (Fixups(form, index, *found) for form, found in columns.items())
        self.symbols = list(numbers)

    def _symbol(self, name: _Name) -> Symbol:
        if name.section == _UNDEFINED:
            return Symbol(name.name, "")
        if name.section == _ABSOLUTE:
            return Symbol("", "")
        if not name.section < min(_RESERVED, len(self.sections)):
            die(f"has the symbol {name.name} in section {name.section:#x}")
        example = self.examples.get(name.section, name)
        return Symbol(example.name, self.sections[name.section].name, example.value)

    def _name(self, number: int) -> _Name:
        return self.names[number] if number < len(self.names) else die(f"has no symbol {number}")

    def _relocations(self, section: int) -> Iterator[_Relocation]:
        for table in self.sections:
            if table.type == SHT_RELA and table.info == section:
                yield from _relocations(table)

    def listed(self, kind: SiteKind) -> Sites:
        """Sites that a table lists."""
        found = [
            self._table(number)
            for number, section in enumerate(self.sections)
            if section.type != SHT_RELA and any(matching(pattern, section.name) for pattern in kind.sections)
        ]
        return tables.sites(kind, found, bytes(self.blob), self._register)

    def _table(self, number: int) -> Table:
        section = self.sections[number]
        leads = {row.offset: self._place(row) for row in self._relocations(number)}
        return Table(section.name, section.content, lambda offset, _width, _number: leads.get(offset, NOWHERE))

    def _place(self, row: _Relocation) -> int:
        name = self._name(row.symbol)
        piece, offset = self.by_number.get(name.section), name.value + row.addend
        return piece.start + offset if piece and 0 <= offset < piece.bytes else NOWHERE

    def named(self, kind: SiteKind) -> Sites:
        """Sites that symbols name."""
        found = tables.empty(kind)
        for name in self.names:
            piece = self.by_number.get(name.section)
            if piece and name.value < piece.bytes and any(matching(pattern, name.name) for pattern in kind.symbols):
                where = piece.start + name.value
                tables.add(found, where, tables.length_at(kind, bytes(self.blob), where))
        return found

    def _register(self, where: int) -> int:
        for operand in (where + 1, where + 2):  # behind a prefix, or a condition
            called = self.calls.get(operand, "")
            if called.startswith(THUNK) and called.removeprefix(THUNK) in REGISTERS:
                return REGISTERS.index(called.removeprefix(THUNK))
        return NOWHERE


_Columns = dict[str, tuple["array[int]", "array[int]", "array[int]"]]


def _columns(columns: _Columns, form: str) -> tuple[array[int], array[int], array[int]]:
    return columns.setdefault(form, (array("I"), array("I"), array("q")))


def _names(sections: Iterable[RawSection]) -> Iterator[_Name]:
    """The symbol table; the first symbol is none."""
    sections = tuple(sections)
    for table in sections:
        if table.type == SHT_SYMTAB:
            _whole(table, _SYMBOL)
            strings = bytes(sections[table.link].content) if table.link < len(sections) else b""
            for at, info, _, section, value, _ in _SYMBOL.iter_unpack(table.content):
                name = strings[at : max(strings.find(b"\0", at), at)].decode(errors="replace")
                yield _Name(name, section, value, info & 15 == _SECTION_SYMBOL)


def _relocations(table: RawSection) -> Iterator[_Relocation]:
    _whole(table, _RELA)
    # objtool makes R_X86_64_NONE of what it takes away
    return (_Relocation(*row) for row in _RELA.iter_unpack(table.content) if row[1])


def _whole(table: RawSection, packed: struct.Struct) -> None:
    if len(table.content) % packed.size:
        die(f"{table.name} is cut short")
