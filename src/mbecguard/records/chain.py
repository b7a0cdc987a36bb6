# SPDX-License-Identifier: GPL-2.0-or-later
"""The links of the history: an entry holds the digest of the one before, and the head says where it begins and ends.

The head is trusted first. It vouches for the newest entry, each entry for the one before, and the oldest has to follow
what the head says was pruned. So one can tell what was pruned from what was cut off.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from mbecguard.records.damage import GONE, DamagedError, Loss, reading
from mbecguard.records.record import Record
from mbecguard.values.codec import decode, digest, encode
from mbecguard.values.files import read_own, signed, verified

ORIGIN = "0" * 64  #: what the first entry follows
ENTRY_SCHEMA = "mbecguard.entry/1"
HEAD_SCHEMA = "mbecguard.history/1"
LOSSES = 64  #: that are told one by one

ENTRIES = "records"  #: their folder
_ENTRY = re.compile(r"[0-9]{8,12}\.json")
CUT = "it was cut off, and not pruned"

T = TypeVar("T")  #: what the entries hold
F = TypeVar("F")  #: what is in a file


class CutError(DamagedError):
    """The history does not begin where it was pruned."""


@dataclass(frozen=True)  # with slots it could not be made under the name of what it holds, as Entry is
class Link(Generic[T]):
    """A record in its place. The digest names it: it is of the record, and of all that came before."""

    number: int
    previous: str  #: digest of the entry before
    record: T
    digest: str
    schema: str = ENTRY_SCHEMA


Entry = Link[Record]  #: of a lock


class Head(NamedTuple):
    """Where the history begins and ends."""

    oldest: int = 1  #: number of the oldest entry that was not pruned
    anchor: str = ORIGIN  #: digest of the entry before that; empty if nobody knows
    newest: int = 0
    link: str = ORIGIN  #: digest of the newest entry; empty if nobody knows
    size: int = 0  #: bytes on disk
    lost: tuple[Loss, ...] = ()
    schema: str = HEAD_SCHEMA

    def lacks(self, number: int) -> bool:
        """Whether it is known that this entry was lost."""
        return any(loss.first <= number <= loss.last for loss in self.lost)

    def without(self, *losses: Loss) -> Head:
        """The same with more that is lost."""
        lost = (*(loss for loss in self.lost if loss.last >= self.oldest or not loss.last), *losses)
        if len(lost) > LOSSES:
            whole = lost[-1]._replace(first=min(loss.first for loss in lost), last=max(loss.last for loss in lost))
            lost = (whole._replace(what=f"damaged in more than {LOSSES} places, the last: {whole.what}"),)
        return self._replace(lost=lost)


class Chain(NamedTuple, Generic[T]):
    """The files of the entries, which are of one kind, and of the head."""

    folder: Path
    kind: type[Link[T]]

    @property
    def head_file(self) -> Path:
        """Where the head is."""
        return self.folder / "history.json"

    def file(self, number: int) -> Path:
        """Where an entry is."""
        return self.folder / ENTRIES / f"{number:08}.json"

    def head(self) -> Head | None:
        """The head, None if there is none. Raises DamagedError."""
        return _read(Head, self.head_file, drop_digest=True)

    def entry(self, number: int) -> Link[T]:
        """An entry by its number. Raises DamagedError."""
        found = _read(self.kind, self.file(number))
        if found is None:
            raise DamagedError(self.file(number), GONE)
        if found.number != number:
            raise DamagedError(self.file(number), f"it is entry {found.number}")
        return found

    def walk(self, head: Head) -> Iterator[tuple[int, Link[T] | DamagedError]]:
        """Every entry from the newest to the oldest, or what is wrong with it; what is known to be lost is no news."""
        link = head.link
        for number in range(head.newest, head.oldest - 1, -1):
            found = self._linked(number, link, head)
            if found:
                yield number, found
            link = "" if found is None or isinstance(found, DamagedError) else found.previous
        if cut := self._cut(link, head):
            yield cut

    def end(self, head: Head, number: int) -> Link[T] | DamagedError | None:
        """The newest entry or the oldest, or what is wrong with it; None if it is known to be lost."""
        found = self._linked(number, head.link if number == head.newest else "", head)
        if found is None or isinstance(found, DamagedError):
            return found
        cut = self._cut(found.previous, head) if number == head.oldest else None
        return cut[1] if cut else found

    def _linked(self, number: int, link: str, head: Head) -> Link[T] | DamagedError | None:
        try:
            entry = self.entry(number)
            if link and entry.digest != link:
                raise DamagedError(self.file(number), "it is not the one that the next record follows")
        except DamagedError as error:
            return None if head.lacks(number) and not os.path.lexists(self.file(number)) else error
        return entry

    def _cut(self, link: str, head: Head) -> tuple[int, DamagedError] | None:
        known = head.newest and link and head.anchor
        return (0, CutError(self.file(head.oldest - 1), CUT)) if known and link != head.anchor else None


def numbered(path: Path) -> int | None:
    """The number of the entry that a path leads to; None if it is no entry's."""
    return int(path.stem) if _ENTRY.fullmatch(path.name) else None


def sign_entry(number: int, previous: str, record: T) -> tuple[Link[T], bytes]:
    """A record as an entry, and the content of its file."""
    data = {"schema": ENTRY_SCHEMA, "number": number, "previous": previous, "record": encode(record)}
    return Link(number, previous, record, digest(data)), signed(data)


def sign_head(head: Head) -> bytes:
    """The content of the head's file."""
    return signed(encode(head))


def _read(kind: type[F], path: Path, *, drop_digest: bool = False) -> F | None:
    with reading(path):
        try:
            data = verified(read_own(path))
        except FileNotFoundError:
            return None
        if drop_digest:
            del data["digest"]
        return decode(kind, data)
