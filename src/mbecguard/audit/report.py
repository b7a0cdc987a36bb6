# SPDX-License-Identifier: GPL-2.0-or-later
"""The newest lock of a guest, whether it is one of this boot, and what audits have said of it since."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from mbecguard.audit.kept import Audits
from mbecguard.audit.locked import locked
from mbecguard.audit.value import Audit, Share, Verdict
from mbecguard.plan.value import Plan
from mbecguard.records.chain import Link
from mbecguard.records.damage import DamagedError
from mbecguard.records.identity import Identity
from mbecguard.records.record import Record, State
from mbecguard.records.status import Status
from mbecguard.records.store import Store
from mbecguard.values.errors import Exit, die

SCHEMA = "mbecguard.report/1"
SHOWN = 30  #: audits of the history


@dataclass(frozen=True, slots=True)
class Audited:
    """An audit by its name, with what matters most of it."""

    time: str  #: UTC, ISO 8601
    verdict: Verdict
    digest: str  #: of its entry in the history; the event AUDIT_PASSED or AUDIT_FAILED has told it
    boot_id: str
    unknown: int  #: ranges that the seal does not know

    @classmethod
    def of(cls, entry: Link[Audit]) -> Audited:
        """The name of an audit."""
        audit = entry.record
        return cls(audit.time, audit.verdict, entry.digest, audit.boot_id, audit.unknown)


@dataclass(frozen=True, slots=True)
class Report:
    """What is known of the newest lock. One of an earlier boot says nothing about this one."""

    this_boot: bool
    digest: str  #: of the record's entry in the history; the event SEALED has told it
    record: Record
    plan: Plan | None  #: null if it is damaged
    audited: Audited | None = None  #: the newest audit of that boot; null: none is kept
    schema: str = SCHEMA

    @property
    def exit(self) -> Exit:
        """How a command ends that shows it."""
        return self.record.exit if self.this_boot else Exit.NOTHING


def report(store: Store, boot_id: str) -> Report:
    """The newest lock of this boot, else of an earlier one; dies if there was none."""
    entry = store.last(boot_id) or store.newest()
    if entry is None:
        die("there is nothing to report: no lock was ever tried", "`mbecguard lock` makes a record", Exit.NOTHING)
    plan = None
    with suppress(DamagedError):
        plan = store.plan(entry.record)
    audited = Audits(store).newest(entry.record.boot_id)
    name = Audited.of(audited) if audited else None
    return Report(entry.record.boot_id == boot_id, entry.digest, entry.record, plan, name)


@dataclass(frozen=True, slots=True)
class Dossier:
    """All that is known of a guest's lock, for a page: the newest lock, the newest audit, and the audits before."""

    report: Report | None  #: None: no lock was ever tried
    audit: Audit | None  #: None: there was none in the boot of that lock
    history: tuple[Audited, ...]  #: the newest first


def dossier(store: Store, boot_id: str, audit: Audit | None = None) -> Dossier:
    """Of a guest whose newest audit is `audit`, if one was made just now. Dies if nothing is known at all."""
    audits = Audits(store)
    found = report(store, boot_id) if audit is None or store.newest() else None
    if found and not audit and (newest := audits.newest(found.record.boot_id)):
        audit = newest.record
    return Dossier(found, audit, tuple(map(Audited.of, audits.last(SHOWN))))


@dataclass(frozen=True, slots=True)
class Measured:
    """What there is to measure of a guest: its state now, what its seal keeps, and its newest audit in this boot."""

    status: Status
    identity: Identity | None  #: as an audit has it, or else the lock
    kinds: tuple[Share, ...]
    audit: Audit | None


def measured(status: Status, store: Store, boot_id: str) -> Measured:
    """Of a status with its details. An audit that is damaged is none: the next one tells of that."""
    audit, details = None, status.details
    with suppress(DamagedError):
        entry = Audits(store).newest(boot_id)
        audit = entry.record if entry else None
    identity = audit.subject if audit else details.record.identity if details else None
    seal = details.plan if details and details.record.state is State.SEALED else None
    if audit and audit.locked:
        return Measured(status, identity, audit.locked.kinds, audit)
    return Measured(status, identity, locked(seal, {}).kinds if seal else (), audit)
