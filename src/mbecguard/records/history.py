# SPDX-License-Identifier: GPL-2.0-or-later
"""The history of locks: a ledger (ledger.py) in which each record names a plan, and is found by its boot.

boots/BOOT             leads to the newest entry of a boot: nobody has to read the others to find it
plans/                 what the entries name (plans.py)
"""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

from mbecguard.plan.value import Plan
from mbecguard.records.chain import ENTRIES, Entry, numbered
from mbecguard.records.damage import DamagedError, reading
from mbecguard.records.ledger import Bounds, Ledger
from mbecguard.records.plans import Plans, on_disk
from mbecguard.records.record import Record
from mbecguard.values.files import CHANGED, replace_link, sync_folder

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class History(Ledger[Record]):
    """The history in a state folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, Entry)

    @property
    def plans(self) -> Plans:
        """What the entries name."""
        return Plans(self.folder / "plans")

    @property
    def folders(self) -> tuple[str, ...]:
        """Names of those that are made in its own."""
        return (ENTRIES, "boots", "plans")

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

    def size(self) -> int:
        """Bytes on disk of all that is there."""
        return super().size() + sum(map(on_disk, self.plans.files()))

    def require(self, entry: Entry) -> None:
        """Raises DamagedError if the plan that an entry names is gone or cannot be believed."""
        self.plans.check(entry.record.plan_digest)

    def append(self, record: Record, plan: Plan, bounds: Bounds) -> Entry:
        """Add a record and its plan, which are on the disk before this returns, and prune."""
        self.keep(plan)
        return self.add(record, bounds)

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

    def cost(self, entry: Entry) -> int:
        """Bytes that go with an entry, and with its plan if no later one names it."""
        digest = entry.record.plan_digest
        plan = self.plans.size(digest) if self.plans.namer(digest) == entry.number else 0
        return on_disk(self.chain.file(entry.number)) + plan

    def drop(self, entry: Entry) -> None:
        """Remove a pruned entry, and what only it needed. Raises OSError, DamagedError."""
        record = entry.record
        if self.pointed(self.pointer(record.boot_id)) == entry.number:
            self.pointer(record.boot_id).unlink()
        if self.plans.namer(record.plan_digest) == entry.number:
            self.plans.drop(record.plan_digest)
        super().drop(entry)

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
