# SPDX-License-Identifier: GPL-2.0-or-later
"""Text in memory against its reference: equal outside the sites, and of a legal form at each of them.

Sites that are legal are copied into what is expected; then both are compared as a whole. Nothing looks at single bytes
unless they differ.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from mbecguard.text import alternatives
from mbecguard.text.fixups import Relocated
from mbecguard.text.forms import Judge, Spot, Targets
from mbecguard.text.kinds import BY_ID, Argument
from mbecguard.text.reference import NOWHERE, Reference, Sites

_CHUNK_SHIFT = 8  #: chunks of 256 bytes
_CHUNK = 1 << _CHUNK_SHIFT
_LENGTH = 0xFF  #: of `extra` of an alternative


Illegal = dict[int, tuple[int, str]]  #: by where it begins: where a site ends, and its kind


@dataclass(frozen=True, slots=True)
class Change:
    """Bytes that differ. `site` is the kind of site of which they are no legal form; empty: they are outside of all."""

    place: int
    wanted: bytes
    found: bytes
    site: str


@dataclass(frozen=True, slots=True)
class Text:
    """The text of one file in memory: where its pieces are, and what is there; `None` is what could not be read."""

    reference: Reference
    expected: Relocated
    addresses: tuple[int, ...]  #: of the pieces
    found: bytes  #: as long as the blob; pieces that are not kept do not matter
    starts: list[int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "starts", [piece.start for piece in self.reference.pieces])

    def address(self, place: int) -> int:
        """Where a place is in memory."""
        number = bisect_right(self.starts, place) - 1
        return self.addresses[number] + place - self.starts[number]


def changes(text: Text, targets: Targets) -> tuple[Change, ...]:
    """How text differs from what it may be, in order."""
    work = bytearray(text.expected.blob)
    for place, length in text.expected.untold:
        work[place : place + length] = text.found[place : place + length]
    odd = _odd_chunks(text, work)
    illegal = Illegal()
    for sites in text.reference.sites:
        judge = _judge_replaced if BY_ID[sites.kind].argument is Argument.REPLACEMENT else _judge_sites
        illegal |= judge(
            text, sites, [row for row, place in enumerate(sites.where) if odd[place >> _CHUNK_SHIFT]], work, targets
        )
    found = [*_illegal(text, work, illegal), *_outside(text, work)]
    return tuple(sorted(found, key=lambda change: change.place))


def _illegal(text: Text, work: bytearray, illegal: Illegal) -> Iterator[Change]:
    """The sites that are illegal still: what holds one may have turned out to be legal. They count as compared."""
    for place, (end, kind) in illegal.items():
        if (now := text.found[place:end]) != work[place:end]:
            yield Change(place, text.expected.blob[place:end], now, kind)
            work[place:end] = now


def _outside(text: Text, work: bytearray) -> Iterator[Change]:
    wanted = bytes(work)
    return (Change(place, wanted[place:end], text.found[place:end], "") for place, end in _differing(text, wanted))


def _odd_chunks(text: Text, work: bytearray) -> bytearray:
    """Which chunks differ; the one before such a chunk as well, since a site in it can reach over its end."""
    odd = bytearray((len(work) >> _CHUNK_SHIFT) + 2)
    for piece in text.reference.pieces:
        for start in range(piece.start & -_CHUNK, piece.end if piece.kept else 0, _CHUNK):
            if work[start : start + _CHUNK] != text.found[start : start + _CHUNK]:
                number = start >> _CHUNK_SHIFT
                odd[number] = 1
                odd[max(0, number - 1)] = 1
    return odd


def _judge_sites(text: Text, sites: Sites, rows: Sequence[int], work: bytearray, targets: Targets) -> Illegal:
    """Take over what is legal; the rest is returned."""
    kind, wanted, found = BY_ID[sites.kind], text.expected.blob, text.found
    illegal, leads = Illegal(), kind.argument is Argument.TARGET
    if kind.argument is Argument.GROUP:
        targets = {**targets, "same": _value_of_group(sites, wanted, found)}
    judge = Judge(kind, targets)
    for row in rows:
        place = sites.where[row]
        end = place + sites.length[row]
        now = found[place:end]
        if now == wanted[place:end]:
            continue
        argument = sites.argument[row]
        if leads and argument != NOWHERE:
            argument = text.address(argument)
        if judge.legal(wanted[place:end], now, text.address(place), argument):
            work[place:end] = now
        else:
            illegal[place] = (end, sites.kind)
    return illegal


def _value_of_group(sites: Sites, wanted: bytes, found: bytes) -> Callable[[int, int], bool]:
    """All the sites of a group have one value: that of the first that differs from the file."""
    values: dict[int, int] = {}
    for place, length, group in zip(sites.where, sites.length, sites.argument, strict=True):
        now = found[place : place + length]
        if now != wanted[place : place + length]:
            values.setdefault(group, int.from_bytes(now, "little"))
    return lambda value, group: values.get(group) == value


def _judge_replaced(text: Text, sites: Sites, rows: Sequence[int], work: bytearray, targets: Targets) -> Illegal:
    """The same for alternatives: several entries can be of one site, and other sites can lie in it."""
    by_place: dict[int, list[int]] = {}
    for row in rows:
        by_place.setdefault(sites.where[row], []).append(row)
    illegal = Illegal()
    nested, direct = _Nested(text, targets), Judge(alternatives.DIRECT, targets)
    for place, entries in by_place.items():
        end = place + max(sites.length[row] for row in entries)
        now = text.found[place:end]
        if now == work[place:end]:
            continue
        spot = Spot(bytes(work[place:end]), now, text.address(place), 0)
        if alternatives.fits(spot, _templates(text, sites, entries, work, nested), direct):
            work[place:end] = now
        else:
            illegal[place] = (end, sites.kind)
    return illegal


def _templates(
    text: Text, sites: Sites, entries: Sequence[int], work: bytearray, nested: _Nested
) -> Iterator[tuple[bytes, int, int]]:
    for row in entries:
        length, source = sites.extra[row] & _LENGTH, sites.argument[row]
        code = nested.settled(source, work[source : source + length], sites.where[row]) if length else b""
        moved = text.address(sites.where[row]) - text.address(source) if length else 0
        yield code, moved, sites.extra[row]


class _Nested:
    """Sites in templates that are not kept. The kernel patches them before it copies what holds them."""

    def __init__(self, text: Text, targets: Targets) -> None:
        self._text = text
        self._judges = {
            sites.kind: Judge(BY_ID[sites.kind], targets)
            for sites in text.reference.sites
            if BY_ID[sites.kind].argument is not Argument.GROUP
        }
        freed = next((piece.start for piece in text.reference.pieces if not piece.kept), 0)
        self._sites = sorted(
            (place, row, number)
            for number, sites in enumerate(text.reference.sites)
            if freed and sites.kind != "alternative"
            for row, place in enumerate(sites.where)
            if place >= freed
        )

    def settled(self, source: int, code: bytearray, place: int) -> bytes:
        """A template with what has become of the sites in it, where that is a legal form."""
        first = bisect_left(self._sites, (source,))
        for site, row, number in self._sites[first:]:
            if site >= source + len(code):
                break
            sites, offset = self._text.reference.sites[number], site - source
            end, at = offset + sites.length[row], place + offset
            now = self._text.found[at : place + end]
            judge = self._judges.get(sites.kind)
            if judge and judge.legal(bytes(code[offset:end]), now, self._text.address(at), sites.argument[row]):
                code[offset:end] = now
        return bytes(code)


def _differing(text: Text, wanted: bytes) -> Iterator[tuple[int, int]]:
    """Runs of places that differ, in the pieces that are in memory."""
    for piece in text.reference.pieces:
        if piece.kept and wanted[piece.start : piece.end] != text.found[piece.start : piece.end]:
            for start in range(piece.start, piece.end, _CHUNK):
                end = min(start + _CHUNK, piece.end)
                if wanted[start:end] != text.found[start:end]:
                    yield from _runs(wanted, text.found, start, end)


def _runs(wanted: bytes, found: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    places = [place for place in range(start, end) if wanted[place] != found[place]]
    first = last = places[0]
    for place in places[1:]:
        if place - last > 8:
            yield first, last + 1
            first = place
        last = place
    yield first, last + 1
