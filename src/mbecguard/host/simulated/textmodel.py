# SPDX-License-Identifier: GPL-2.0-or-later
"""What a simulated hypervisor holds of text. It knows no sites: each store to text is a bad one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

from mbecguard.host.base import HostErrno, HostRefusedError, TextMode
from mbecguard.host.text import LIST_PAGES, NOTHING, TextObject, decode, fold
from mbecguard.host.wire import TEXT_VERSION, Word, digest_words
from mbecguard.values.pages import PAGE_SHIFT, PAGE_SIZE, PageRange

OBJECTS, PAGES = 1024, 32768  #: of one VM


@dataclass(frozen=True, slots=True)
class TextState:
    """All text objects of a VM."""

    ranges: tuple[PageRange, ...] = ()
    objects: int = 0
    logs: bool = False  #: some of them only log
    digest: str = NOTHING
    patches: int = 0
    bad: int = 0
    last_bad: int = 0

    def taking(self, text: TextObject, offers: TextMode) -> TextState:
        """With one object more. Raises HostRefusedError: PERM for pages that another has, TOO_BIG."""
        ranges = sorted((*self.ranges, *(run.pages for run in text.runs)))
        if any(one.end > following.start for one, following in pairwise(ranges)):
            raise HostRefusedError(HostErrno.PERM, "hand over text")
        if self.objects == OBJECTS or sum(map(len, ranges)) > PAGES:
            raise HostRefusedError(HostErrno.TOO_BIG, "hand over text")
        logs = self.logs or text.logs or offers is not TextMode.ENFORCE
        digest = fold(self.digest, text)
        return replace(self, ranges=tuple(ranges), objects=self.objects + 1, logs=logs, digest=digest)

    def storing(self, gpa: int) -> TextState:
        """After a store that is no patch."""
        if not self.covers(gpa):
            return self
        return replace(self, bad=self.bad + 1, last_bad=gpa)

    def patching(self) -> TextState:
        """After one patch of a site by the kernel: int3, tail, first byte."""
        return replace(self, patches=self.patches + 3 * bool(self.ranges))

    def covers(self, gpa: int) -> bool:
        """Whether a byte is text that was handed over."""
        return any(r.start <= gpa >> PAGE_SHIFT < r.end for r in self.ranges)

    @property
    def holds(self) -> TextMode:
        """The weakest of all objects."""
        if not self.ranges:
            return TextMode.NONE
        return TextMode.LOG if self.logs else TextMode.ENFORCE

    def words(self, offers: TextMode, abi: int) -> dict[int, int]:
        """Of the extended query."""
        if abi < TEXT_VERSION:
            return {}
        summary = offers | self.holds << 2 | self.objects << 16 | sum(map(len, self.ranges)) << 32
        words = {
            Word.TEXT: summary,
            Word.PATCHES: self.patches,
            Word.BAD_STORES: self.bad,
            Word.LAST_BAD: self.last_bad,
        }
        return words | digest_words(Word.TEXT_DIGEST, self.digest)


def read_list(read: Callable[[int], bytes | None], gpa: int) -> TextObject:
    """The object whose list begins at `gpa` (bytes). Raises HostRefusedError: INVALID, FAULT, TOO_BIG."""
    pages: list[bytes] = []
    while gpa:
        if len(pages) == LIST_PAGES:
            raise HostRefusedError(HostErrno.TOO_BIG, "hand over text")
        page = read(gpa)
        if gpa % PAGE_SIZE or page is None:
            raise HostRefusedError(HostErrno.INVALID if gpa % PAGE_SIZE else HostErrno.FAULT, "hand over text")
        pages.append(page)
        gpa = int.from_bytes(page[8:16], "little")
    try:
        return decode(pages)
    except ValueError as error:
        raise HostRefusedError(HostErrno.INVALID, "hand over text") from error
