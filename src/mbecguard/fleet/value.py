# SPDX-License-Identifier: GPL-2.0-or-later
"""What is told of a fleet: each guest with where it stands, and what there is to say of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mbecguard.audit.value import Verdict, Witness
from mbecguard.records.identity import Identity
from mbecguard.records.record import State
from mbecguard.values.errors import Exit
from mbecguard.values.findings import Finding, Severity
from mbecguard.witness.agree import Agreed

SCHEMA = "mbecguard.fleet/1"


class Standing(StrEnum):
    """Where a guest stands; the worst first."""

    DEGRADED = "degraded"  #: what was locked does not hold
    FAIL = "fail"  #: its newest audit failed, could not be made, or cannot be believed
    OPEN = "open"  #: not sealed, or only simulated
    NEVER = "never"  #: it should be there, and there is no audit of it
    STALE = "stale"  #: its newest audit is too old, or dated in the future
    PASS = "pass"


@dataclass(frozen=True, slots=True)
class Sheet:
    """What matters of one audit among many."""

    file: str  #: below the folder that was read
    time: str  #: UTC, ISO 8601
    verdict: Verdict
    ok: bool
    state: State
    subject: Identity
    boot_id: str
    failed: tuple[str, ...]  #: ids of the claims that do not hold
    unknown: int  #: executable ranges that the seal does not know
    sealed: str
    simulated: bool
    content_digest: str | None  #: of kernel and modules, without addresses; null: nothing was compared
    witness: Witness
    record_digest: str
    plan_digest: str


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest and its newest audit."""

    name: str  #: host name, else machine-id, UUID, or what the inventory has
    standing: Standing
    findings: tuple[Finding, ...]  #: what is said of it, the worst first
    audits: int  #: how many were collected
    audit: Sheet | None  #: the newest; null: there is none
    host: Agreed | None = None  #: what the hosts say to it; null: none was asked


@dataclass(frozen=True, slots=True)
class Fleet:
    """All guests that audits or the inventory know, the worst first."""

    time: str  #: of this look; UTC, ISO 8601
    stale_after: int  #: hours after which an audit is too old
    files: int  #: that were read
    totals: dict[str, int]  #: guests by standing
    guests: tuple[Guest, ...]
    findings: tuple[Finding, ...]  #: of guests and of files, the worst first; the fleet passes without blockers
    hosts: int = 0  #: whose witness was read
    schema: str = SCHEMA

    @property
    def ok(self) -> bool:
        """Whether every guest passes, and nothing else stands against that."""
        return not any(found.severity is Severity.BLOCKER for found in self.findings)

    @property
    def exit(self) -> Exit:
        """How a command ends that shows it."""
        return Exit.OK if self.ok else Exit.DRIFT
