# SPDX-License-Identifier: GPL-2.0-or-later
"""The steps that a fresh lock and a rerun of a seal have in common."""

from __future__ import annotations

from mbecguard.host.wire import map_digest
from mbecguard.lock.context import Context
from mbecguard.lock.proof import DegradedError
from mbecguard.lock.request import request
from mbecguard.plan.findings import REMAINING
from mbecguard.plan.policy import Level
from mbecguard.records.reasons import Reason, reason
from mbecguard.records.record import Probe, Record, State, Step
from mbecguard.records.status import other_map
from mbecguard.switches import SWITCHES, Switch
from mbecguard.values.clock import now
from mbecguard.values.errors import Exit, UserError
from mbecguard.values.events import Event


def hold(lock: Context) -> None:
    """Have the shim refuse text of new modules."""
    lock.begin(Step.HOLD)
    lock.undo.do("module hold", lambda: lock.host.hold_modules(True), lambda: lock.host.hold_modules(False))


def freeze(lock: Context) -> None:
    """Set the switches that can be taken back, as decided for by the newest survey."""
    changes = [(switch, before) for switch, before in _changes(lock) if not switch.one_way]
    lock.switched |= {switch.knob: before for switch, before in changes}
    lock.begin(Step.FREEZE)
    for switch, before in changes:
        set_knob(lock, switch.knob, switch.value, before)


def set_knob(lock: Context, knob: str, value: str, before: str) -> None:
    """Set a switch whose value before has been noted."""

    def thaw() -> None:
        lock.knobs.put(knob, before)
        del lock.switched[knob]

    lock.undo.do(knob, lambda: lock.knobs.put(knob, value), thaw)


def freeze_for_good(lock: Context) -> list[Reason]:
    """Set the switches that nobody can take back, now that the seal holds; returns why some are not set."""
    lock.begin(Step.ONE_WAY)
    refused = []
    for switch, _ in _changes(lock):
        if switch.one_way:
            try:
                lock.knobs.put(switch.knob, switch.value)
            except UserError as error:
                refused.append(reason("switch-refused", knob=switch.knob, problem=error.message))
    return refused


def _changes(lock: Context) -> list[tuple[Switch, str]]:
    """The switches that are to be set and are not, with their values now; a kernel may lack some."""
    wanted = [decision.switch for decision in lock.decisions if decision.on]
    values = [(switch, lock.knobs.get(switch.knob)) for switch in wanted]
    return [(switch, value) for switch, value in values if value is not None and value != switch.value]


def pin(lock: Context) -> None:
    """Have the host pin the control registers, and try whether it did."""
    lock.begin(Step.PIN)
    lock.pins = lock.host.pin()
    if not lock.host.pinned():
        raise DegradedError(reason("pins-refused"), Exit.NOT_ENFORCED)


def prove_seal(lock: Context) -> None:
    """Try what an attacker would try on a guest that the host called sealed."""
    lock.prober.try_unlock()
    lock.sealed = lock.sealed or not lock.prober.unlocked
    lock.prober.run_canary(Probe.CANARY_SEALED)
    lock.prober.run_neighbours(lock.plan)
    try:
        lock.note()
    finally:  # a full disk must not hide what was seen
        lock.prober.believe()
    if differs := other_map(lock.host.details(), sealed_map(lock)):
        raise DegradedError(differs, Exit.NOT_ENFORCED)
    lock.untold = True


def sealed_map(lock: Context) -> str:
    """The digest of the map that the plan's seal makes, whatever the host says."""
    return map_digest(request(lock.plan, lock.host.canary_pfn, immutable=True))


def tell_seal(lock: Context, record: str = "") -> None:
    """Announce a proven seal once, with what a journal elsewhere can witness it by: the digest of its record."""
    if lock.untold:
        pages = str(lock.plan.totals.keep_pages)
        lock.say(Event.SEALED, pages=pages, record=record or "none", plan=lock.plan.digest)
        lock.untold = False


def finish(lock: Context, state: State, *reasons: Reason) -> Record:
    """Keep the outcome; nothing is left to do."""
    lock.begin(Step.RECORD)
    record = make_record(lock, state, reasons)
    tell_seal(lock, lock.store.append(record, lock.plan).digest)
    lock.store.note(None)
    return record


def make_record(lock: Context, state: State, reasons: tuple[Reason, ...]) -> Record:
    """The record of this attempt, as things are now."""
    answer = lock.host.query()
    return Record(
        time=now(),
        identity=lock.identity._replace(
            release=lock.plan.kernel.release,
            build_id=lock.plan.kernel.build_id or None,
            host_abi=answer.abi,
        ),
        host=lock.host.name,
        simulated=lock.host.simulated,
        mode=lock.mode,
        state=state,
        reasons=reasons,
        evidence=lock.prober.found,
        frozen=tuple(s.knob for s in SWITCHES if lock.knobs.get(s.knob) == s.value),
        pinned=lock.host.pinned(),
        pins=lock.pins,
        map_digest=sealed_map(lock) if lock.sealed else "",
        text_digest=lock.text_digest,
        level=lock.planned_by.level if lock.text_digest else Level.EXEC,
        generation=answer.generation,
        plan_digest=lock.plan.digest,
        totals=lock.plan.totals,
        policy=lock.planned_by,
    )


def remaining(lock: Context) -> list[Reason]:
    """What stays open in a sealed guest: switches that `auto` left, and findings of the plan that stay true."""
    open_ = (d for d in lock.decisions if lock.knobs.get(d.switch.knob) != d.switch.value)
    left = [reason(f.id, **f.facts) for f in lock.plan.findings if f.id in REMAINING]
    left += [reason("bpf-unreserved")] * (lock.compiles and not lock.packs)
    return [*(d.remark for d in open_ if d.remark), *left]
