# SPDX-License-Identifier: GPL-2.0-or-later
"""What one file says of its text: bytes, what relocation changes in them, and the sites that the kernel patches.

The sections of a file that matter lie in one blob, one after the other. A place is an offset in the blob; it stays the
same wherever the kernel puts the sections.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

NOWHERE = 0xFFFFFFFF  #: no place
KERNEL_BASE = "_text"  #: what the fixups of a kernel are relative to: how far KASLR has moved it


@dataclass(frozen=True, slots=True)
class Piece:
    """One section: where it was linked (0 in a module), and where it lies in the blob.

    `kept` sections stay in memory; the others are templates, freed after the boot.
    """

    name: str
    va: int
    start: int
    bytes: int
    kept: bool = True

    @property
    def end(self) -> int:
        """The place behind it."""
        return self.start + self.bytes


@dataclass(frozen=True, slots=True)
class Symbol:
    """What a fixup needs the address of: `section` plus `value`, or, with "" for a section, an outside symbol."""

    name: str
    section: str
    value: int = 0


@dataclass(frozen=True, slots=True)
class Fixups:
    """Fixups of one form (see fixups.py) in one piece, in columns: where, which symbol, and what is added to it."""

    form: str
    piece: int
    where: array[int]  #: places, typecode I
    symbol: array[int]  #: numbers, typecode I
    addend: array[int]  #: typecode q


@dataclass(frozen=True, slots=True)
class Sites:
    """The sites of one kind, in columns; what `argument` and `extra` mean depends on the kind (see kinds.py).

    `extra` of jump labels and static calls of a kernel: how far their key is from the text, modulo 2^32.
    """

    kind: str
    where: array[int]  #: places, typecode I
    length: array[int]  #: bytes, typecode B
    argument: array[int]  #: typecode I
    extra: array[int]  #: typecode I


@dataclass(frozen=True, slots=True)
class Reference:
    """The text of one file. Sites of kinds with a usual form have that in the blob, not what the file has."""

    build_id: str
    blob: bytes
    pieces: tuple[Piece, ...]
    symbols: tuple[Symbol, ...]
    fixups: tuple[Fixups, ...]
    sites: tuple[Sites, ...]
