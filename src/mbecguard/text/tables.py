# SPDX-License-Identifier: GPL-2.0-or-later
"""From the tables of a file to its sites: the layouts of kinds.py applied to bytes."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from mbecguard.text.kinds import BY_ID, Argument, SiteKind
from mbecguard.text.reference import NOWHERE, Fixups, Reference, Sites
from mbecguard.values.errors import die

Row = dict[str, int]
_WIDTHS = {"rel32": (4, "i"), "rel64": (8, "q"), "abs64": (8, "Q"), "u8": (1, "B"), "u16": (2, "H"), "u32": (4, "I")}
_POINTERS = ("site", "target", "replacement")
_HINT = "this kernel, or the file, is of a kind that mbecguard does not know; report it with the release"


@dataclass(frozen=True, slots=True)
class Table:
    """One table of a file. `place` tells what a field at an offset of it leads to, given the number that stands there.

    It is a place, or NOWHERE if that is no section of interest. `key` tells the same of static keys and calls, which
    are data: by how far that is from the first piece, modulo 2^32.
    """

    name: str
    content: memoryview
    place: Callable[[int, str, int], int]
    key: Callable[[int, int], int] = lambda _offset, _number: NOWHERE


def sites(kind: SiteKind, tables: Sequence[Table], blob: bytes, register: Callable[[int], int]) -> Sites:
    """All sites of a kind. `register` tells which one the thunk is for that is called at a place, or NOWHERE."""
    found = empty(kind)
    for group, table in enumerate(tables):
        for row in _rows(kind, table):
            where = row["site"]
            if where == NOWHERE:
                continue  # in code that runs once
            length = row["length"] if "length" in row else length_at(kind, blob, where)
            add(found, where, length, _argument(kind, row, group, register), row.get("extra", 0))
    return found


def empty(kind: SiteKind) -> Sites:
    """No sites."""
    return Sites(kind.id, array("I"), array("B"), array("I"), array("I"))


def add(found: Sites, where: int, length: int, argument: int = 0, extra: int = 0) -> None:
    """One more."""
    found.where.append(where)
    found.length.append(length)
    found.argument.append(argument)
    found.extra.append(extra)


def _argument(kind: SiteKind, row: Row, group: int, register: Callable[[int], int]) -> int:
    if kind.argument is Argument.REGISTER:
        return register(row["site"])
    return group if kind.argument is Argument.GROUP else row.get(kind.argument.value, 0)


def length_at(kind: SiteKind, blob: bytes, where: int) -> int:
    """How long a site is, by what the file has there."""
    for begin, length in kind.lengths:
        if blob.startswith(bytes.fromhex(begin), where) and where + length <= len(blob):
            return length
    die(f"the {kind.id} at {where:#x} begins {blob[where : where + 4].hex(' ')}, as none does", _HINT)


def _rows(kind: SiteKind, table: Table) -> Iterable[Row]:
    """The entries, by the first layout that fits all of them."""
    for layout in kind.layouts:
        fields = [tuple(word.split(":")) for word in layout.split()]
        packed = struct.Struct("<" + "".join(_WIDTHS[width][1] for _, width in fields))
        if len(table.content) % packed.size == 0:
            rows = list(_entries(fields, packed, table))
            if all(map(_fits, rows)):
                return rows
    _malformed(table, kind)


def _malformed(table: Table, kind: SiteKind) -> NoReturn:
    die(f"{table.name}, {len(table.content)} bytes, is no table of the kind {kind.id!r}", _HINT)


def _entries(fields: list[tuple[str, ...]], packed: struct.Struct, table: Table) -> Iterable[Row]:
    for start in range(0, len(table.content), packed.size):
        row, offset = Row(), start
        for (name, width), number in zip(fields, packed.unpack_from(table.content, start), strict=True):
            row[name] = _meant(table, name, width, offset, number)
            offset += _WIDTHS[width][0]
        row["extra"] = row.get("key", row.get("rlength", 0) | row.get("feature", 0) & ~0xFFFF)
        yield row


def _meant(table: Table, name: str, width: str, offset: int, number: int) -> int:
    if name == "key":
        return table.key(offset, number)
    return table.place(offset, width, number) if name in _POINTERS else number


def _fits(row: Row) -> bool:
    """Whether an entry of alternatives makes sense; those of other tables have one layout only."""
    if "rlength" not in row:
        return True
    return row["rlength"] <= row["length"] and (not row["rlength"] or row["replacement"] != NOWHERE)


def settled(reference: Reference) -> Reference:
    """The same with usual forms in the blob, and without the fixups of what they take the place of."""
    blob, covered = bytearray(reference.blob), bytearray(len(reference.blob))
    for found in reference.sites:
        code = bytes.fromhex(BY_ID[found.kind].usual)
        for where in found.where if code else ():
            blob[where : where + len(code)] = code
            covered[where : where + len(code)] = b"\1" * len(code)
    return replace(reference, blob=bytes(blob), fixups=tuple(_outside(fixups, covered) for fixups in reference.fixups))


def _outside(fixups: Fixups, covered: bytearray) -> Fixups:
    rows = [row for row in zip(fixups.where, fixups.symbol, fixups.addend, strict=True) if not covered[row[0]]]
    columns = [array(code, (row[index] for row in rows)) for index, code in enumerate("IIq")]
    return Fixups(fixups.form, fixups.piece, *columns)


def matching(pattern: str, name: str) -> bool:
    """Whether a name of a section or symbol is meant; a pattern may end in `*`."""
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
