# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a site of alternatives holds what the kernel can have put there.

arch/x86/kernel/alternative.c: apply_alternatives() copies a replacement, makes up for the move in distances, turns
jumps into short ones where that is enough, and joins whatever does nothing to the longest nops. It decodes
instructions; here a replacement and what is found are walked along each other, and may differ in these ways only.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from mbecguard.text.forms import NOP_RUN, Judge, Spot, is_nops
from mbecguard.text.kinds import DIRECT_CALL, SiteKind

_JUMP, _SHORT_JUMP = 0xE9, 0xEB
_MASK = 0xFFFFFFFF
#: A call by a pointer that does not change after the boot becomes a direct one, or nothing: alt_replace_call().
DIRECT = SiteKind("", "", "", forms=("e8 >function nops", "nops"))


DIRECT = SiteKind("direct call", "", "", forms=("e8 >function nops", "nops"))


def fits(spot: Spot, templates: Iterable[tuple[bytes, int, int]], direct: Judge) -> bool:
    """Whether the site holds its own code, or one of the replacements: each with how far it moves, and its flags."""
    own = spot.wanted
    if alike(own, spot.found):
        return True
    for code, moved, flags in templates:
        if flags & DIRECT_CALL and direct.legal(own, spot.found, spot.address, 0):
            return True
        padded = code + b"\x90" * (len(own) - len(code))
        if alike(padded, spot.found) or same(padded, spot.found, moved):
            return True
    return False


@lru_cache(1 << 12)
def alike(wanted: bytes, found: bytes) -> bool:
    """Whether both do the same wherever they are. A few instructions make up most alternatives."""
    return same(wanted, found, 0)


def same(wanted: bytes, found: bytes, moved: int) -> bool:
    """Whether both do the same, if distances out of `wanted` become smaller by `moved`."""
    at, end = 0, len(wanted)
    while at < end:
        run = NOP_RUN.match(wanted, at)
        if run and is_nops(found[at : run.end()]):
            at = run.end()
        elif wanted[at] == found[at] and not _short(wanted, found, at, moved):
            at += 1
        else:
            step = _moved(wanted, found, at, moved) or _short(wanted, found, at, moved)
            if not step:
                return False
            at = step
    return True


def _moved(wanted: bytes, found: bytes, at: int, moved: int) -> int:
    """Where a distance ends that holds the first byte that differs; 0 if none does."""
    for start in range(max(0, at - 3), at + 1):
        end = start + 4
        if end <= len(wanted):
            before, after = (int.from_bytes(code[start:end], "little") for code in (wanted, found))
            if before - after & _MASK == moved & _MASK:
                return end
    return 0


def _short(wanted: bytes, found: bytes, at: int, moved: int) -> int:
    """Where a jump ends that became a short one; the rest of it, and all nops behind, do nothing then."""
    if wanted[at] != _JUMP or found[at] != _SHORT_JUMP or at + 5 > len(wanted):
        return 0
    distance = int.from_bytes(wanted[at + 1 : at + 5], "little") - moved + 3
    if (distance & _MASK) != int.from_bytes(found[at + 1 : at + 2], "little", signed=True) & _MASK:
        return 0
    run = NOP_RUN.match(wanted, at + 5)
    end = run.end() if run else at + 5
    rest = found[at + 2 : end]
    return end if is_nops(rest.lstrip(b"\xcc")) else 0
