# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether bytes are of a form: the words of kinds.py, applied."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from mbecguard.text.kinds import NOPS, SiteKind

_MASK = 2**64 - 1
_NOP = b"|".join(re.escape(bytes.fromhex(nop)) for nop in reversed(NOPS))
_PREFIXED = rb"[\x66\x2e]*(?:%s)" % _NOP  # gas pads with more prefixes than the kernel does
NOP_RUN = re.compile(rb"(?:%s)+" % _PREFIXED)
#: A long run is a jump to its end, with int3 behind: add_nop() in arch/x86/kernel/alternative.c, from 6.4 on.
_LONG = re.compile(rb"\xeb(.)\xcc+|\xe9(....)\xcc+", re.DOTALL)
_FILL = re.compile(rb"(?:\xcc|%s)*" % _PREFIXED)


@dataclass(frozen=True, slots=True)
class Spot:
    """One site in memory: what the file has there, relocated, what there is, and where that lies."""

    wanted: bytes
    found: bytes
    address: int
    argument: int  #: of a jump label the target's address


#: Kinds of addresses: whether one is of that kind, for a site with that argument.
Targets = Mapping[str, Callable[[int, int], bool]]
_Word = Callable[[Spot, int, Targets], int]  #: where the next word begins, or -1


def is_nops(code: bytes) -> bool:
    """Whether this does nothing, all of it."""
    if not code or NOP_RUN.fullmatch(code):
        return True
    match = _LONG.fullmatch(code)
    if not match:
        return False
    over = match[1] or match[2]
    return int.from_bytes(over, "little") == len(code) - 1 - len(over)


_PLAIN = re.compile("[0-9a-f ]+")
_NEAR = re.compile("([0-9a-f]{2}) >([a-z-]+)")
_NEAR_BYTES = 5


class Judge:
    """Says of many sites of one kind whether they are legal.

    Most forms are bytes, or one byte and a distance. What else does not depend on where a site is is judged once.
    """

    def __init__(self, kind: SiteKind, targets: Targets) -> None:
        self._targets = targets
        self._plain = frozenset(bytes.fromhex(form) for form in kind.forms if _PLAIN.fullmatch(form))
        near = (_NEAR.fullmatch(form) for form in kind.forms)
        self._near = {int(match[1], 16): targets[match[2]] for match in near if match}
        others = [form for form in kind.forms if not _PLAIN.fullmatch(form) and not _NEAR.fullmatch(form)]
        self._fixed = tuple(_words(form) for form in others if ">" not in form)
        self._placed = tuple(_words(form) for form in others if ">" in form)
        self._known: dict[tuple[bytes, int], bool] = {}

    def legal(self, wanted: bytes, found: bytes, address: int, argument: int) -> bool:
        """Whether a site holds one of the forms, all of it."""
        if found in self._plain and len(found) == len(wanted):
            return True
        if len(found) == len(wanted) == _NEAR_BYTES and (leads := self._near.get(found[0])):
            target = address + _NEAR_BYTES + int.from_bytes(found[1:], "little", signed=True)
            if leads(target & _MASK, argument):
                return True
        spot = Spot(wanted, found, address, argument)
        return self._is_fixed(spot) or any(_fits(words, spot, self._targets) for words in self._placed)

    def _is_fixed(self, spot: Spot) -> bool:
        key = spot.found, spot.argument
        if key not in self._known:
            self._known[key] = any(_fits(words, spot, self._targets) for words in self._fixed)
        return self._known[key]


def _fits(words: Iterable[_Word], spot: Spot, targets: Targets) -> bool:
    at = 0
    for word in words:
        at = word(spot, at, targets)
        if at < 0:
            return False
    return at == len(spot.found)


@cache
def _words(form: str) -> tuple[_Word, ...]:
    return tuple(_word(word) for word in re.findall(r"(?:\b[0-9a-f]{2}\b ?)+|\S+", form))


def _word(word: str) -> _Word:
    if word in _NAMED:
        return _NAMED[word]
    if word.startswith("keep:"):
        return _kept(int(word[5:]))
    if word.startswith(">"):
        name, _, width = word[1:].partition(":")
        return _distance(name, int(width or 32) // 8)
    return _bytes(_hex(word))


def _hex(word: str) -> bytes:
    return bytes.fromhex(word)


def _bytes(code: bytes) -> _Word:
    return lambda spot, at, _: at + len(code) if spot.found.startswith(code, at) else -1


def _kept(count: int) -> _Word:
    return lambda spot, at, _: at + count if spot.found[at : at + count] == spot.wanted[at : at + count] else -1


def _distance(name: str, width: int) -> _Word:
    def word(spot: Spot, at: int, targets: Targets) -> int:
        end = at + width
        if end > len(spot.found):
            return -1
        distance = int.from_bytes(spot.found[at:end], "little", signed=True)
        return end if targets[name](spot.address + end + distance & _MASK, spot.argument) else -1

    return word


def _branch(first: int) -> _Word:
    """`call *%reg` is ff d0 and more, `jmp *%reg` ff e0 and more; 41 before it for r8 and higher."""

    def word(spot: Spot, at: int, _: Targets) -> int:
        high, low = divmod(spot.argument, 8)
        code = b"\x41" * high + bytes((0xFF, first + low)) if high < 2 else b"\0"
        return at + len(code) if spot.found.startswith(code, at) else -1

    return word


def _nops(spot: Spot, at: int, _: Targets) -> int:
    return len(spot.found) if is_nops(spot.found[at:]) else -1


def _fill(spot: Spot, at: int, _: Targets) -> int:
    return len(spot.found) if _FILL.fullmatch(spot.found, at) else -1


def _same(spot: Spot, _at: int, targets: Targets) -> int:
    return len(spot.found) if targets["same"](int.from_bytes(spot.found, "little"), spot.argument) else -1


def _prefixes(spot: Spot, at: int, _: Targets) -> int:
    return len(spot.found) - len(spot.found[at:].lstrip(b"\x2e"))


_NAMED: dict[str, _Word] = {
    "cs": _prefixes,
    "call*": _branch(0xD0),
    "jmp*": _branch(0xE0),
    "nops": _nops,
    "fill": _fill,
    "same": _same,
}
