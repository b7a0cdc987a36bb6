# SPDX-License-Identifier: GPL-2.0-or-later
"""What is kept of a lock: the record, the evidence in it, and the journal of a transaction under way."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from mbecguard.host.base import Outcome
from mbecguard.plan.planner import Plan
from mbecguard.plan.policy import Policy

RECORD_SCHEMA = "mbecguard.record/1"
JOURNAL_SCHEMA = "mbecguard.journal/1"


class State(StrEnum):
    """State of a guest. Only SEALED may be called locked."""

    OPEN = "open"
    APPLIED = "applied"  #: the host took the map, nothing is proven
    PROVEN = "proven"  #: faults were seen; still reversible
    SEALED = "sealed"  #: proven, pinned and immutable until reset
    DEGRADED = "degraded"  #: not what it should be; the reasons say why


class Step(StrEnum):
    """Steps of the transaction, in order."""

    CHECK = "check"
    HOLD = "hold"
    SURVEY = "survey"
    APPLY = "apply"
    RESURVEY = "resurvey"
    PROVE = "prove"
    FREEZE = "freeze"
    PIN = "pin"
    SEAL = "seal"
    RECORD = "record"


class Probe(StrEnum):
    """The experiments that make a lock proven."""

    CANARY_BEFORE = "canary before the lock"
    CANARY_AFTER = "canary after the lock"
    USER_ON_DENIED = "user-mode fetch from a denied page"
    KEPT_TEXT = "supervisor fetch from kept text"
    CANARY_SEALED = "canary after the seal"
    UNLOCK = "attempt to unlock after the seal"


#: What each probe has to show.
EXPECTED: dict[Probe, Outcome] = {
    Probe.CANARY_BEFORE: Outcome.RAN,
    Probe.CANARY_AFTER: Outcome.DENIED,
    Probe.USER_ON_DENIED: Outcome.RAN,
    Probe.KEPT_TEXT: Outcome.RAN,
    Probe.CANARY_SEALED: Outcome.DENIED,
    Probe.UNLOCK: Outcome.DENIED,
}
#: The probes without which nothing is proven.
PROOF = frozenset({Probe.CANARY_BEFORE, Probe.CANARY_AFTER, Probe.USER_ON_DENIED, Probe.KEPT_TEXT})


@dataclass(frozen=True, slots=True)
class Evidence:
    """One probe, what it saw, and on which page frame."""

    probe: Probe
    outcome: Outcome
    pfn: int

    @property
    def holds(self) -> bool:
        """Whether the outcome is the expected one."""
        return self.outcome is EXPECTED[self.probe]


def is_proof(evidence: tuple[Evidence, ...]) -> bool:
    """Evidence of all kinds, and none against."""
    return {e.probe for e in evidence} >= PROOF and all(e.holds for e in evidence)


@dataclass(frozen=True, slots=True)
class Record:
    """The outcome of one attempt to lock. `level` says what is protected: `exec` = no new kernel code pages."""

    time: str  #: UTC, ISO 8601
    boot_id: str
    agent: str  #: version
    host: str
    simulated: bool
    mode: str
    state: State
    reasons: tuple[str, ...]
    evidence: tuple[Evidence, ...]
    frozen: tuple[str, ...]  #: switches that were set, or found set
    pinned: bool
    generation: int
    plan: Plan
    policy: Policy  #: that made the plan
    level: str = "exec"
    schema: str = RECORD_SCHEMA

    def __post_init__(self) -> None:
        expect_schema(self.schema, RECORD_SCHEMA)


@dataclass(frozen=True, slots=True)
class Journal:
    """How far a transaction has come; what a killed agent leaves behind."""

    boot_id: str
    step: Step
    evidence: tuple[Evidence, ...] = ()
    switched: dict[str, str] = field(default_factory=dict)  #: reversible switches that change -> value before
    plan: Plan | None = None  #: from the seal on: what a rerun has to ask for again
    policy: Policy = field(default_factory=Policy)  #: that makes the plan
    schema: str = JOURNAL_SCHEMA

    def __post_init__(self) -> None:
        expect_schema(self.schema, JOURNAL_SCHEMA)


def expect_schema(schema: str, ours: str) -> None:
    """ValueError unless what was read back is of the version that is written."""
    if schema != ours:
        raise ValueError(f"schema {schema!r} is not {ours!r}")


def now() -> str:
    """The time as records have it: UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
