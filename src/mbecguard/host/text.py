# SPDX-License-Identifier: GPL-2.0-or-later
"""Text objects of docs/HOST-ABI.md: pages of kernel text, the sites where the kernel patches it, and their list.

A list page is 4 KiB, little endian: 24 bytes of links, which whoever sends the list fills in, `{u32 part, u32 nr}`,
and records: the head, then runs, sites, targets. Offsets are bytes from the object's first, modulo 2^32; they follow
virtual addresses, and runs say which page frames lie where.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import reduce
from itertools import islice, pairwise
from typing import NamedTuple

from mbecguard.values.pages import PAGE_SHIFT, PAGE_SIZE, PageRange

LINKS = 24  #: bytes
LIST_PAGES = 1024  #: of one object
OFFSETS = 1 << 32
DIGEST_BYTES = 32
NOTHING = bytes(DIGEST_BYTES).hex()  #: digest of a host that was given no text

_LINKS, _PART = struct.Struct("<QQQ"), struct.Struct("<II")
_HEAD, _SITE, _TARGET = struct.Struct("<QQIIIIIIII"), struct.Struct("<IIHBB"), struct.Struct("<I")
_RUN = struct.Struct("<QQII")
_DATA = _LINKS.size + _PART.size
_LOGS, _DATA_ONLY, _FROZEN = 1, 2, 1


class SiteForm(IntEnum):
    """What may stand at a site, by the table of docs/HOST-ABI.md."""

    JUMP = 1
    CALL = 2
    TAIL_CALL = 3
    TAIL_JCC = 4
    MCOUNT = 5
    FTRACE_CALL = 6
    HOOK = 7


class _Part(IntEnum):
    HEAD = 1
    SITES = 2
    TARGETS = 3
    RUNS = 4


class TextSite(NamedTuple):
    """One patch site: bytes at `offset`; `target` is that of a jump label, 0 of others."""

    offset: int
    target: int
    form: SiteForm
    bytes: int
    frozen: bool = False  #: takes no patch any more


class TextRun(NamedTuple):
    """Adjacent page frames, and how many bytes of the object's addresses lie in front of them."""

    pages: PageRange
    offset: int

    @property
    def end(self) -> int:
        """The offset behind it."""
        return self.offset + (len(self.pages) << PAGE_SHIFT)


@dataclass(frozen=True, slots=True)
class TextObject:
    """Pages of text. Raises ValueError unless runs, sites and targets ascend, and the sites lie apart, inside of it."""

    pages: PageRange  #: the first run, at offset 0
    sites: Sequence[TextSite] = ()
    targets: Sequence[int] = ()  #: where functions start
    tracers: tuple[int, int] = (0, 0)  #: what the start of a traced function may call
    hooks: tuple[int, int] = (0, 0)  #: what a hook may call as well: from, to
    logs: bool = False  #: bad stores are counted, and done
    more: tuple[TextRun, ...] = ()  #: the other runs
    data: bool = False  #: read-only data, which need not be executable

    @property
    def runs(self) -> tuple[TextRun, ...]:
        """All of it."""
        return (TextRun(self.pages, 0), *self.more)

    @property
    def page_count(self) -> int:
        """How many pages it has."""
        return sum(len(run.pages) for run in self.runs)

    def __post_init__(self) -> None:
        if any(one.end > following.offset for one, following in pairwise(self.runs)):
            raise ValueError("runs do not ascend")
        if self.data and self.sites:
            raise ValueError("data has no patch sites")
        for one, following in pairwise(self.sites):
            if one.offset + one.bytes > following.offset:
                raise ValueError(f"the sites at {one.offset:#x} and {following.offset:#x} overlap")
        inside = {page for run in self.runs for page in range(run.offset >> PAGE_SHIFT, run.end >> PAGE_SHIFT)}
        for site in self.sites:
            if not {site.offset >> PAGE_SHIFT, site.offset + site.bytes - 1 >> PAGE_SHIFT} <= inside:
                raise ValueError(f"the site at {site.offset:#x} lies outside of the text")
        if any(one >= following for one, following in pairwise(self.targets)):
            raise ValueError("targets do not ascend")


class HandOver(NamedTuple):
    """What a guest hands over, in that order."""

    first: tuple[TextObject, ...]  #: before the seal: the page to write to, the kernel's text, its read-only data
    modules: tuple[TextObject, ...] = ()  #: when the seal holds, and no module can go any more
    left: tuple[str, ...] = ()  #: what should have been, and could not be compared


