# SPDX-License-Identifier: GPL-2.0-or-later
"""A bounded chain of records of one kind: appended to, and pruned from its old end.

    history.json           the head of the chain (chain.py)
    records/NUMBER.json    the entries
    damaged/               what was not as it was written, kept aside for a person (mend.py)

An append reads the head and the entries at both ends: its cost does not grow with what is kept. Each file is durable
before another one leads to it, so a crash leaves at worst an entry beyond the head, which is taken up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

from mbecguard.records.chain import ENTRIES, Chain, Head, Link, numbered, sign_entry, sign_head
from mbecguard.records.damage import GONE, DamagedError
from mbecguard.records.plans import on_disk
from mbecguard.values.clock import now
from mbecguard.values.files import replace_file, sync_folder

PRUNED_AT_ONCE = 64  #: entries: no single append pays for a setting that was lowered


class Timed(Protocol):
    """What an entry can hold."""

    @property
    def time(self) -> str:
        """UTC, ISO 8601."""
        ...


T = TypeVar("T", bound=Timed)


class Bounds(NamedTuple):
    """How much is kept. The newest entry always is."""

    size: int = 64 << 20  #: bytes on disk
    days: int = 730


class Ledger(Generic[T]):
    """A chain in a folder. What writes raises OSError, and wants no other writer beside it."""

    def __init__(self, folder: Path, kind: type[Link[T]]) -> None:
        self.folder, self.kind = folder, kind

    @property
    def chain(self) -> Chain[T]:
        """Its entries."""
        return Chain(self.folder, self.kind)

    @property
    def folders(self) -> tuple[str, ...]:
        """Names of those that are made in its own."""
        return (ENTRIES,)

    def newest(self) -> Link[T] | None:
        """The newest entry. Raises DamagedError."""
        head = self.head()
        return self.chain.entry(head.newest) if head.newest else None

    def head(self) -> Head:
        """The head of the chain. Raises DamagedError, also if it is gone and entries are there."""
        head = self.chain.head()
        if head is None and next(self.numbers(), None) is not None:
            raise DamagedError(self.chain.head_file, GONE)
        return head or Head()

    def numbers(self) -> Iterator[int]:
        """Numbers of the files of entries, as the folder has them."""
        with suppress(OSError):
            numbers = map(numbered, (self.folder / ENTRIES).iterdir())
            yield from (number for number in numbers if number is not None)

    def size(self) -> int:
        """Bytes on disk of all that is there."""
        return sum(on_disk(self.chain.file(number)) for number in self.numbers())

    def require(self, entry: Link[T]) -> None:
        """Raises DamagedError if what an entry names is gone or cannot be believed."""

    def add(self, record: T, bounds: Bounds) -> Link[T]:
        """Add a record, which is on the disk before this returns, and prune."""
        head = self.head()
        entry, data = sign_entry(head.newest + 1, head.link, record)
        self._put(self.chain.file(entry.number), data)
        grown = head._replace(newest=entry.number, link=entry.digest, size=head.size + self.tie(entry))
        pruned = tuple(islice(self._superfluous(grown, bounds), PRUNED_AT_ONCE))
        self.write(_shortened(grown, pruned))
        for one in pruned:
            with suppress(OSError, DamagedError):  # what a crash, or this, leaves of them is harmless
                self.drop(one.entry)
        return entry

    def tie(self, entry: Link[T]) -> int:
        """Lead to an entry from elsewhere. Returns the bytes that it costs, with the entry itself."""
        return on_disk(self.chain.file(entry.number))

    def cost(self, entry: Link[T]) -> int:
        """Bytes that go with an entry."""
        return on_disk(self.chain.file(entry.number))

    def drop(self, entry: Link[T]) -> None:
        """Remove a pruned entry, and what only it needed. Raises OSError, DamagedError."""
        self.chain.file(entry.number).unlink(missing_ok=True)

    def write(self, head: Head) -> None:
        """Have another head."""
        self._put(self.chain.head_file, sign_head(head))

    def _superfluous(self, head: Head, bounds: Bounds) -> Iterator[_Pruned[T]]:
        """What has to go, from the oldest on. The last is not lost: it anchors what stays."""
        size, limit = head.size, self._limit(head, bounds)
        for number in range(head.oldest, head.newest):
            try:
                entry = self.chain.entry(number)
            except DamagedError:
                if head.lacks(number):
                    continue
                return  # whoever mends finds the oldest entry damaged, and keeps it aside
            if size <= bounds.size and entry.record.time >= limit:
                return
            one = _Pruned(entry, self.cost(entry))
            size -= one.size
            yield one

    def _limit(self, head: Head, bounds: Bounds) -> str:
        """The time before which records are old. A clock that is wrong once, and far ahead, makes none old."""
        try:
            times = [now(), self.chain.entry(head.newest - 1).record.time]
            return (min(map(datetime.fromisoformat, times)) - timedelta(days=bounds.days)).isoformat()
        except (DamagedError, ValueError, TypeError, OverflowError):
            return ""

    def _put(self, path: Path, data: bytes) -> None:
        self._made(path.parent.name if path.parent != self.folder else "")
        replace_file(path, data)
        sync_folder(path.parent)

    def _made(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder


class _Pruned(NamedTuple, Generic[T]):
    entry: Link[T]
    size: int  #: bytes that this frees


def _shortened(head: Head, pruned: tuple[_Pruned[T], ...]) -> Head:
    if not pruned:
        return head
    last, size = pruned[-1].entry, head.size - sum(one.size for one in pruned)
    return head._replace(oldest=last.number + 1, anchor=last.digest, size=max(0, size)).without()
