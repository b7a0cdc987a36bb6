# SPDX-License-Identifier: GPL-2.0-or-later
"""The value of an audit: all that its views show, as it is kept and as programs get it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mbecguard.host.base import HostMode
from mbecguard.plan.policy import CodeKind
from mbecguard.plan.value import Totals
from mbecguard.records.identity import Identity
from mbecguard.records.reasons import Reason
from mbecguard.records.record import State, exit_of
from mbecguard.values.codec import Hex
from mbecguard.values.errors import Exit

SCHEMA = "mbecguard.audit/2"


class Verdict(StrEnum):
    """How an audit ends."""

    PASS = "pass"
    FAIL = "fail"
    NOT_APPLICABLE = "not_applicable"  #: nothing is sealed, so nothing can be compared
    ERROR = "error"  #: the guest could not be compared with its seal


class Result(StrEnum):
    """Whether a claim holds."""

    PASS = "pass"
    WARN = "warn"  #: the seal holds without it
    FAIL = "fail"
    UNKNOWN = "unknown"
    NOT_APPLICABLE = "not_applicable"


@dataclass(frozen=True, slots=True)
class Claim:
    """What a seal promises: whether it can be had, is asked for, and is there now; null is what nobody can tell."""

    id: str
    text: str
    available: bool | None
    configured: bool | None
    running: bool | None
    evidence: str
    result: Result
    action: str  #: what to do; empty if nothing


@dataclass(frozen=True, slots=True)
class Code:
    """Page frames `[pfn_start, pfn_end)` that are code, or were; `pa` and `va` are the addresses of the first byte."""

    pfn_start: Hex
    pfn_end: Hex
    pa: Hex
    va: Hex
    pages: int
    kind: CodeKind | None  #: None: nobody knows
    owner: str
    section: str
    symbol: str  #: nearest to `va`
    writable: bool | None  #: mapped writable and executable at once; None if not mapped executable now
    denied: bool  #: by the seal: what runs there faults


@dataclass(frozen=True, slots=True)
class Changed:
    """Kernel text at `va` that is not as the file of its owner says; bytes as hexadecimal digits, the first 32."""

    owner: str  #: kernel, or a module
    va: Hex
    symbol: str  #: nearest to `va`
    site: str  #: of which kind of patch site it is no legal form; empty: it is outside of all
    wanted: str  #: what the file has there, after relocation
    found: str


@dataclass(frozen=True, slots=True)
class Share:
    """What the seal keeps of one kind of code."""

    kind: CodeKind
    pages: int
    ranges: int


@dataclass(frozen=True, slots=True)
class Owner:
    """What the seal keeps of one owner."""

    owner: str
    kind: CodeKind
    pages: int
    ranges: int
    build_id: str | None  #: of the file that it was loaded from; null: it has none, or is not loaded any more


@dataclass(frozen=True, slots=True)
class Locked:
    """What the seal keeps executable; all else is denied."""

    totals: Totals
    deny_pages: int
    kinds: tuple[Share, ...]  #: the largest first
    owners: tuple[Owner, ...]  #: the largest first
    content_digest: str  #: of kernel and modules by their build-ids: the same wherever the same code is loaded


@dataclass(frozen=True, slots=True)
class Witness:
    """What the host tells of this guest; null is what it does not."""

    mode: HostMode
    generation: int
    map_digest: str | None  #: of what it enforces
    denied: int | None  #: fetches, since the reset
    refused: int | None  #: what a pin, a seal or the lack of SMRAM forbade, since the reset


@dataclass(frozen=True, slots=True)
class Audit:
    """A guest compared with its seal. It is `ok` if every executable page is one that the seal knows."""

    verdict: Verdict
    ok: bool
    reasons: tuple[Reason, ...]
    state: State
    level: str  #: of protection; `uncovered` says what it leaves
    uncovered: tuple[str, ...]
    subject: Identity  #: whose audit it is
    claims: tuple[Claim, ...]
    locked: Locked | None  #: null: nothing is sealed
    new: tuple[Code, ...]  #: explained, but unknown to the seal
    unexplained: tuple[Code, ...]  #: executable, unknown to the seal, and nobody knows why
    stale: tuple[Code, ...]  #: kept by the seal, but no code any more
    witness: Witness
    time: str  #: UTC, ISO 8601
    boot_id: str
    sealed: str  #: when; empty: it is not
    simulated: bool  #: the seal protects nothing
    record_digest: str  #: of the seal
    plan_digest: str  #: of the seal
    changed: tuple[Changed, ...] = ()  #: text, the first 50 places
    schema: str = SCHEMA

    @property
    def exit(self) -> Exit:
        """How a command ends that shows it."""
        if self.verdict is Verdict.ERROR:
            return Exit.ERROR
        if self.state is not State.SEALED:
            return exit_of(self.state, audit=self.witness.mode is HostMode.AUDIT)
        if not self.ok:
            return Exit.DRIFT
        return Exit.OK if self.verdict is Verdict.PASS else Exit.NOT_ENFORCED

    @property
    def unknown(self) -> int:
        """How many executable ranges the seal does not know."""
        return len(self.new) + len(self.unexplained)
