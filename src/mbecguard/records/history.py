# SPDX-License-Identifier: GPL-2.0-or-later
"""The history of locks: appended to, and pruned from its old end.

    history.json           the head of the chain (chain.py)
    records/NUMBER.json    the entries
    boots/BOOT             leads to the newest entry of a boot: nobody has to read the others to find it
    plans/                 what the entries name (plans.py)
    damaged/               what was not as it was written, kept aside for a person (mend.py)

An append reads the head and the entries at both ends: its cost does not grow with the history. Each file is durable
before another one leads to it, so a crash leaves at worst an entry beyond the head, which is taken up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from itertools import islice
from pathlib import Path

from mbecguard.plan.planner import Plan
from mbecguard.records.chain import ENTRIES, Chain, Entry, Head, numbered, sign_entry, sign_head
from mbecguard.records.damage import GONE, DamagedError, reading
from mbecguard.records.plans import Plans, on_disk
from mbecguard.records.record import Record
from mbecguard.values.clock import now
from mbecguard.values.files import CHANGED, replace_file, replace_link, sync_folder

FOLDERS = (ENTRIES, "boots", "plans")
PRUNED_AT_ONCE = 64  #: entries: no single lock pays for a setting that was lowered
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is kept. The newest entry always is."""

    size: int = 64 << 20  #: bytes on disk
    days: int = 730


@dataclass(frozen=True, slots=True)
class History:
    """The history in a state folder. What writes raises OSError, and wants no other writer beside it."""

    folder: Path

    @property
    def chain(self) -> Chain:
        """Its entries."""
        return Chain(self.folder)

    @property
    def plans(self) -> Plans:
        """What the entries name."""
        return Plans(self.folder / "plans")

    def pointer(self, boot_id: str) -> Path:
        """The link that leads to the newest entry of a boot; a captured guest may call its boot anything."""
        name = boot_id if _UUID.fullmatch(boot_id) else f"x{sha256(boot_id.encode()).hexdigest()[:32]}"
        return self.folder / "boots" / name

    def newest_of(self, boot_id: str) -> Entry | None:
        """The newest entry of a boot, found without the others; None if there is none. Raises DamagedError."""
        number = self.pointed(self.pointer(boot_id))
        if number is None:
            return None
        entry = self.chain.entry(number)
        if entry.record.boot_id != boot_id:
            raise DamagedError(self.pointer(boot_id), "it leads to a record of another boot")
        return entry

    def newest(self) -> Entry | None:
        """The newest entry of any boot. Raises DamagedError."""
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

    def append(self, record: Record, plan: Plan, bounds: Bounds) -> Entry:
        """Add a record, which is on the disk before this returns, and prune."""
        head = self.head()
        entry, data = sign_entry(head.newest + 1, head.link, record)
        self.keep(plan)
        self._put(self.chain.file(entry.number), data)
        grown = replace(head, newest=entry.number, link=entry.digest, size=head.size + self.tie(entry))
        pruned = tuple(islice(self._superfluous(grown, bounds), PRUNED_AT_ONCE))
        self.write(_shortened(grown, pruned))
        for one in pruned:
            self._drop(one.entry)
        return entry

    def keep(self, plan: Plan) -> None:
        """Have a plan on the disk before this returns."""
        self._made("plans")
        self.plans.keep(plan)

    def tie(self, entry: Entry) -> int:
        """Lead to an entry from its boot, and to it from its plan. Returns the bytes that it costs."""
        file, pointer = self.chain.file(entry.number), self.pointer(entry.record.boot_id)
        target = f"../{file.relative_to(self.folder)}"
        cost = self.plans.name(entry.record.plan_digest, target)
        self._made(pointer.parent.name)
        replace_link(pointer, target)
        sync_folder(pointer.parent)
        return cost + on_disk(file)

    def write(self, head: Head) -> None:
        """Have another head."""
        self._put(self.chain.head_file, sign_head(head))

    def _superfluous(self, head: Head, bounds: Bounds) -> Iterator[_Pruned]:
        """What has to go, from the oldest on. The last is not lost: it anchors what stays."""
        size, limit = head.size, self._limit(head, bounds)
        for number in range(head.oldest, head.newest):
            try:
                entry = self.chain.entry(number)
            except DamagedError:
                if head.lacks(number):
                    continue
                return  # the next lock finds the oldest entry damaged, and keeps it aside
            if size <= bounds.size and entry.record.time >= limit:
                return
            one = _Pruned(entry, self._cost(entry))
            size -= one.size
            yield one

    def _limit(self, head: Head, bounds: Bounds) -> str:
        """The time before which records are old. A clock that is wrong once, and far ahead, makes none old."""
        try:
            times = [now(), self.chain.entry(head.newest - 1).record.time]
            return (min(map(datetime.fromisoformat, times)) - timedelta(days=bounds.days)).isoformat()
        except (DamagedError, ValueError, TypeError, OverflowError):
            return ""

    def _cost(self, entry: Entry) -> int:
        digest = entry.record.plan_digest
        plan = self.plans.size(digest) if self.plans.namer(digest) == entry.number else 0
        return on_disk(self.chain.file(entry.number)) + plan

    def _drop(self, entry: Entry) -> None:
        """Remove a pruned entry, and what only it needed. What a crash leaves of them is harmless."""
        with suppress(OSError, DamagedError):
            record = entry.record
            if self.pointed(self.pointer(record.boot_id)) == entry.number:
                self.pointer(record.boot_id).unlink()
            if self.plans.namer(record.plan_digest) == entry.number:
                self.plans.drop(record.plan_digest)
            self.chain.file(entry.number).unlink(missing_ok=True)

    def pointed(self, pointer: Path) -> int | None:
        """The number that the link of a boot leads to; None if there is none. Raises DamagedError."""
        with reading(pointer):
            try:
                number = numbered(pointer.readlink())
            except FileNotFoundError:
                return None
            if number is None:
                raise ValueError(CHANGED)
        return number

    def _put(self, path: Path, data: bytes) -> None:
        self._made(path.parent.name if path.parent != self.folder else "")
        replace_file(path, data)
        sync_folder(path.parent)

    def _made(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder


@dataclass(frozen=True, slots=True)
class _Pruned:
    entry: Entry
    size: int  #: bytes that this frees


def _shortened(head: Head, pruned: tuple[_Pruned, ...]) -> Head:
    if not pruned:
        return head
    last, size = pruned[-1].entry, head.size - sum(one.size for one in pruned)
    return replace(head, oldest=last.number + 1, anchor=last.digest, size=max(0, size)).without()
