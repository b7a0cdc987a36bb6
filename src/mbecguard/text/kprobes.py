# SPDX-License-Identifier: GPL-2.0-or-later
"""Kprobes that the kernel tells of: they may stand anywhere in text, so they are taken out of it before it is compared.

kernel/kprobes.c show_kprobe_addr(), arch/x86/kernel/kprobes/core.c arch_arm_kprobe() (int3), and
arch/x86/kernel/kprobes/opt.c arch_optimize_kprobes() (a jump to a slot over five bytes).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mbecguard.guest.tree import Tree
from mbecguard.guest.uses import KPROBES, MOUNTS
from mbecguard.text.reference import Reference
from mbecguard.text.symbols import Symbols
from mbecguard.values.facts import known
from mbecguard.values.pages import PAGE_SIZE

_INT3, _JUMP, _JUMP_BYTES = 0xCC, 0xE9, 5
_LINE = re.compile(r"^(?:0x)?([0-9a-f]{8,16})  [kr]  ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Probes:
    """Where probes are, and the pages that optimised ones jump to."""

    addresses: tuple[int, ...]
    slots: frozenset[int]

    def taken_away(self, found: bytes, wanted: bytes, reference: Reference, addresses: Sequence[int]) -> bytes:
        """Text with what `wanted` has in the place of each probe."""
        patched = bytearray(found)
        for probe in self.addresses:
            place = _place(reference, addresses, probe)
            if place < 0:
                continue
            length = 1 if found[place] == _INT3 else _JUMP_BYTES if self._optimised(found, place, probe) else 0
            patched[place : place + length] = wanted[place : place + length]
        return bytes(patched)

    def _optimised(self, found: bytes, place: int, va: int) -> bool:
        if found[place] != _JUMP or place + _JUMP_BYTES > len(found):
            return False
        target = va + _JUMP_BYTES + int.from_bytes(found[place + 1 : place + _JUMP_BYTES], "little", signed=True)
        return any(0 <= target - slot < PAGE_SIZE for slot in self.slots)


def _place(reference: Reference, addresses: Sequence[int], probe: int) -> int:
    """The place of a probe in the blob; -1 if it is elsewhere."""
    for va, piece in zip(addresses, reference.pieces, strict=True):
        if piece.kept and 0 <= probe - va < piece.bytes:
            return piece.start + probe - va
    return -1


def probes(tree: Tree, symbols: Symbols) -> Probes:
    """Those of a guest; none where the kernel does not tell: then one that is there is found as a change."""
    lines = known(tree.fact(KPROBES, MOUNTS[KPROBES]), "")
    return Probes(tuple(int(digits, 16) for digits in _LINE.findall(lines)), symbols.slots())
