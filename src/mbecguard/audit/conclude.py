# SPDX-License-Identifier: GPL-2.0-or-later
"""From what was found to the value of an audit."""

from __future__ import annotations

from collections.abc import Iterator

from mbecguard.audit.claims import Grounds, claims
from mbecguard.audit.kept import Kept
from mbecguard.audit.value import Audit, Changed, Claim, Locked, Result, Verdict, Witness
from mbecguard.plan.policy import Level
from mbecguard.records.chain import Entry
from mbecguard.records.identity import Identity
from mbecguard.records.reasons import Reason, reason
from mbecguard.records.record import State
from mbecguard.records.status import Status
from mbecguard.text.look import spot_told
from mbecguard.values.clock import now
from mbecguard.values.errors import UserError
from mbecguard.values.events import Event, Tell
from mbecguard.values.facts import Known, known

#: What each level of protection leaves to others; docs/CONCEPTS.md, "What it does not stop".
_ALWAYS = (
    "code reuse (ROP, JOP): that is existing code",
    "data-only attacks: credentials, modprobe_path, page tables of user processes",
)
_MODULES = "text of a module that is unloaded after the lock: its pages stay executable"
_OTHERS = "overwriting text of modules and of BPF programs, which stays executable, through a writable alias"
_REST = "user space, the firmware's SMM, and anything before the lock"
UNCOVERED: dict[Level, tuple[str, ...]] = {
    Level.EXEC: (
        *_ALWAYS,
        "overwriting text that stays executable through a writable alias",
        _MODULES,
        "user space, DMA, the firmware's SMM, and anything before the lock",
    ),
    Level.TEXT_LOG: (
        *_ALWAYS,
        "overwriting the kernel's text through a writable alias: that is counted, and done",
        _OTHERS,
        _MODULES,
        f"DMA into other memory than the kernel's text, {_REST}",
    ),
    Level.TEXT: (
        *_ALWAYS,
        "switching what the kernel itself switches by patches: static keys, tracepoints, static calls",
        _OTHERS,
        _MODULES,
        f"DMA into other memory than the kernel's text, {_REST}",
    ),
}


def conclude(
    grounds: Grounds,
    subject: Identity,
    entry: Entry | None,
    locked: Locked | None,
    *,
    error: UserError | None = None,
    reasons: tuple[Reason, ...] = (),
) -> Audit:
    """The audit of a guest; `entry` is that of its seal, and `error` why it could not be compared."""
    status, found, judged = grounds.status, grounds.comparison, claims(grounds)
    level = entry.record.level if entry else Level.EXEC
    return Audit(
        verdict=_verdict(status, judged, error),
        ok=bool(found and found.ok),
        reasons=(*_reasons(grounds, error), *reasons),
        state=status.state,
        level=level,
        uncovered=UNCOVERED[level],
        subject=subject,
        claims=judged,
        locked=locked,
        new=found.new if found else (),
        unexplained=found.unexplained if found else (),
        stale=found.stale if found else (),
        witness=Witness(status.mode, status.generation, status.map_digest, status.denied, status.refused),
        time=now(),
        boot_id=subject.boot_id,
        sealed=entry.record.time if entry else "",
        simulated=status.simulated,
        record_digest=entry.digest if entry else "",
        plan_digest=entry.record.plan_digest if entry else "",
        changed=_changed(grounds),
    )


def _changed(grounds: Grounds) -> tuple[Changed, ...]:
    spots = grounds.text.value.spots if isinstance(grounds.text, Known) else ()
    return tuple(Changed(s.owner, s.va, s.symbol, s.site, s.wanted.hex(), s.found.hex()) for s in spots)


def _verdict(status: Status, judged: tuple[Claim, ...], error: UserError | None) -> Verdict:
    if status.state is State.DEGRADED:
        return Verdict.FAIL
    if status.state is not State.SEALED:
        return Verdict.NOT_APPLICABLE
    if error:
        return Verdict.ERROR
    return Verdict.FAIL if any(claim.result is Result.FAIL for claim in judged) else Verdict.PASS


def _reasons(grounds: Grounds, error: UserError | None) -> tuple[Reason, ...]:
    status = grounds.status
    text = tuple(_text_reasons(grounds))
    if status.state is not State.SEALED:
        return (*text, reason("audit-not-sealed", state=status.state), *status.reasons)
    if error:
        return (*text, reason("audit-impossible", problem=error.message, advice=error.hint))
    writable = grounds.comparison.writable if grounds.comparison else 0
    worse = (reason("audit-writable", pages=writable),) if writable else ()
    return (*text, *worse, *(grounds.comparison.reasons if grounds.comparison else ()))


def _text_reasons(grounds: Grounds) -> Iterator[Reason]:
    found = known(grounds.text, None)
    if found and found.spots:
        yield reason("audit-text", count=found.changed, what=spot_told(found.spots[0]))


def announce(kept: Kept, tell: Tell) -> Audit:
    """Tell how an audit ended; of a guest that is not sealed there is no news."""
    audit, facts = kept.audit, {"audit": kept.digest or "not kept"}
    if not audit.ok and audit.unknown:
        tell(Event.DRIFT, {"reason": f"{audit.unknown} executable ranges are unknown to the seal"})
    if audit.verdict is Verdict.PASS and audit.locked:
        facts |= {"pages": str(audit.locked.totals.keep_pages), "content": audit.locked.content_digest}
        tell(Event.AUDIT_PASSED, {**facts, "record": audit.record_digest})
    elif audit.verdict is not Verdict.NOT_APPLICABLE:
        failed = "; ".join(claim.id for claim in audit.claims if claim.result is Result.FAIL)
        why = audit.reasons[0].text if audit.reasons else failed
        tell(Event.AUDIT_FAILED, {**facts, "reason": why, "verdict": audit.verdict})
    return audit
