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
from datetime import UTC, datetime
from typing import NoReturn

from mbecguard import __version__
from mbecguard.audit.record import Evidence, Journal, Probe, Record, State, Step, is_proof
from mbecguard.audit.store import Store
from mbecguard.errors import Exit, UserError, die
from mbecguard.events import Event, Tell
from mbecguard.freeze import Switch, Sysctls
from mbecguard.host.base import Host, HostErrno, HostMode, HostRefusedError, Outcome, Permission, Protection
from mbecguard.pages import PageRange, PageSet
from mbecguard.plan.planner import Plan

DENIED = Permission.READ | Permission.WRITE
KEPT = DENIED | Permission.EXEC
ATTEMPTS = 5  #: udev loads modules for seconds after multi-user.target
SETTLE_SECONDS = 2.0


def request(plan: Plan, canary_pfn: int | None, *, immutable: bool) -> list[Protection]:
    """The whole lock as one request: deny everything, then allow what is kept, but never the canary."""
    extra = Permission.IMMUTABLE if immutable else Permission(0)
    canary = PageSet([PageRange(canary_pfn, canary_pfn + 1)] if canary_pfn is not None else ())
    kept = PageSet(k.pages for k in plan.keep) - canary
    everything = Protection(PageRange(0, plan.max_pfn), DENIED | extra)
    return [everything, *(Protection(pages, KEPT | extra) for pages in kept)]


