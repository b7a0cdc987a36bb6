# SPDX-License-Identifier: GPL-2.0-or-later
"""The history of audits: each is kept, clean or not, in a chain of its own beside that of the locks.

They come every day, and a guest may stay up for years: in one chain they would push out the record of its seal.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mbecguard.audit.value import Audit
from mbecguard.records.chain import Link
from mbecguard.records.damage import ASIDE, DamagedError, Loss
from mbecguard.records.ledger import Ledger
from mbecguard.records.mend import Mender, faults, known
from mbecguard.records.reasons import Reason, reason
from mbecguard.records.store import Store
from mbecguard.values.errors import UserError

SHARE = 4  #: audits get a part of the room that locks have


@dataclass(frozen=True, slots=True)
class Audits:
    """What is kept of audits in a state folder."""

    store: Store

    @property
    def folder(self) -> Path:
        """Where they are."""
        return self.store.folder / "audits"

    @property
    def ledger(self) -> Ledger[Audit]:
        """Their chain. Raises DamagedError if others could have written it."""
        return self.store.ledger(self.folder.name, Link[Audit])

    def newest(self, boot_id: str) -> Link[Audit] | None:
        """The newest audit if it is one of this boot. Raises DamagedError."""
        found = self.ledger.newest()
        return found if found and found.record.boot_id == boot_id else None

    def last(self, count: int) -> list[Link[Audit]]:
        """The newest that can be believed, the newest first."""
        found: list[Link[Audit]] = []
        ledger = self.ledger
        for _, entry in ledger.chain.walk(ledger.head()):
            if not isinstance(entry, DamagedError):
                found.append(entry)
            if len(found) == count:
                break
        return found

    def add(self, audit: Audit) -> Link[Audit]:
        """Keep an audit; it is on the disk before this returns. Dies if it cannot be kept."""
        with self.store.exclusive(), self.store.writing():
            ledger, bounds = self.ledger, self.store.bounds
            if self.folder.exists():
                Mender(ledger).mend()
            return ledger.add(audit, bounds._replace(size=bounds.size // SHARE))

    def check(self) -> tuple[Loss, ...]:
        """Look at all of them, and keep aside what is damaged if that can be done. Returns what was found."""
        if not self.folder.exists():
            return ()
        found = tuple(faults(self.ledger))
        with suppress(UserError):  # another one is at work, or nothing can be written: then it is only told
            if found:
                with self.store.exclusive(), self.store.writing():
                    return Mender(self.ledger).mend(everything=True)
        return found

    def reasons(self, found: Iterable[Loss] = ()) -> tuple[Reason, ...]:
        """What is known of damage to them, and what was `found` just now."""
        losses = [*found]
        with suppress(DamagedError):
            losses += (loss for loss in known(self.ledger) if loss not in losses)
        more = f" and {len(losses) - 3} more" if len(losses) > 3 else ""
        what = "; ".join(map(str, losses[:3])) + more
        return (reason("audits-damaged", what=what, folder=self.folder / ASIDE),) if losses else ()


@dataclass(frozen=True, slots=True)
class Kept:
    """An audit, and the digest that names it; empty if it could not be kept, which its reasons tell."""

    audit: Audit
    digest: str


def keep(audit: Audit, audits: Audits) -> Kept:
    """Keep an audit. That it cannot be kept is one more reason, and changes no verdict."""
    try:
        return Kept(audit, audits.add(audit).digest)
    except UserError as error:
        unkept = reason("audit-unkept", problem=error.message, advice=error.hint)
        return Kept(replace(audit, reasons=(*audit.reasons, unkept)), "")
