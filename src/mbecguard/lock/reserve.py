# SPDX-License-Identifier: GPL-2.0-or-later
"""The step that makes room for BPF programs, where they go on being compiled after the seal."""

from __future__ import annotations

from collections.abc import Iterator

from mbecguard.lock.check import refuse
from mbecguard.lock.context import Context
from mbecguard.lock.room import WITHOUT, Room
from mbecguard.lock.steps import set_knob
from mbecguard.plan.findings import finding
from mbecguard.plan.policy import CodeKind
from mbecguard.records.record import Step
from mbecguard.values.findings import Finding
from mbecguard.values.pages import PageSet

LIMIT = "net.core.bpf_jit_limit"  #: bytes; only who has CAP_BPF may have more compiled (bpf_jit_charge_modmem())


def reserve(lock: Context) -> None:
    """Make room before the first map is sent: it stays executable like any pack."""
    if lock.mode == "audit" or not lock.planned_by.keeps(CodeKind.BPF):
        return
    lock.room.dispatch()
    if not lock.packs or not lock.compiles:
        return
    before = lock.knobs.get(LIMIT)
    if before is not None:
        lock.switched[LIMIT] = before
    lock.begin(Step.RESERVE)
    lock.undo.add("room for BPF programs", lock.room.give_back)
    used = PageSet(k.pages for k in lock.plan.keep if k.kind is CodeKind.BPF)
    allowed = lock.room.make(lock.packs, used)
    if allowed and before is None:
        refuse(f"any user could fill the room for BPF programs: there is no {LIMIT}", WITHOUT)
    if before is not None and 0 < allowed < int(before):
        set_knob(lock, LIMIT, str(allowed), before)


def findings(compiles: bool, packs: int, room: Room) -> Iterator[Finding]:
    """What a person must know of it before it is done."""
    if not compiles:
        return
    if not packs:
        yield finding("bpf-unreserved")
    elif room.obstacle:
        yield finding("bpf-no-room", problem=room.obstacle, advice=WITHOUT)
    else:
        yield finding("bpf-reserved", packs=packs)
