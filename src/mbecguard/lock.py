# SPDX-License-Identifier: GPL-2.0-or-later
"""The transaction: the one place that changes anything.

    check -> hold -> survey -> apply (mutable) -> survey again -> prove -> freeze -> pin -> seal -> record

Whatever fails before the seal is undone, in reverse. After the seal nothing can be undone until the VM is reset; a
rerun then completes what is missing, because the host answers an equal request on immutable pages with success.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import NoReturn

from mbecguard import __version__
from mbecguard.audit.record import Journal, Probe, Record, State, Step, now
from mbecguard.audit.status import UNPROVEN, drift, observe
from mbecguard.audit.store import Store
from mbecguard.errors import Exit, UserError, die
from mbecguard.events import Event, Tell
from mbecguard.freeze import Decision, Knobs, Switch, findings
from mbecguard.host.base import Host, HostMode, HostRefusedError, Permission, Protection
from mbecguard.pages import PageRange, PageSet
from mbecguard.plan.findings import Severity
from mbecguard.plan.planner import Plan
from mbecguard.plan.policy import Policy
from mbecguard.proof import DENIED, KEPT, DegradedError, Prober, frames_to_try
from mbecguard.undo import UndoStack

ATTEMPTS = 5  #: udev loads modules for seconds after multi-user.target
SETTLE_SECONDS = 2.0
NOT_LOCKED = "not locked: "  #: how the message of a lock begins that left the guest open
PART = 4096  #: ranges; one request takes 5408


def request(plan: Plan, canary_pfn: int | None, *, immutable: bool) -> list[Protection]:
    """The whole lock as one request: deny everything, then allow what is kept, but never the canary."""
    extra = Permission.IMMUTABLE if immutable else Permission(0)
    canary = PageSet([PageRange(canary_pfn, canary_pfn + 1)] if canary_pfn is not None else ())
    kept = PageSet(k.pages for k in plan.keep) - canary
    everything = Protection(PageRange(0, plan.max_pfn), DENIED | extra)
    return [everything, *(Protection(pages, KEPT | extra) for pages in kept)]


def equal_request(plan: Plan, canary_pfn: int | None) -> list[Protection]:
    """The sealed map, tile by tile: a host compares every entry with what is immutable, so none may deny it first."""
    everything, *kept = request(plan, canary_pfn, immutable=True)
    gaps = PageSet(p.pages for p in kept).gaps(everything.pages)
    return [*(Protection(gap, everything.permissions) for gap in gaps), *kept]


def mode_misfit(host: HostMode, asked: str) -> tuple[str, str] | None:
    """Why a host in that mode cannot do what is asked (enforce, audit), and what to do; None if it can."""
    if host is HostMode.OFF:
        return "the host has its protection switched off", "ask its administrator for kvm.mbecguard=enforce"
    fitting = "audit" if host is HostMode.AUDIT else "enforce"
    return (
        None if asked == fitting else (f"the host's mode is {host.value}, asked was {asked}", f"use --mode {fitting}")
    )


@dataclass(slots=True)
class Transaction:
    """One attempt to lock a guest.

    `look` surveys the guest and plans by a policy; it is called before and after the map is applied. `reach` is called
    when a step begins, and does nothing; tests use it as a fault point.
    """

    host: Host
    look: Callable[[Policy], Plan]
    store: Store
    boot_id: str
    decisions: tuple[Decision, ...]
    knobs: Knobs
    policy: Policy  #: of a guest that is sealed already: the one it was sealed by
    mode: str
    tell: Tell
    reach: Callable[[Step], None] = lambda _step: None
    sleep: Callable[[float], None] = time.sleep
    _plan: Plan | None = field(default=None, init=False)
    _step: Step | None = field(default=None, init=False)  # None: nothing is begun, the journal is not ours
    _sealed: bool = field(default=False, init=False)
    _prober: Prober = field(init=False)
    _undo: UndoStack = field(init=False)
    _switched: dict[str, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._prober = Prober(self.host)
        self._undo = UndoStack(lambda what, reason: self._say(Event.ROLLBACK_FAILED, what=what, reason=reason))

    @property
    def plan(self) -> Plan:
        """The plan of the newest survey; of a sealed guest, the one it was sealed by."""
        assert self._plan is not None
        return self._plan

    @property
    def undone(self) -> bool:
        """Whether a run that failed left the guest as it was, but for one-way switches."""
        return not self._sealed and not self._undo.stuck

    def run(self) -> Record:
        """Lock, or complete an interrupted lock. Dies with the right exit status if that fails."""
        with self.store.exclusive():
            try:
                return self._run()
            except HostRefusedError as error:
                status = Exit.ERROR if self._is_sealed() else Exit.REFUSED
                self._end(UserError(f"the host refused: {error}", status=status))
            except UserError as error:
                self._end(error)
            except BaseException as error:
                self._roll_back(repr(error))
                self._forget()
                raise

    def _run(self) -> Record:
        self._say(Event.LOCK_STARTED, host=self.host.name)
        earlier, last = self.store.journal(self.boot_id), self.store.last(self.boot_id)
        reasons: tuple[str, ...] = ()
        if self._check(earlier, last):
            reasons = self._recall(earlier if earlier and earlier.plan else last)
            self._hold()
        else:
            self._settle()
            if self.mode == "audit":
                self.host.hold_modules(False)
                return self._finish(State.APPLIED, "audit mode: denied fetches are logged, not stopped")
            self._prove()
        self._freeze()
        self._pin()
        self._seal()
        return self._finish(State.SEALED, *reasons, *self._left_open)

    def _begin(self, step: Step) -> None:
        self._step = step
        self._note()
        self._say(Event.STEP, step=step)
        self.reach(step)

    def _note(self) -> None:
        assert self._step is not None
        plan = self.plan if self._sealed or self._step in (Step.SEAL, Step.RECORD) else None
        self.store.note(Journal(self.boot_id, self._step, self._prober.found, self._switched, plan, self.policy))

    def _say(self, event: Event, **facts: str) -> None:
        # Neither a closed terminal nor a dead journal may decide over the lock, least of all in a rollback.
        with suppress(OSError):
            self.tell(event, facts)

    def _check(self, earlier: Journal | None, last: Record | None) -> bool:
        """Whether the guest is sealed already; dies on whatever would stop a lock, and undoes a half-done one."""
        remembered = (earlier and earlier.plan) or (last and last.state is State.SEALED)
        status = observe(self.host, sealed=bool(remembered))
        self._refuse_unfit_host(status.mode)
        if earlier:
            self._say(Event.INTERRUPTED, step=earlier.step)
        self._sealed = status.sealed
        if not self._sealed:
            self._switched = earlier.switched if earlier else {}
            self._begin(Step.CHECK)
            self._recover(status.restricted, held=earlier is not None)
            self._survey()
        return self._sealed

    def _refuse_unfit_host(self, mode: HostMode) -> None:
        if self.mode == "off":
            _refuse("it is switched off (lock.mode)", "`mbecguard config --show` tells where")
        if misfit := mode_misfit(mode, self.mode):
            _refuse(*misfit)
        if self.host.canary_pfn is None:
            _refuse("this host brings no canary page, so nothing could be proven", "load the mbecguard shim")

    def _recover(self, restricted: bool, held: bool) -> None:
        if held:
            self._undo.add("module hold", self._release_modules)
        if restricted:
            self._undo.add("map", self._open)
        for knob, before in self._switched.items():
            self._undo.add(knob, partial(self.knobs.put, knob, before))
        self._undo.undo_all()
        if self._undo.stuck:
            _refuse("an earlier attempt could not be undone", "reset the guest")
        self._switched = {}

    def _recall(self, known: Journal | Record | None) -> tuple[str, ...]:
        """Take up plan and evidence of the seal; returns what a person should know about it."""
        if known:
            self.policy = known.policy
        self._plan = now = self.look(self.policy)
        if known is None or known.plan is None or not known.evidence:
            raise DegradedError(UNPROVEN, "reset the guest and lock it", Exit.NOT_ENFORCED)
        self._plan = known.plan
        self._prober.evidence = {e.probe: e for e in known.evidence}
        found = drift(self.plan, now)
        if found.new:
            unknown = f"the host is sealed by another plan: {len(found.new)} executable ranges are unknown to it"
            raise DegradedError(unknown, "only a reset of the guest undoes a seal", Exit.REFUSED)
        return (f"the seal keeps {len(found.stale)} ranges that the plan of today would deny",) if found.stale else ()

    def _survey(self) -> None:
        self._plan = plan = self.look(self.policy)
        found = (*plan.findings, *findings(self.decisions, self.knobs))
        if blockers := [f for f in found if f.severity is Severity.BLOCKER]:
            texts = "; ".join(f.text for f in blockers[:3])
            _refuse(f"{len(blockers)} blockers: {texts}", "`mbecguard check` lists them all")
        if plan.max_pfn != self.host.max_pfn:
            _refuse(
                f"the plan covers {plan.max_pfn:#x} page frames, the host has {self.host.max_pfn:#x}",
                "pages beyond the plan would stay executable; check the guest's CPU model",
            )
        if not frames_to_try(plan, self.host.canary_pfn or 0):
            _refuse("the plan keeps no code at all", "no kernel survives that; record the guest again")

    def _hold(self) -> None:
        self._begin(Step.HOLD)
        self._undo.do("module hold", lambda: self.host.hold_modules(True), self._release_modules)

    def _settle(self) -> None:
        """Apply the map between two surveys that agree; a guest that keeps changing is not locked."""
        self._hold()
        if not self._prober.run_canary(Probe.CANARY_BEFORE):
            _refuse("the canary page does not run before the lock", "the shim is broken, or the host denies it")
        for attempt in range(1, ATTEMPTS + 1):
            if attempt > 1:
                self._say(Event.RETRY, attempt=str(attempt))
                self._undo.undo_last()
                self.sleep(SETTLE_SECONDS)
            if self._apply():
                return
        _refuse(f"the guest's code kept changing over {ATTEMPTS} surveys", "lock later, when modules have settled")

    def _apply(self) -> bool:
        self._begin(Step.SURVEY)
        self._survey()
        before = self.plan
        self._begin(Step.APPLY)
        wanted = request(before, self.host.canary_pfn, immutable=False)
        self._undo.do("map", lambda: self.host.protect(wanted), self._open)
        self._say(Event.APPLIED, ranges=str(len(wanted)))
        self._begin(Step.RESURVEY)
        self._survey()
        return self.plan.keep == before.keep

    def _prove(self) -> None:
        self._begin(Step.PROVE)
        self._prober.run_canary(Probe.CANARY_AFTER)
        self._prober.run_neighbours(self.plan)
        self._note()
        self._prober.believe()
        self._say(Event.PROVEN, evidence=f"{len(self._prober.found)} probes, all as expected")

    @property
    def _switches(self) -> list[Switch]:
        return [decision.switch for decision in self.decisions if decision.on]

    @property
    def _left_open(self) -> list[str]:
        open_ = (d for d in self.decisions if self.knobs.get(d.switch.knob) != d.switch.value)
        return [d.remark for d in open_ if d.remark]

    def _freeze(self) -> None:
        values = [(switch, self.knobs.get(switch.knob)) for switch in self._switches]
        changes = [(switch, before) for switch, before in values if before is not None and before != switch.value]
        self._switched = {switch.knob: before for switch, before in changes if not switch.one_way}
        self._begin(Step.FREEZE)
        for switch, before in changes:
            self._set(switch, before)

    def _set(self, switch: Switch, before: str) -> None:
        def take_back() -> None:
            if not switch.one_way:
                self.knobs.put(switch.knob, before)
            elif self.knobs.get(switch.knob) != before:
                self._say(Event.ROLLBACK_FAILED, what=switch.knob, reason="one-way until the next boot")

        self._undo.do(switch.knob, lambda: self.knobs.put(switch.knob, switch.value), take_back)

    def _pin(self) -> None:
        self._begin(Step.PIN)
        self.host.pin()
        if not self.host.pinned():
            raise DegradedError("CR4.SMEP can still be cleared after the pin", status=Exit.NOT_ENFORCED)

    def _seal(self) -> None:
        self._begin(Step.SEAL)
        canary = self.host.canary_pfn
        try:
            if self._sealed:
                self._repeat(equal_request(self.plan, canary))
            else:
                self.host.protect(request(self.plan, canary, immutable=True))
        except HostRefusedError as error:
            if self._is_sealed():
                raise DegradedError(f"the host is sealed by another plan: {error}", status=Exit.REFUSED) from error
            raise
        self._prober.try_unlock()
        self._sealed = self._sealed or not self._prober.unlocked
        self._prober.run_canary(Probe.CANARY_SEALED)
        self._prober.run_neighbours(self.plan)
        try:
            self._note()
        finally:  # a full disk must not hide what was seen
            self._prober.believe()
        self._say(Event.SEALED, pages=str(self.plan.totals.keep_pages))

    def _repeat(self, equal: list[Protection]) -> None:
        """In parts: the tiles of a sealed map are twice as many as the ranges that made it, and change nothing."""
        for start in range(0, len(equal), PART):
            self.host.protect(equal[start : start + PART])

    def _is_sealed(self) -> bool:
        if not self._sealed and not self._prober.unlocked:
            with suppress(UserError, HostRefusedError):
                self._sealed = self.host.query().sealed
        return self._sealed

    def _finish(self, state: State, *reasons: str) -> Record:
        self._begin(Step.RECORD)
        record = self._record(state, reasons)
        self.store.append(record)
        self.store.note(None)
        return record

    def _record(self, state: State, reasons: tuple[str, ...]) -> Record:
        return Record(
            time=now(),
            boot_id=self.boot_id,
            agent=__version__,
            host=self.host.name,
            simulated=self.host.simulated,
            mode=self.mode,
            state=state,
            reasons=reasons,
            evidence=self._prober.found,
            frozen=tuple(s.knob for s in self._switches if self.knobs.get(s.knob) == s.value),
            pinned=self.host.pinned(),
            generation=self.host.query().generation,
            plan=self.plan,
            policy=self.policy,
        )

    def _open(self) -> None:
        try:
            self.host.protect([Protection(PageRange(0, self.host.max_pfn), KEPT)])
        except HostRefusedError:
            answer = self.host.query()
            if answer.restricted or answer.mode is HostMode.UNKNOWN:
                raise  # else a host that refuses everything has taken nothing either

    def _release_modules(self) -> None:
        self.host.hold_modules(False)

    def _roll_back(self, reason: str) -> None:
        if self._is_sealed():
            return
        if self._undo:
            self._say(Event.ROLLED_BACK, step=str(self._step), reason=reason)
        self._undo.undo_all()

    def _forget(self) -> None:
        """Remove the journal, unless a rerun has something to complete or to undo."""
        if self._step and not self._sealed and not self._undo.stuck:
            with suppress(UserError):
                self.store.note(None)

    def _end(self, error: UserError) -> NoReturn:
        """Undo what can be undone, keep a record of a degraded guest, and die with what is true now."""
        self._roll_back(error.message)
        if isinstance(error, DegradedError):
            self._degrade(error)
        else:
            self._forget()
        if error.status is Exit.REFUSED:
            self._say(Event.REFUSED, reason=error.message)
        now = "the guest is sealed, but: " if self._sealed else NOT_LOCKED
        left = f"; could not be undone: {', '.join(sorted(self._undo.stuck))}" if self._undo.stuck else ""
        die(f"{now}{error.message}{left}", self._advice(error), error.status)

    def _advice(self, error: UserError) -> str:
        if not self._sealed:
            return error.hint or "nothing is protected"
        again = "`mbecguard lock` again completes it"
        if isinstance(error, DegradedError):
            return error.hint or again
        return f"{error.hint}; then {again}" if error.hint else again

    def _degrade(self, error: DegradedError) -> None:
        event = Event.NOT_ENFORCED if error.status is Exit.NOT_ENFORCED else Event.DEGRADED
        self._say(event, reason=error.message)
        # Where no record can be made the journal stays, and with it the evidence.
        with suppress(UserError, HostRefusedError):
            self.store.append(self._record(State.DEGRADED, (error.message,)))
            if not self._undo.stuck:
                self.store.note(None)


def _refuse(reason: str, hint: str) -> NoReturn:
    die(reason, hint, Exit.REFUSED)