@dataclass(slots=True)
class Transaction:
    """One attempt to lock a guest.

    `look` surveys the guest and plans; it is called before and after the map is applied. `reach` is called when a
    step begins, and does nothing; tests use it as a fault point.
    """

    host: Host
    look: Callable[[], Plan]
    store: Store
    boot_id: str
    switches: tuple[Switch, ...]
    sysctls: Sysctls
    mode: str
    tell: Tell
    reach: Callable[[Step], None] = lambda _step: None
    sleep: Callable[[float], None] = time.sleep
    _plan: Plan | None = field(default=None, init=False)
    _step: Step = field(default=Step.CHECK, init=False)
    _evidence: dict[Probe, Evidence] = field(default_factory=dict, init=False)
    _undo: list[tuple[str, Callable[[], None]]] = field(default_factory=list, init=False)

    @property
    def plan(self) -> Plan:
        """The plan of the newest survey."""
        assert self._plan is not None
        return self._plan

    def run(self) -> Record:
        """Lock, or complete an interrupted lock. Dies with the right exit status if that fails."""
        with self.store.exclusive():
            try:
                return self._run()
            except HostRefusedError as error:
                self._fail(State.OPEN, f"the host refused: {error}", Exit.REFUSED)
            except UserError as error:
                self._roll_back(error.message)
                raise
            except BaseException as error:
                self._roll_back(repr(error))
                raise

    @property
    def _canary(self) -> int:
        assert self.host.canary_pfn is not None  # refused in _check
        return self.host.canary_pfn

    def _run(self) -> Record:
        self.tell(Event.LOCK_STARTED, {"host": self.host.name})
        sealed = self._check()
        if not sealed:
            self._settle()
            if self.mode == "audit":
                self.host.hold_modules(False)
                return self._finish(State.APPLIED, "audit mode: denied fetches are logged, not stopped")
            self._prove()
            self._freeze()
        self._pin()
        self._seal()
        return self._finish(State.SEALED)

    def _begin(self, step: Step) -> None:
        self._step = step
        digest = self._plan.digest if self._plan else ""
        self.store.note(Journal(self.boot_id, step, digest, self._found()))
        self.tell(Event.STEP, {"step": step})
        self.reach(step)

    def _check(self) -> bool:
        """Whether the guest is sealed already; dies on whatever would stop a lock, and undoes a half-done one."""
        status = self.host.query()
        self._refuse_unfit_host(status.mode)
        earlier, last = self.store.journal(), self.store.last(self.boot_id)
        if earlier and earlier.boot_id == self.boot_id:
            self.tell(Event.INTERRUPTED, {"step": earlier.step})
        else:
            earlier = None
        if status.sealed:
            known = earlier.evidence if earlier else last.evidence if last else ()
            self._evidence = {e.probe: e for e in known}
            self._plan = self.look()
            return True
        self._begin(Step.CHECK)
        if status.restricted:
            self.host.protect([Protection(PageRange(0, self.host.max_pfn), KEPT)])
        self._survey()
        return False

    def _refuse_unfit_host(self, mode: HostMode) -> None:
        if mode is HostMode.OFF:
            self._refuse("the host has its protection switched off", "ask its administrator for kvm.heki=enforce")
        if (mode is HostMode.AUDIT) != (self.mode == "audit") and mode is not HostMode.UNKNOWN:
            self._refuse(f"the host's mode is {mode.value}, asked was {self.mode}", f"use --mode {mode.value}")
        if self.host.canary_pfn is None:
            self._refuse("this host brings no canary page, so nothing could be proven", "load the mbecguard shim")

    def _survey(self) -> None:
        self._plan = self.look()
        if self._plan.blockers:
            texts = "; ".join(f.text for f in self._plan.blockers[:3])
            self._refuse(f"{len(self._plan.blockers)} blockers: {texts}", "`mbecguard check` lists them all")
        if self._plan.max_pfn != self.host.max_pfn:
            self._refuse(
                f"the plan covers {self._plan.max_pfn:#x} page frames, the host has {self.host.max_pfn:#x}",
                "pages beyond the plan would stay executable; check the guest's CPU model",
            )

    def _settle(self) -> None:
        """Apply the map between two surveys that agree; a guest that keeps changing is not locked."""
        self._begin(Step.HOLD)
        self._do("module hold", lambda: self.host.hold_modules(True), lambda: self.host.hold_modules(False))
        if not self._test(Probe.CANARY_BEFORE, self.host.run_canary()):
            self._refuse("the canary page does not run before the lock", "the shim is broken, or the host denies it")
        for attempt in range(1, ATTEMPTS + 1):
            if self._apply():
                return
            self.tell(Event.RETRY, {"attempt": str(attempt + 1)})
            self._undo_last()
            self.sleep(SETTLE_SECONDS)
        self._refuse(f"the guest's code kept changing over {ATTEMPTS} surveys", "lock later, when modules have settled")

    def _apply(self) -> bool:
        self._begin(Step.SURVEY)
        self._survey()
        before = self.plan
        self._begin(Step.APPLY)
        wanted = request(before, self.host.canary_pfn, immutable=False)
        everything = Protection(PageRange(0, before.max_pfn), KEPT)
        self._do("map", lambda: self.host.protect(wanted), lambda: self.host.protect([everything]))
        self.tell(Event.APPLIED, {"ranges": str(len(wanted))})
        self._begin(Step.RESURVEY)
        self._survey()
        return self.plan.keep == before.keep

    def _prove(self) -> None:
        self._begin(Step.PROVE)
        self._test(Probe.CANARY_AFTER, self.host.run_canary())
        self._probe_neighbours()
        self.store.note(Journal(self.boot_id, Step.PROVE, self.plan.digest, self._found()))
        self._believe()
        self.tell(Event.PROVEN, {"evidence": f"{len(self._evidence)} probes, all as expected"})

    def _probe_neighbours(self) -> None:
        kept = next(k.start for k in self.plan.keep if k.start != self._canary)
        self._test(Probe.USER_ON_DENIED, self.host.run_user(self._canary))
        self._test(Probe.KEPT_TEXT, self.host.run_kept(kept), kept)

    def _probe_seal(self) -> None:
        """Try what an attacker would try: make the canary executable again."""
        grant = Protection(PageRange(self._canary, self._canary + 1), KEPT)
        try:
            self.host.protect([grant])
        except HostRefusedError as error:
            self._test(Probe.UNLOCK, Outcome.DENIED if error.errno is HostErrno.PERM else Outcome.NO_VERDICT)
        else:
            self._test(Probe.UNLOCK, Outcome.RAN)

    def _test(self, probe: Probe, outcome: Outcome, pfn: int | None = None) -> bool:
        evidence = Evidence(probe, outcome, self._canary if pfn is None else pfn)
        self._evidence[probe] = evidence
        return evidence.holds

    def _found(self) -> tuple[Evidence, ...]:
        return tuple(self._evidence.values())

    def _believe(self) -> None:
        """Go on only with evidence of all kinds and none against."""
        if not is_proof(self._found()):
            wrong = [f"{e.probe}: {e.outcome.value}" for e in self._found() if not e.holds] or ["evidence is missing"]
            self.tell(Event.NOT_ENFORCED, {"reason": "; ".join(wrong)})
            self._fail(State.DEGRADED, f"the host does not enforce: {'; '.join(wrong)}", Exit.NOT_ENFORCED)

    def _freeze(self) -> None:
        self._begin(Step.FREEZE)
        for switch in self.switches:
            before = self.sysctls.get(switch.sysctl)
            if before is not None and before != switch.value:
                self._set(switch, before)

    def _set(self, switch: Switch, before: str) -> None:
        def take_back() -> None:
            if switch.one_way:
                die(f"{switch.sysctl} cannot be taken back until the next boot")
            self.sysctls.put(switch.sysctl, before)

        self._do(switch.sysctl, lambda: self.sysctls.put(switch.sysctl, switch.value), take_back)

    def _pin(self) -> None:
        self._begin(Step.PIN)
        self.host.pin()
        if not self.host.pinned():
            self._fail(State.DEGRADED, "CR4.SMEP can still be cleared after the pin", Exit.NOT_ENFORCED)

    def _seal(self) -> None:
        self._begin(Step.SEAL)
        try:
            self.host.protect(request(self.plan, self.host.canary_pfn, immutable=True))
        except HostRefusedError as error:
            if self.host.query().sealed:
                self._fail(State.DEGRADED, f"the host is sealed by another plan: {error}", Exit.REFUSED)
            raise
        self._undo.clear()
        self._probe_seal()
        self._test(Probe.CANARY_SEALED, self.host.run_canary())
        self._probe_neighbours()
        self._believe()
        self.tell(Event.SEALED, {"pages": str(self.plan.totals.keep_pages)})

    def _finish(self, state: State, *reasons: str) -> Record:
        self._begin(Step.RECORD)
        record = self._record(state, reasons)
        self.store.append(record)
        self.store.note(None)
        return record

    def _record(self, state: State, reasons: tuple[str, ...]) -> Record:
        return Record(
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            boot_id=self.boot_id,
            agent=__version__,
            host=self.host.name,
            simulated=self.host.simulated,
            mode=self.mode,
            state=state,
            reasons=reasons,
            evidence=self._found(),
            frozen=tuple(s.sysctl for s in self.switches if self.sysctls.get(s.sysctl) == s.value),
            pinned=self.host.pinned(),
            generation=self.host.query().generation,
            plan=self.plan,
        )

    def _do(self, what: str, action: Callable[[], None], undo: Callable[[], None]) -> None:
        # The undo is registered first: an action that fails half-way is undone as well.
        self._undo.append((what, undo))
        action()

    def _undo_last(self) -> None:
        what, undo = self._undo.pop()
        try:
            undo()
        except (UserError, HostRefusedError) as error:
            self.tell(Event.ROLLBACK_FAILED, {"what": what, "reason": str(error)})

    def _roll_back(self, reason: str) -> None:
        if self._undo:
            self.tell(Event.ROLLED_BACK, {"step": self._step, "reason": reason})
        while self._undo:
            self._undo_last()
        with suppress(UserError, HostRefusedError):
            if not self.host.query().sealed:
                self.store.note(None)

    def _refuse(self, reason: str, hint: str) -> NoReturn:
        self.tell(Event.REFUSED, {"reason": reason})
        die(f"not locked: {reason}", hint, Exit.REFUSED)

    def _fail(self, state: State, reason: str, status: Exit) -> NoReturn:
        """Undo what can be undone, record a degraded guest, and die."""
        self._roll_back(reason)
        if state is State.DEGRADED:
            self.tell(Event.DEGRADED, {"reason": reason})
            self.store.append(self._record(state, (reason,)))
            self.store.note(None)
        die(f"not locked: {reason}", "nothing is protected; see docs/CONCEPTS.md", status)
