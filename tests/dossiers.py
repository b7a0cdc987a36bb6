# SPDX-License-Identifier: GPL-2.0-or-later
"""What is known of made-up guests' locks: the moods of a report, by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mbecguard.audit.locked import locked
from mbecguard.audit.report import Audited, Dossier, Report
from mbecguard.audit.value import Audit, Changed, Code, Result, Verdict
from mbecguard.plan.policy import CodeKind
from mbecguard.plan.value import Plan
from mbecguard.records.reasons import reason
from mbecguard.records.record import State
from tests.plans import PLAN, TEXT_VA, make_audit, make_plan, make_record

CODE = Code(0x32, 0x34, 0x32000, TEXT_VA, 2, CodeKind.BPF, "bpf", ".x", "a+0x1", writable=False, denied=True)
STRANGE = replace(CODE, kind=None, owner="", section="", symbol="", writable=True)
CHANGED = Changed("kernel", TEXT_VA + 0x40, "__x64_sys_kill+0x0", "", "f30f1efa", "e9fbffff")
NASTY = "<script>alert(1)</script>\"'&\x1b[31m\n\x00\u202e\udc80\ufffd{{ 7 * 7 }}`x`"
REPORT = Report(this_boot=True, digest="ab" * 32, record=make_record(), plan=PLAN)
HISTORY = (Audited("2026-01-02T03:04:05+00:00", Verdict.PASS, "cd" * 32, "boot", 0),)


def whole(audit: Audit | None = None, plan: Plan | None = PLAN) -> Dossier:
    """With the audit, and the plan, that are given."""
    return Dossier(replace(REPORT, plan=plan), audit, HISTORY)


def drifted(count: int = 3) -> Audit:
    """An audit that found code of all kinds that the seal does not know."""
    bad = {"no-unknown-code", "no-writable-code"}
    audit = make_audit(new=(CODE,) * 2, unexplained=(STRANGE,) * count, stale=(CODE,), verdict=Verdict.FAIL, ok=False)
    audit = replace(audit, changed=(CHANGED, replace(CHANGED, owner="xfs", site="static call")))
    claims = tuple(
        replace(one, result=Result.FAIL, running=False, action="`mbecguard explain ADDRESS` of each")
        if one.id in bad
        else one
        for one in audit.claims
    )
    return replace(audit, claims=claims, reasons=(reason("audit-new", ranges=2), reason("audit-writable", pages=3)))


def nasty() -> Dossier:
    """Every name that a guest can choose is the worst that we know."""
    code = replace(CODE, owner=NASTY, section=NASTY, symbol=NASTY)
    plan = PLAN._replace(keep=tuple(kept._replace(owner=NASTY, section=NASTY) for kept in PLAN.keep))
    record = make_record(host=NASTY, frozen=(NASTY,), pins=(NASTY,))
    audit = make_audit(new=(code,), unexplained=(code,), stale=(code,), verdict=Verdict.FAIL)
    audit = replace(audit, changed=(replace(CHANGED, owner=NASTY, symbol=NASTY),))
    assert audit.locked
    changes: dict[str, Any] = {
        "reasons": tuple(why._replace(text=NASTY, hint=NASTY) for why in audit.reasons),
        "claims": tuple(replace(one, evidence=NASTY, action=NASTY, result=Result.FAIL) for one in audit.claims),
        "subject": audit.subject._replace(hostname=NASTY, machine_id=NASTY, vm_uuid=NASTY, release=NASTY, shim=NASTY),
        "locked": replace(
            audit.locked, owners=tuple(replace(one, owner=NASTY, build_id=NASTY) for one in audit.locked.owners)
        ),
    }
    history = (replace(HISTORY[0], boot_id=NASTY),)
    return Dossier(Report(True, NASTY, record, plan), replace(audit, **changes), history)


def large(apart: int, modules: int = 300) -> Dossier:
    """A guest of many modules, each with as many ranges as those of the corpus, so many pages from each other."""
    spans = [(0x1000 + apart * number, 0x1000 + apart * number + 9) for number in range(modules * 8)]
    plan = make_plan(spans, max_pfn=1 << 34)
    plan = plan._replace(
        keep=tuple(kept._replace(owner=f"module_{number // 8}") for number, kept in enumerate(plan.keep))
    )
    ids = {f"module_{number}": f"{number:040x}" for number in range(modules)}
    return whole(make_audit(locked=locked(plan, ids)), plan)


DOSSIERS: dict[str, Dossier] = {
    "clean": whole(make_audit()),
    "drift": whole(drifted()),
    "error": whole(make_audit(verdict=Verdict.ERROR, locked=None)),
    "never-audited": whole(),
    "no-plan": whole(plan=None),
    "open": Dossier(None, make_audit(verdict=Verdict.NOT_APPLICABLE, locked=None, sealed="", state=State.OPEN), ()),
    "another-boot": replace(whole(make_audit()), report=replace(REPORT, this_boot=False)),
    "nasty": nasty(),
    "large": large(apart=16),  # in twice as many regions as a guest of the corpus
    "scattered": large(apart=200),
}
