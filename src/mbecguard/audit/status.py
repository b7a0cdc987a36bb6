# SPDX-License-Identifier: GPL-2.0-or-later
"""In which state a guest is: the host's own answer first, then what the agent remembers of this boot."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mbecguard.audit.record import Journal, Record, State, Step, is_proof
from mbecguard.audit.store import Store
from mbecguard.errors import UserError
from mbecguard.host.base import Host, HostMode, HostRefusedError, HostStatus, Outcome, Permission
from mbecguard.pages import PAGE_SHIFT, PageSet
from mbecguard.plan.findings import UNEXPLAINED, Finding
from mbecguard.plan.planner import KeepRange, Plan

SCHEMA = "mbecguard.status/1"
UNPROVEN = "the host is sealed, but nobody here saw a proof"
_UNANSWERED = HostStatus(HostMode.UNKNOWN, Permission(0), generation=0, restricted=False, sealed=False)


@dataclass(frozen=True, slots=True)
class Status:
    """The state, why it is not better, and the record that it rests on."""

    state: State
    reasons: tuple[str, ...]
    host: str
    simulated: bool
    mode: HostMode
    generation: int
    record: Record | None
    interrupted: Step | None
    schema: str = SCHEMA


def open_without_host(*reasons: str) -> Status:
    """Of a guest that has no host to ask, and was never locked."""
    return Status(State.OPEN, reasons, "none", False, HostMode.UNKNOWN, 0, None, None)


def status(host: Host, store: Store, boot_id: str) -> Status:
    """Ask the host and the store. Changes nothing; a host that does not answer makes a degraded or an open state."""
    record, journal = store.last(boot_id), store.journal(boot_id)
    try:
        answer = observe(host, sealed=bool(_sealed(record) or (journal and journal.step is Step.RECORD)))
        state, reasons = _judge(answer, host, record, journal)
    except (HostRefusedError, UserError) as error:
        answer, reasons = _UNANSWERED, (str(error),)
        state = State.DEGRADED if record or journal else State.OPEN
    if journal:
        unfinished = f"an attempt stopped at step {journal.step}; run `mbecguard lock` to complete or repeat it"
        reasons = (*reasons, unfinished)
    return Status(
        state=state,
        reasons=reasons,
        host=host.name,
        simulated=host.simulated,
        mode=answer.mode,
        generation=answer.generation,
        record=record,
        interrupted=journal.step if journal else None,
    )


def observe(host: Host, *, sealed: bool) -> HostStatus:
    """The host's answer to the query; a Heki v2 host has none, so its canary and our memory (`sealed`) answer."""
    answer = host.query()
    if answer.mode is not HostMode.UNKNOWN:
        return answer
    denied = host.run_canary() is Outcome.DENIED
    return replace(answer, restricted=denied, sealed=denied and sealed)


Verdict = tuple[State, tuple[str, ...]]


def _judge(answer: HostStatus, host: Host, record: Record | None, journal: Journal | None) -> Verdict:
    proof = journal is not None and is_proof(journal.evidence)
    if answer.sealed:
        return _judge_sealed(answer, host, record, proof)
    if _sealed(record):
        lost = "seal" if answer.restricted else "map"
        return State.DEGRADED, (f"the host lost the {lost}: the guest was reset, or moved without it",)
    if not answer.restricted:
        return _judge_unrestricted(record)
    if record and not journal:
        return record.state, record.reasons
    return (State.PROVEN if proof else State.APPLIED), ("the map can still be undone",)


def _sealed(record: Record | None) -> Record | None:
    return record if record and record.state is State.SEALED else None


def _judge_unrestricted(record: Record | None) -> Verdict:
    if record is None:
        return State.OPEN, ()
    if record.state is State.DEGRADED:
        return State.DEGRADED, record.reasons
    return State.OPEN, ("the map that was applied is gone: a later attempt undid it, or the host lost it",)


def _judge_sealed(answer: HostStatus, host: Host, record: Record | None, proof: bool) -> Verdict:
    sealed = _sealed(record)
    if not sealed and not proof:
        return State.DEGRADED, record.reasons if record and record.state is State.DEGRADED else (UNPROVEN,)
    if answer.mode not in (HostMode.ENFORCE, HostMode.UNKNOWN):
        return State.DEGRADED, (f"the host's mode is {answer.mode.value} now: denied fetches are not stopped",)
    if not host.pinned():
        return State.DEGRADED, ("CR4.SMEP can be cleared",)
    if sealed and answer.generation != sealed.generation:
        return State.DEGRADED, ("the host's map is not the recorded one: the guest was moved; lock it again",)
    return State.SEALED, sealed.reasons if sealed else ("the seal is proven, but not recorded yet",)


@dataclass(frozen=True, slots=True)
class Drift:
    """How a guest differs from its sealed plan. An audit fails for what is new or unexplained."""

    new: tuple[KeepRange, ...]  #: code now, unknown to the seal: it faults when it runs
    stale: tuple[KeepRange, ...]  #: kept by the seal, but no code any more
    unexplained: tuple[Finding, ...] = ()  #: executable now, and nobody knows why

    @property
    def ok(self) -> bool:
        """Whether every executable page is one that the seal knows."""
        return not (self.new or self.unexplained)


def drift(sealed: Plan, now: Plan) -> Drift:
    """Compare two plans of one policy."""
    return Drift(
        new=_only_in(now, sealed),
        stale=_only_in(sealed, now),
        unexplained=tuple(f for f in now.findings if f.id in UNEXPLAINED and f not in sealed.findings),
    )


def _only_in(one: Plan, other: Plan) -> tuple[KeepRange, ...]:
    known = PageSet(k.pages for k in other.keep)
    return tuple(
        replace(k, start=gap.start, end=gap.end, va=k.va + (gap.start - k.start << PAGE_SHIFT))
        for k in one.keep
        for gap in known.gaps(k.pages)
    )