def encode(text: TextObject) -> list[bytes]:
    """The list pages, links empty."""
    pages, flags = text.pages, _LOGS * text.logs | _DATA_ONLY * text.data
    counts = (len(text.sites), len(text.targets), *text.tracers, flags, len(text.more), *text.hooks)
    head = _HEAD.pack(pages.start << PAGE_SHIFT, pages.end << PAGE_SHIFT, *counts)
    sites = (_SITE.pack(s.offset, s.target, 0, s.form << 4 | s.bytes, _FROZEN * s.frozen) for s in text.sites)
    more = (_RUN.pack(r.pages.start << PAGE_SHIFT, r.pages.end << PAGE_SHIFT, r.offset, 0) for r in text.more)
    return [
        _page(_Part.HEAD, [head]),
        *_pages(_Part.RUNS, more, _RUN.size),
        *_pages(_Part.SITES, sites, _SITE.size),
        *_pages(_Part.TARGETS, map(_TARGET.pack, text.targets), _TARGET.size),
    ]


def _pages(part: _Part, records: Iterable[bytes], size: int) -> Iterator[bytes]:
    source, room = iter(records), (PAGE_SIZE - _DATA) // size
    while rows := list(islice(source, room)):
        yield _page(part, rows)


def _page(part: _Part, records: Sequence[bytes]) -> bytes:
    return (bytes(LINKS) + _PART.pack(part, len(records)) + b"".join(records)).ljust(PAGE_SIZE, b"\0")


def decode(pages: Sequence[bytes]) -> TextObject:
    """The inverse. Raises ValueError for what is no list of text."""
    rows: dict[_Part, list[tuple[int, ...]]] = {part: [] for part in _Part}
    for number, page in enumerate(pages):
        part, count = _part_of(page)
        if (part is _Part.HEAD) != (number == 0):
            raise ValueError("the head is not the first page, and that alone")
        layout = _LAYOUTS[part]
        if count * layout.size > PAGE_SIZE - _DATA or (part is _Part.HEAD and count != 1):
            raise ValueError(f"a page of {count} records")
        rows[part] += layout.iter_unpack(page[_DATA : _DATA + count * layout.size])
    ((pa, epa, sites, targets, first, second, flags, runs, *hooks),) = rows[_Part.HEAD]
    if (sites, targets, runs) != tuple(len(rows[part]) for part in (_Part.SITES, _Part.TARGETS, _Part.RUNS)):
        raise ValueError("other counts than the head's")
    if flags & ~(_LOGS | _DATA_ONLY):
        raise ValueError("flags that nobody knows")
    return TextObject(
        _run(pa, epa, 0, 0).pages,
        tuple(
            TextSite(offset, target, SiteForm(what >> 4), what & 15, bool(frozen))
            for offset, target, _, what, frozen in rows[_Part.SITES]
        ),
        tuple(target for (target,) in rows[_Part.TARGETS]),
        (first, second),
        (hooks[0], hooks[1]),
        bool(flags & _LOGS),
        tuple(_run(*row) for row in rows[_Part.RUNS]),
        bool(flags & _DATA_ONLY),
    )


_LAYOUTS = {_Part.HEAD: _HEAD, _Part.SITES: _SITE, _Part.TARGETS: _TARGET, _Part.RUNS: _RUN}


def _run(pa: int, epa: int, offset: int, unused: int) -> TextRun:
    if (pa | epa | offset) % PAGE_SIZE or pa >= epa or unused or offset + epa - pa > OFFSETS:
        raise ValueError("a run that makes no sense")
    return TextRun(PageRange(pa >> PAGE_SHIFT, epa >> PAGE_SHIFT), offset)


def _part_of(page: bytes) -> tuple[_Part, int]:
    if len(page) != PAGE_SIZE or _LINKS.unpack_from(page)[2]:
        raise ValueError("no page of a list of text")
    part, count = _PART.unpack_from(page, LINKS)
    return _Part(part), count


def digest_of(texts: Iterable[TextObject]) -> str:
    """What a host tells that was given these, in that order: hexadecimal."""
    return reduce(fold, texts, NOTHING)


def fold(digest: str, text: TextObject) -> str:
    """That of a host with one object more."""
    pages = reduce(_folded, (page[LINKS:] for page in encode(text)), bytes(DIGEST_BYTES))
    return _folded(bytes.fromhex(digest), pages).hex()


def _folded(digest: bytes, data: bytes) -> bytes:
    return hashlib.sha256(digest + hashlib.sha256(data).digest()).digest()
