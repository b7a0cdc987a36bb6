# SPDX-License-Identifier: GPL-2.0-or-later
"""Relocation: the bytes of a file as they are once the kernel has put them somewhere."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from mbecguard.text.reference import Fixups, Piece, Reference

_PLAIN, _WIDE = struct.Struct("<I"), struct.Struct("<Q")
_LOW = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Form:
    """How one kind of relocation makes its value: how often the symbol counts, and the place.

    AMD64 ABI, "Relocation Types"; `minus32` is the kernel's own, for what is counted from the start of per-CPU data.
    """

    packed: struct.Struct
    mask: int
    symbol: int
    place: int


FORMS: dict[str, Form] = {
    "abs32": Form(_PLAIN, _LOW, 1, 0),
    "abs64": Form(_WIDE, 2**64 - 1, 1, 0),
    "minus32": Form(_PLAIN, _LOW, -1, 0),
    "pc32": Form(_PLAIN, _LOW, 1, -1),
    "pc64": Form(_WIDE, 2**64 - 1, 1, -1),
}


@dataclass(frozen=True, slots=True)
class Relocated:
    """A blob as it should be in memory, and the places whose value nobody can tell, with their bytes."""

    blob: bytes
    untold: tuple[tuple[int, int], ...]


def relocated(reference: Reference, addresses: Sequence[int], symbols: Sequence[int | None]) -> Relocated:
    """The blob with its pieces at `addresses`, and the symbols at theirs; None is one that nobody knows."""
    blob = bytearray(reference.blob)
    untold: list[tuple[int, int]] = []
    for fixups in reference.fixups:
        piece = reference.pieces[fixups.piece]
        known = _known(fixups, symbols, untold)
        _apply(blob, known, symbols, addresses[fixups.piece] - piece.start)
    return Relocated(bytes(blob), tuple(sorted(untold)))


def _known(fixups: Fixups, symbols: Sequence[int | None], untold: list[tuple[int, int]]) -> Fixups:
    """Those whose symbol is known; the others are noted."""
    missing = {number for number in set(fixups.symbol) if symbols[number] is None}
    if not missing:
        return fixups
    rows = list(zip(fixups.where, fixups.symbol, fixups.addend, strict=True))
    untold += ((where, FORMS[fixups.form].packed.size) for where, number, _ in rows if number in missing)
    left = [row for row in rows if row[1] not in missing]
    columns = [array(code, (row[i] for row in left)) for i, code in enumerate("IIq")]
    return Fixups(fixups.form, fixups.piece, *columns)


def _apply(blob: bytearray, fixups: Fixups, symbols: Sequence[int | None], moved: int) -> None:
    form = FORMS[fixups.form]
    pack, mask, sign = form.packed.pack_into, form.mask, form.place
    values = [form.symbol * (value or 0) + sign * moved for value in symbols]
    for where, number, addend in zip(fixups.where, fixups.symbol, fixups.addend, strict=True):
        pack(blob, where, values[number] + addend + sign * where & mask)


def addresses_of(pieces: Sequence[Piece], moved: int) -> list[int]:
    """Where the pieces of a kernel are that was moved so far."""
    return [piece.va + moved for piece in pieces]
