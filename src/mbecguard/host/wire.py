# SPDX-License-Identifier: GPL-2.0-or-later
"""The hypercall ABI: numbers, page lists, pins, and the answer to the query.

Page lists are those of the Heki RFC v2 (`struct heki_page_list`); the query is ours. A list page is 4 KiB,
little endian: `{u64 next, u64 next_pa, u64 npages, {u64 pa, u64 epa, u64 permissions}[<= 169]}`. Addresses
are GPAs in bytes, `epa` is exclusive, the last page has `next_pa` 0. `next` is the guest's own link: hosts
ignore it, we write 0.

The query is hypercall 14 with a0 = 0 and a1 = `QUERY_MAGIC`; a Heki v2 host sees an empty list and answers 0.
Ours answers, never with bit 63 set, for that would read as a negative error number. `QUERY_MAGIC` + n asks for
`Word` n, which hosts of version 1 answer by 0. Word 0:

| bits | meaning |
|---|---|
| 0-3 | enforced permission bits, as in a list entry |
| 4-5 | mode: 0 off, 1 enforce, 2 audit |
| 6 | restricted: some page is denied |
| 7 | sealed: some page is immutable |
| 8-15 | version of this ABI, at least 1; later versions keep the bits of earlier ones |
| 16-47 | generation, modulo 2^32 |
| 48 | SMM open: the guest can write what runs in system management mode |
| 49-63 | 0 |
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import islice

from mbecguard.host.base import (
    HostDetails,
    HostErrno,
    HostMode,
    HostRefusedError,
    HostStatus,
    HostText,
    Permission,
    Protection,
    TextMode,
)
from mbecguard.values.errors import Exit, die
from mbecguard.values.pages import ADDRESS_SPACE_PAGES, PAGE_SHIFT, PAGE_SIZE, PageMap, PageRange

LOCK_CR_UPDATE = 13  #: hypercall: a0 = control register (0 or 4), a1 = bits to pin at 1
PROTECT_MEMORY = 14  #: hypercall: a0 = GPA of the first list page
QUERY_MAGIC = int.from_bytes(b"HEKIQERY", "little")
ABI_VERSION = 3
TEXT_VERSION = 3  #: since which hosts know of text
TEXT_MAGIC = int.from_bytes(b"HEKITEXT", "little")  #: a1 of hypercall 14 that hands text over
ENTRIES_PER_PAGE = 169
LEAST_RANGES = 32 * ENTRIES_PER_PAGE  #: of a request, that every host takes

UNLISTED = Permission.READ | Permission.WRITE | Permission.EXEC  #: of a page that no request has named
DIGEST_WORDS = 8
BRACKETS = 4  #: times that the words are asked for, until the map stays the same meanwhile


class Word(IntEnum):
    """What an extended query asks for."""

    STATUS = 0
    DIGEST = 1  #: the first of eight, 32 bits each, the most significant ones first
    DENIED = 9
    REFUSED = 10
    CR0 = 11
    CR4 = 12
    LIST_PAGES = 13
    BOUNDARIES = 14
    TEXT = 15  #: since version 3: whether the host takes text objects, and what it has
    PATCHES = 16
    BAD_STORES = 17
    FOREIGN = 18
    TEXT_DIGEST = 19  #: the first of eight, as above
    LAST_BAD = 27


CR0_WP, CR0_PG = 1 << 16, 1 << 31
CR4_UMIP, CR4_VMXE, CR4_SMEP, CR4_SMAP = 1 << 11, 1 << 13, 1 << 20, 1 << 21
#: What a lock pins: name -> control register and bit.
PINS = {"CR0.WP": (0, CR0_WP), "CR0.PG": (0, CR0_PG), "CR4.SMEP": (4, CR4_SMEP)}
PINS_IF_ON = {"CR4.SMAP": (4, CR4_SMAP), "CR4.UMIP": (4, CR4_UMIP)}  #: the same, where the guest has them on

_HEADER = struct.Struct("<QQQ")
_ENTRY = struct.Struct("<QQQ")
_MODES = (HostMode.OFF, HostMode.ENFORCE, HostMode.AUDIT)
_UNKNOWN = HostStatus(HostMode.UNKNOWN, Permission(0), generation=0, restricted=False, sealed=False)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a host accepts at most. Raises ValueError for a guest-physical space that x86 cannot have."""

    max_pfn: int = 1 << (39 - PAGE_SHIFT)  #: page frames of the guest-physical space
    list_pages: int = 256  #: pages of one list; bounds cycles as well
    boundaries: int = 131072  #: places in the guest-physical space where the permissions change

    def __post_init__(self) -> None:
        if not 0 < self.max_pfn <= ADDRESS_SPACE_PAGES:
            raise ValueError(f"no guest-physical space has {self.max_pfn:#x} pages")


