# SPDX-License-Identifier: GPL-2.0-or-later
"""Small plans made by hand, so that a lock can be tried without any guest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from mbecguard.audit.record import EXPECTED, Evidence, Probe, Record, State
from mbecguard.host.base import Outcome
from mbecguard.pages import PageRange
from mbecguard.plan.findings import Finding, finding
from mbecguard.plan.planner import KeepRange, Plan, PlanKernel, Totals
from mbecguard.plan.policy import CodeKind, Policy
from mbecguard.serial import digest

PFNS = 64  #: page frames of the guest-physical space
CANARY = 42  #: lies inside a kept range, as in a guest whose modules share 2 MiB blocks
TEXT_VA = 0xFFFFFFFF81000000
SPANS = ((2, 3), (8, 12), (20, 21), (40, 44))
BLOCKER = finding("module-busy", module="nft", state="Loading")

_KINDS = (CodeKind.TRAMPOLINE, CodeKind.KERNEL_TEXT, CodeKind.ITS_THUNK, CodeKind.EXECMEM)


def keep_range(start: int, end: int, kind: CodeKind = CodeKind.MODULE_TEXT) -> KeepRange:
    return KeepRange(start, end, kind, owner=f"owner{start}", section=".text", va=TEXT_VA + start * 4096)


def make_plan(
    spans: Iterable[tuple[int, int]] = SPANS, max_pfn: int = PFNS, findings: tuple[Finding, ...] = ()
) -> Plan:
    """A plan that keeps the given half-open, sorted, disjoint spans of page frames."""
    known = dict(zip(SPANS, _KINDS, strict=True))
    keep = tuple(keep_range(*span, known.get(span, CodeKind.MODULE_TEXT)) for span in spans)
    edges = [0, *(edge for k in keep for edge in (k.start, k.end)), max_pfn]
    gaps = zip(edges[::2], edges[1::2], strict=True)
    plan = Plan(
        kernel=PlanKernel("6.12.0-test", "ab" * 20, TEXT_VA, 8 * 4096),
        keep=keep,
        deny=tuple(PageRange(start, end) for start, end in gaps if start < end),
        totals=Totals(sum(len(k.pages) for k in keep), len(keep), mixed_2m=1),
        findings=findings,
    )
    return replace(plan, digest=digest(plan.to_json()))


def kept_frames(plan: Plan) -> set[int]:
    """Every kept page frame, one by one."""
    return {pfn for k in plan.keep for pfn in range(k.start, k.end)}


def make_evidence(*probes: Probe, **outcomes: Outcome) -> tuple[Evidence, ...]:
    """Evidence with the expected outcomes, but for those given by the probe's name in capitals."""
    return tuple(Evidence(p, outcomes.get(p.name, EXPECTED[p]), CANARY) for p in probes or Probe)


def make_record(state: State = State.SEALED, boot_id: str = "boot", **changes: Any) -> Record:
    """A record of a lock on the simulator."""
    record = Record(
        time="2026-01-02T03:04:05+00:00",
        boot_id=boot_id,
        agent="0.0",
        host="simulator",
        simulated=True,
        mode="enforce",
        state=state,
        reasons=(),
        evidence=make_evidence(),
        frozen=("kernel.modules_disabled",),
        pinned=True,
        generation=1,
        plan=make_plan(),
        policy=Policy(),
    )
    return replace(record, **changes)
