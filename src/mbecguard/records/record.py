# SPDX-License-Identifier: GPL-2.0-or-later
"""What is kept of a lock: the record, the evidence in it, and the journal of a transaction under way."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from mbecguard.host.base import Outcome, TextMode
from mbecguard.plan.policy import Level, Policy
from mbecguard.plan.value import Totals
from mbecguard.records.identity import Identity
from mbecguard.records.reasons import Reason
from mbecguard.values.codec import Hex
from mbecguard.values.errors import Exit

RECORD_SCHEMA = "mbecguard.record/2"
JOURNAL_SCHEMA = "mbecguard.journal/3"


class State(StrEnum):
    """State of a guest. Only SEALED may be called locked."""

    OPEN = "open"
    APPLIED = "applied"  #: the host took the map, nothing is proven
    PROVEN = "proven"  #: faults were seen; still reversible
    SEALED = "sealed"  #: proven, pinned and immutable until reset
    DEGRADED = "degraded"  #: not what it should be; the reasons say why


def exit_of(state: State, *, audit: bool) -> Exit:
    """How a command ends that shows a state; `audit`: the host logs denied fetches, and stops none."""
    if state is State.SEALED:
        return Exit.OK
    if state is State.DEGRADED:
        return Exit.NOT_ENFORCED
    return Exit.AUDIT_MODE if audit and state is not State.OPEN else Exit.OPEN


class Step(StrEnum):
    """Steps of the transaction, in order."""

    CHECK = "check"
    HOLD = "hold"
    RESERVE = "reserve"
    SURVEY = "survey"
    APPLY = "apply"
    RESURVEY = "resurvey"
    PROVE = "prove"
    FREEZE = "freeze"
    SETTLE = "settle"
    LAST_SURVEY = "last-survey"
    TIGHTEN = "tighten"
    TEXT = "text"
    PIN = "pin"
    SEAL = "seal"
    MODULES = "modules"
    ONE_WAY = "one-way"
    RECORD = "record"


#: Steps that begin when the seal holds.
SEALED_STEPS = frozenset({Step.MODULES, Step.ONE_WAY, Step.RECORD})


class Probe(StrEnum):
    """The experiments that make a lock proven."""

    CANARY_BEFORE = "canary before the lock"
    CANARY_AFTER = "canary after the lock"
    USER_ON_DENIED = "user-mode fetch from a denied page"
    KEPT_TEXT = "supervisor fetch from kept text"
    CANARY_SEALED = "canary after the seal"
    UNLOCK = "attempt to unlock after the seal"
    STORE_BEFORE = "store to text before it is handed over"
    STORE_DENIED = "store to text that the host holds"
    STORE_COUNTED = "the host's count of that store"
    PATCH = "patch of kernel text by the kernel"


#: What each probe has to show.
EXPECTED: dict[Probe, Outcome] = {
    Probe.CANARY_BEFORE: Outcome.RAN,
    Probe.CANARY_AFTER: Outcome.DENIED,
    Probe.USER_ON_DENIED: Outcome.RAN,
    Probe.KEPT_TEXT: Outcome.RAN,
    Probe.CANARY_SEALED: Outcome.DENIED,
    Probe.UNLOCK: Outcome.DENIED,
    Probe.STORE_BEFORE: Outcome.RAN,
    Probe.STORE_DENIED: Outcome.DENIED,
    Probe.STORE_COUNTED: Outcome.RAN,
    Probe.PATCH: Outcome.RAN,
}
#: The probes without which nothing is proven.
PROOF = frozenset({Probe.CANARY_BEFORE, Probe.CANARY_AFTER, Probe.USER_ON_DENIED, Probe.KEPT_TEXT})
#: What a level of text needs besides.
TEXT_PROOF = {
    Level.EXEC: frozenset[Probe](),
    Level.TEXT_LOG: frozenset({Probe.STORE_COUNTED, Probe.PATCH}),
    Level.TEXT: frozenset({Probe.STORE_DENIED, Probe.STORE_COUNTED, Probe.PATCH}),
}


class Evidence(NamedTuple):
    """One probe, what it saw, and on which page frame."""

    probe: Probe
    outcome: Outcome
    pfn: Hex

    @property
    def holds(self) -> bool:
        """Whether the outcome is the expected one."""
        return self.outcome is EXPECTED[self.probe]


#: What the host has to do with bad stores, by level.
HOLDS = {Level.EXEC: TextMode.NONE, Level.TEXT_LOG: TextMode.LOG, Level.TEXT: TextMode.ENFORCE}


def is_proof(evidence: tuple[Evidence, ...]) -> bool:
    """Evidence of all kinds that say that new code does not run, and none against anything."""
    return {e.probe for e in evidence} >= PROOF and all(e.holds for e in evidence)


def proves_text(evidence: tuple[Evidence, ...], level: Level) -> bool:
    """The same of what a level says of text."""
    kinds = TEXT_PROOF[level]
    return {e.probe for e in evidence} >= kinds and all(e.holds for e in evidence if e.probe in kinds)


class Record(NamedTuple):
    """The outcome of one attempt to lock. `level` says what is protected."""

    time: str  #: UTC, ISO 8601
    identity: Identity
    host: str
    simulated: bool
    mode: str
    state: State
    reasons: tuple[Reason, ...]
    evidence: tuple[Evidence, ...]
    frozen: tuple[str, ...]  #: switches that were set, or found set
    pinned: bool
    generation: int
    plan_digest: str  #: of the plan, which is kept beside the records
    totals: Totals  #: of the plan
    policy: Policy  #: that made the plan
    pins: tuple[str, ...] = ()  #: names of the bits that the host was asked to pin, and did
    map_digest: str = ""  #: of the map that the seal asked for; empty: not sealed, or of an earlier agent
    text_digest: str = ""  #: of the kernel text that the host holds; empty: the level asks for none
    level: Level = Level.EXEC
    schema: str = RECORD_SCHEMA

    @property
    def boot_id(self) -> str:
        """Of which boot it is."""
        return self.identity.boot_id

    @property
    def exit(self) -> Exit:
        """How a command ends that shows it."""
        return exit_of(self.state, audit=self.mode == "audit")


@dataclass(frozen=True, slots=True)
class Journal:
    """How far a transaction has come; what a killed agent leaves behind."""

    boot_id: str
    step: Step
    evidence: tuple[Evidence, ...] = ()
    switched: dict[str, str] = field(default_factory=dict)  #: reversible switches that change -> value before
    plan_digest: str = ""  #: from the seal on, of the plan that a rerun has to ask for again
    policy: Policy = field(default_factory=Policy)  #: that makes the plan
    text_digest: str = ""  #: of the kernel text that the host holds
    schema: str = JOURNAL_SCHEMA