def pages_needed(entries: int) -> int:
    """Number of list pages for so many entries."""
    return -(-entries // ENTRIES_PER_PAGE)


def encode(request: Sequence[Protection], pages_at: Sequence[int]) -> list[bytes]:
    """The list pages of a request, to be put at the GPAs (bytes) `pages_at`; an empty request has none.

    Raises ValueError for too few or unusable places, and for entries that no host accepts.
    """
    places = list(pages_at[: pages_needed(len(request))])
    if len(places) < pages_needed(len(request)):
        raise ValueError(f"{len(request)} entries need {pages_needed(len(request))} pages, not {len(places)}")
    # GPA 0 ends a list, so no list page can lie there.
    if any(place <= 0 or place % PAGE_SIZE for place in places) or len(set(places)) < len(places):
        raise ValueError("list pages must be distinct whole pages, and none of them page 0")
    entries = map(_encode_entry, request)
    return [_encode_page(next_pa, islice(entries, ENTRIES_PER_PAGE)) for next_pa in [*places[1:], 0][: len(places)]]


def decode(read: Callable[[int], bytes | None], gpa: int, limits: Limits) -> list[Protection]:
    """Walk the list at `gpa` (bytes) in list order; `read` gives the 4 KiB page at a GPA, None if unreadable.

    GPA 0 is the empty list. Raises HostRefusedError: INVALID (malformed, or beyond `limits.max_pfn`), FAULT
    (unreadable), TOO_BIG (more than `limits.list_pages`).
    """
    request: list[Protection] = []
    for _ in range(limits.list_pages):
        if not gpa:
            return request
        gpa, entries = _decode_page(read, gpa)
        request += [_decode_entry(*entry, limits.max_pfn) for entry in entries]
    if gpa:
        raise _refused(HostErrno.TOO_BIG)
    return request


def encode_status(status: HostStatus) -> int:
    """The answer to the query. UNKNOWN is what a host without the query answers: 0."""
    if status.mode is HostMode.UNKNOWN:
        return 0
    answer = int(status.enforced) | _MODES.index(status.mode) << 4 | (status.abi or ABI_VERSION) << 8
    answer |= status.restricted << 6 | status.sealed << 7
    return answer | (status.generation & 0xFFFFFFFF) << 16 | status.smm_open << 48


def decode_status(answer: int) -> HostStatus:
    """The inverse; a mode or version that we do not know reads as UNKNOWN.

    Raises ValueError for what is no answer: an error number.
    """
    if not 0 <= answer < 1 << 63:
        raise ValueError(f"not an answer to the query: {answer:#x}")
    mode = answer >> 4 & 3
    if not answer >> 8 & 0xFF or mode >= len(_MODES):
        return _UNKNOWN
    return HostStatus(
        mode=_MODES[mode],
        enforced=Permission(answer & 0xF),
        generation=answer >> 16 & 0xFFFFFFFF,
        restricted=bool(answer >> 6 & 1),
        sealed=bool(answer >> 7 & 1),
        abi=answer >> 8 & 0xFF,
        smm_open=bool(answer >> 48 & 1),
    )


def map_digest(entries: Iterable[Protection]) -> str:
    """SHA-256, in hexadecimal, of the map that a request with these entries makes of an empty one.

    Canonical: for each page frame from which on permissions differ from those before, in ascending order, 8 bytes,
    little endian: GFN << 4 | permissions, 0 for READ | WRITE | EXEC, which also holds below the first of them.
    """
    map_: PageMap[int] = PageMap()
    for entry in entries:
        map_.put(entry.pages, 0 if entry.permissions == UNLISTED else int(entry.permissions))
    changes: dict[int, int] = {}
    for pages, permissions in map_:
        changes |= {pages.start: permissions, pages.end: 0}
    before, sha = 0, hashlib.sha256()
    for gfn, permissions in changes.items():
        if permissions != before:
            sha.update((gfn << 4 | permissions).to_bytes(8, "little"))
        before = permissions
    return sha.hexdigest()


def digest_words(first: Word, digest: str) -> dict[int, int]:
    """A digest as the words of the extended query that tell it, of which this is the first."""
    data = bytes.fromhex(digest)
    return {first + nr: int.from_bytes(data[4 * nr : 4 * nr + 4]) for nr in range(DIGEST_WORDS)}


def _digest(ask: Callable[[int], int], first: Word) -> str:
    """The inverse."""
    return "".join(f"{ask(first + nr) & 0xFFFFFFFF:08x}" for nr in range(DIGEST_WORDS))


def ask_most(ask: Callable[[int], int]) -> int:
    """How many ranges a host takes in a request like a lock's: one denies all, the others are disjoint.

    Each has two boundaries. `ask` takes the number of a word of the extended query.
    """
    if (decode_status(ask(Word.STATUS)).abi or 0) < 2:
        return LEAST_RANGES
    return min(ask(Word.LIST_PAGES) * ENTRIES_PER_PAGE, ask(Word.BOUNDARIES) // 2)


def ask_text(ask: Callable[[int], int]) -> HostText | None:
    """What the host says of text, by `ask`, which takes a word's number; None: it knows nothing of text."""
    if (decode_status(ask(Word.STATUS)).abi or 0) < TEXT_VERSION:
        return None
    word = ask(Word.TEXT)
    return HostText(
        offers=TextMode(word & 3),
        holds=TextMode(word >> 2 & 3),
        pages=word >> 32,
        digest=_digest(ask, Word.TEXT_DIGEST),
        patches=ask(Word.PATCHES),
        bad=ask(Word.BAD_STORES),
        last_bad=ask(Word.LAST_BAD),
    )


def ask_details(ask: Callable[[int], int]) -> HostDetails | None:
    """The extended query by `ask`, which takes a word's number; None: the host does not know it.

    Dies if the map changes all the time.
    """
    for _ in range(BRACKETS):
        before = decode_status(ask(Word.STATUS))
        if (before.abi or 0) < 2:
            return None
        words = {number: ask(number) for number in range(Word.DIGEST, Word.CR4 + 1)}
        if decode_status(ask(Word.STATUS)).generation == before.generation:
            return _details(words)
    die("the host's map changes all the time", "somebody else sends requests to the host; find out who", Exit.REFUSED)


def _details(words: dict[int, int]) -> HostDetails:
    ones = {0: words[Word.CR0], 4: words[Word.CR4]}
    return HostDetails(
        map_digest=_digest(words.__getitem__, Word.DIGEST),
        denied=words[Word.DENIED],
        refused=words[Word.REFUSED],
        pins=tuple(name for name, (register, bit) in (PINS | PINS_IF_ON).items() if ones[register] & bit),
    )


def pin_all(call: Callable[[int, int], int]) -> tuple[str, ...]:
    """Pin by `call`, which takes a control register and bits and gives the result; the names of what is pinned.

    A bit that a guest has off is INVALID to a host. Raises HostRefusedError.
    """
    names = []
    for name, (register, bit) in (PINS | PINS_IF_ON).items():
        result = call(register, bit)
        if name in PINS or result != -HostErrno.INVALID:
            checked(result, "pin")
            names.append(name)
    return tuple(names)


def checked(result: int, call: str) -> int:
    """The result of a hypercall, if it is not an error. Raises HostRefusedError if it is."""
    if result < 0:
        raise HostRefusedError(HostErrno(-result), call)
    return result


def _encode_entry(entry: Protection) -> bytes:
    pages = entry.pages
    if not len(pages) or pages.end > ADDRESS_SPACE_PAGES or not entry.permissions:
        raise ValueError(f"no host accepts {entry}")
    return _ENTRY.pack(pages.start << PAGE_SHIFT, pages.end << PAGE_SHIFT, entry.permissions)


def _encode_page(next_pa: int, entries: Iterator[bytes]) -> bytes:
    body = b"".join(entries)
    return (_HEADER.pack(0, next_pa, len(body) // _ENTRY.size) + body).ljust(PAGE_SIZE, b"\0")


def _decode_page(read: Callable[[int], bytes | None], gpa: int) -> tuple[int, Iterator[tuple[int, int, int]]]:
    if gpa % PAGE_SIZE:
        raise _refused(HostErrno.INVALID)
    page = read(gpa)
    if page is None or len(page) != PAGE_SIZE:
        raise _refused(HostErrno.FAULT)
    _, next_pa, count = _HEADER.unpack_from(page)
    # Heki v2 trusted npages: an overflow of the host's heap.
    if not 0 < count <= ENTRIES_PER_PAGE:
        raise _refused(HostErrno.INVALID)
    return next_pa, _ENTRY.iter_unpack(page[_HEADER.size : _HEADER.size + count * _ENTRY.size])


def _decode_entry(pa: int, epa: int, permissions: int, max_pfn: int) -> Protection:
    aligned = not (pa | epa) % PAGE_SIZE
    if not aligned or not pa < epa <= max_pfn << PAGE_SHIFT or not 0 < permissions <= 0xF:
        raise _refused(HostErrno.INVALID)
    return Protection(PageRange(pa >> PAGE_SHIFT, epa >> PAGE_SHIFT), Permission(permissions))


def _refused(errno: HostErrno) -> HostRefusedError:
    return HostRefusedError(errno, "page list")
