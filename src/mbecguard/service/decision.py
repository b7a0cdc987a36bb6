# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the service locks this boot: facts in, an objection out.

An attempt that nobody confirmed means that the guest may not have survived its lock. Two things excuse it: it was
another machine's, or its boot was shut down in order. Neither proves that the guest survives its lock, and a machine
that is made anew from one disk, or that a service restarts, could go on like that for ever: an excuse is taken only so
often in a row.
"""

from __future__ import annotations

from dataclasses import dataclass

from mbecguard.learn.files import MODULES
from mbecguard.records.boots import Attempt
from mbecguard.settings.load import OFF

EXCUSES = 3  #: in a row


@dataclass(frozen=True, slots=True)
class Facts:
    """What decides whether the service locks at this boot."""

    mode: str  #: lock.mode, in which the kernel command line has the last word
    origin: str  #: who set it
    container: bool
    boot_id: str
    attempt: Attempt | None  #: the newest
    unlisted: bool = False  #: the lock is an early one, and nothing says what to load before it
    volatile: str = ""  #: why the state folder forgets all at a reset
    machine_id: str | None = None
    vm_uuid: str | None = None

    @property
    def unconfirmed(self) -> Attempt | None:
        """The newest attempt, if it was in another boot and nobody confirmed it."""
        last = self.attempt
        return last if last and last.counts and last.boot_id != self.boot_id else None


@dataclass(frozen=True, slots=True)
class Objection:
    """Why the service must not lock, and what to do about it."""

    reason: str
    hint: str


def excuse(facts: Facts) -> str | None:
    """Why the unconfirmed attempt says nothing against this boot; None if it does, or if there is none."""
    last = facts.unconfirmed
    if not last or last.excused >= EXCUSES:
        return None
    if last.of_another(facts.machine_id, facts.vm_uuid):
        return "that was another machine, of which this one is a copy"
    return f"it was shut down in order at {last.left}" if last.left else None


def objection(facts: Facts) -> Objection | None:
    """None if the service may lock at this boot."""
    if facts.mode == OFF:
        return Objection(f"it is switched off (lock.mode, by {facts.origin})", "this is the way out that was asked for")
    if facts.container:
        return Objection("this is a container", "the lock is for its virtual machine")
    if not facts.boot_id:
        return Objection("this boot has no id, so it cannot be told from the next", "mount procfs at /proc")
    if facts.volatile:
        return Objection(
            f"there is no place for the count of boots: {facts.volatile}",
            "give the state folder a disk; else a lock that kills this guest would be repeated at every boot",
        )
    if facts.unlisted:
        return Objection(
            f"/{MODULES} does not say what this guest needs before an early lock",
            "`mbecguard learn write --profile early` makes it, of the boots that `mbecguard-learn.service` watched",
        )
    return _unconfirmed(facts)


def _unconfirmed(facts: Facts) -> Objection | None:
    last = facts.unconfirmed
    if not last or excuse(facts):
        return None
    before = f", nor were the {last.excused} before it" if last.excused else ""
    return Objection(
        f"boot {last.boot_id} was locked at {last.time} (kernel {last.kernel}) and never confirmed{before}; "
        "no boot locks before `mbecguard rearm`",
        f"see `journalctl --boot={last.boot_id.replace('-', '')}` for what happened",
    )
