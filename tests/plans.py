# SPDX-License-Identifier: GPL-2.0-or-later
"""Small plans made by hand, so that a lock can be tried without any guest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from mbecguard.audit.claims import Grounds, Knob
from mbecguard.audit.compare import Comparison
from mbecguard.audit.conclude import conclude
from mbecguard.audit.locked import locked
from mbecguard.audit.value import Audit
from mbecguard.host.base import HostMode, Outcome
from mbecguard.plan.findings import finding
from mbecguard.plan.policy import CodeKind, Policy
from mbecguard.plan.value import KeepRange, Plan, PlanKernel, Totals
from mbecguard.records.chain import ORIGIN, Entry
from mbecguard.records.damage import DamagedError
from mbecguard.records.identity import Identity
from mbecguard.records.reasons import reason
from mbecguard.records.record import EXPECTED, Evidence, Probe, Record, State
from mbecguard.records.status import Status
from mbecguard.records.store import Store
from mbecguard.switches import SWITCHES
from mbecguard.text.look import TextLook
from mbecguard.values.codec import digest
from mbecguard.values.facts import Known
from mbecguard.values.findings import Finding
from mbecguard.values.pages import PageRange

PFNS = 64  #: page frames of the guest-physical space
CANARY = 42  #: lies inside a kept range, as in a guest whose modules share 2 MiB blocks
TEXT_VA = 0xFFFFFFFF81000000
SPANS = ((2, 3), (8, 12), (20, 21), (40, 44))
FREE = (60, 62)  #: free space, which the seal drops
BLOCKER = finding("module-busy", module="nft", state="Loading")  #: can go away by itself
LASTING = finding("module-build-id", module="xfs", image="ab", running="cd")

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
    content = plan.to_json()
    del content["digest"]
    return plan._replace(digest=digest(content))


def with_free_space(plan: Plan) -> Plan:
    """What is applied before the seal of `plan`: the frames of FREE stay executable as well."""
    spans = (*((k.start, k.end) for k in plan.keep), FREE)
    return make_plan(spans, plan.max_pfn, plan.findings)


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
        identity=Identity(boot_id, "ab" * 16, "guest", release="6.12.0-test", agent="0.0"),
        host="simulator",
        simulated=True,
        mode="enforce",
        state=state,
        reasons=(),
        evidence=make_evidence(),
        frozen=("kernel.modules_disabled",),
        pinned=True,
        generation=1,
        plan_digest=PLAN.digest,
        totals=PLAN.totals,
        policy=Policy(),
    )
    return record._replace(**changes)


PLAN = make_plan()  #: the one that these records name


def keep(store: Store, record: Record) -> Entry:
    """Have a record in the history."""
    return store.append(record, PLAN)


def kept(store: Store) -> list[Record]:
    """All records of a history that can be believed, oldest first."""
    found = [entry for _, entry in store.history.chain.walk(store.history.head())]
    return [entry.record for entry in reversed(found) if not isinstance(entry, DamagedError)]


def make_audit(**changes: Any) -> Audit:
    """A clean audit of a guest that is sealed on the simulator."""
    record = make_record()
    knobs = tuple(Knob(switch, "auto", switch.value) for switch in SWITCHES)
    grounds = Grounds(make_status(), record, CLEAN, knobs, text=Known(TEXT))
    entry = Entry(1, ORIGIN, record, "ab" * 32)
    return replace(conclude(grounds, record.identity, entry, locked(PLAN, {})), **changes)


def make_status(state: State = State.SEALED, **changes: Any) -> Status:
    """What a simulated host answers of a sealed guest."""
    status = Status(state, (), "simulator", True, HostMode.ENFORCE, 1, record=None, interrupted=None)
    return status._replace(**changes)


TEXT = TextLook(bytes=1 << 24, sites=170000, modules=99, spots=(), changed=0, untold=0, problems=())
CLEAN = Comparison((), (), (), writable=0, reasons=(reason("audit-clean"),))
