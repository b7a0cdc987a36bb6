# SPDX-License-Identifier: GPL-2.0-or-later
"""A plan as a value: what stays executable, why, and the digest that names it. The planner makes it (planner.py)."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

from mbecguard.plan.policy import CodeKind
from mbecguard.values.codec import Hex, Notation, decode, digest, encode
from mbecguard.values.errors import die
from mbecguard.values.findings import Finding, Severity
from mbecguard.values.pages import PAGE_SIZE, PageRange

SCHEMA = "mbecguard.plan/2"

Frames = Annotated[PageRange, Notation.HEX]  #: page frames, written as hexadecimal strings in JSON


class PlanKernel(NamedTuple):
    """Which kernel a plan is for; addresses in bytes."""

    release: str
    build_id: str
    text_va: Hex
    text_pa: Hex


class KeepRange(NamedTuple):
    """Page frames `[start, end)` that stay kernel-executable, and why; `va` is the virtual address of `start`."""

    start: Hex
    end: Hex
    kind: CodeKind
    owner: str
    section: str
    va: Hex

    @property
    def pages(self) -> PageRange:
        """The frames as a range."""
        return PageRange(self.start, self.end)


class Totals(NamedTuple):
    """Pages and ranges kept, and 2 MiB regions that are partly kept (each costs 512 EPT entries)."""

    keep_pages: int
    keep_ranges: int
    mixed_2m: int


class Plan(NamedTuple):
    """What stays executable. `keep` and `deny` are sorted and disjoint, and tile [0, max_pfn)."""

    kernel: PlanKernel
    keep: tuple[KeepRange, ...]
    deny: tuple[Frames, ...]
    totals: Totals
    findings: tuple[Finding, ...]
    digest: str = ""
    schema: str = SCHEMA

    @property
    def max_pfn(self) -> int:
        """End of the guest-physical space that the plan covers."""
        return max([k.end for k in self.keep[-1:]] + [d.end for d in self.deny[-1:]], default=0)

    @property
    def blockers(self) -> tuple[Finding, ...]:
        """Findings that stop a lock."""
        return tuple(f for f in self.findings if f.severity is Severity.BLOCKER)

    def kept(self, pfn: int) -> KeepRange | None:
        """The kept range that holds a page frame, None if the frame is denied."""
        return next((k for k in self.keep if pfn in k.pages), None)

    def to_json(self) -> dict[str, Any]:
        """JSON-able objects, the digest included."""
        data: dict[str, Any] = encode(self)
        return data


def span_of(plan: Plan, kind: CodeKind) -> tuple[int, int]:
    """From where to where, in bytes of virtual addresses, a plan keeps code of a kind; (0, 0) if it keeps none."""
    kept = [(k.va, k.va + len(k.pages) * PAGE_SIZE) for k in plan.keep if k.kind is kind]
    return (min(start for start, _ in kept), max(end for _, end in kept)) if kept else (0, 0)


def plan_from_json(data: object) -> Plan:
    """The inverse of `Plan.to_json`; dies if the digest does not match, or the ranges do not tile the space."""
    try:
        plan = decode(Plan, data)
        pieces = sorted((*(k.pages for k in plan.keep), *plan.deny))
        if [p.start for p in pieces] != [0, *(p.end for p in pieces[:-1])]:
            raise ValueError("keep and deny do not tile the physical space")
    except ValueError as error:
        die(f"not a plan: {error}", "make it again with `mbecguard plan --json`")
    if plan.digest != digest_of(plan):
        die("the plan's digest does not match its content", "it was changed after it was made")
    return plan


def digest_of(plan: Plan) -> str:
    """The digest that belongs into a plan: of all the rest of it."""
    data = plan.to_json()
    del data["digest"]
    return digest(data)
