# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether bytes are of a form: the words of kinds.py, applied."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from mbecguard.text.kinds import NOPS, SiteKind

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


#: Kinds of addresses: whether one is of that kind, for that site.
Targets = Mapping[str, Callable[[int, Spot], bool]]
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


@cache
def literals(kind: SiteKind) -> frozenset[bytes]:
    """Forms that are nothing but bytes."""
    return frozenset(_hex(form) for form in kind.forms if _PLAIN.fullmatch(form))


@cache
def _others(kind: SiteKind) -> tuple[tuple[_Word, ...], ...]:
    return tuple(_words(form) for form in kind.forms if not _PLAIN.fullmatch(form))


def legal(kind: SiteKind, spot: Spot, targets: Targets) -> bool:
    """Whether a site holds one of the forms of its kind, all of it."""
    if spot.found in literals(kind) and len(spot.found) == len(spot.wanted):
        return True
    return any(_fits(words, spot, targets) for words in _others(kind))


def _fits(words: Iterable[_Word], spot: Spot, targets: Targets) -> bool:
    at = 0
    for word in words:
        at = word(spot, at, targets)
        if at < 0:
            return False
    return at == len(spot.found)


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
        return end if targets[name](spot.address + end + distance & 2**64 - 1, spot) else -1

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
    return len(spot.found) if targets["same"](int.from_bytes(spot.found, "little"), spot) else -1


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
