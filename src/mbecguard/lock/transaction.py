# SPDX-License-Identifier: GPL-2.0-or-later
"""The transaction: the one place that changes anything.

    check -> hold -> reserve -> survey -> apply (mutable) -> survey again -> prove -> freeze (what can be thawed)
    -> settle -> last survey -> tighten -> text -> pin -> seal -> modules' text -> freeze (for good)
    -> record

Until the freeze new filters and modules need free space, so that the map leaves it executable; then it is dropped.

Whatever fails before the seal is undone, in reverse. A guest that is found changed by a later survey is opened, given
time, and mapped anew. After the seal nothing can be undone until the VM is reset; a rerun (resume.py) then completes
what is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from mbecguard.host.base import HostMode, HostRefusedError, Protection
from mbecguard.lock.check import UnsettledError, check_host, check_plan, refuse
from mbecguard.lock.context import Context
from mbecguard.lock.ending import end, forget, roll_back
from mbecguard.lock.proof import KEPT, DegradedError
from mbecguard.lock.request import request, too_long
from mbecguard.lock.reserve import findings as room_findings
from mbecguard.lock.reserve import reserve
from mbecguard.lock.resume import resume
from mbecguard.lock.steps import finish, freeze, freeze_for_good, hold, pin, prove_seal, remaining
from mbecguard.lock.stop import StoppedError
from mbecguard.lock.text import keep_modules, keep_text, text_misfit
from mbecguard.plan.value import Plan
from mbecguard.records.reasons import reason
from mbecguard.records.record import Journal, Probe, Record, State, Step
from mbecguard.records.status import observe
from mbecguard.switches.decisions import findings
from mbecguard.values.errors import Exit, UserError
from mbecguard.values.events import Event
from mbecguard.values.pages import PageRange

ATTEMPTS = 5  #: udev loads modules for seconds after multi-user.target
AGAIN_SECONDS = 2.0  #: between two attempts
SETTLE_SECONDS = 0.5  #: for code that was being made while the freeze forbade it


@dataclass(slots=True)
class Transaction(Context):
    """A lock of a guest that is open; of one that is sealed already, the rerun that completes it."""

    attempt: int = field(default=1, init=False)

    @property
    def undone(self) -> bool:
        """Whether a run that failed left the guest as it was."""
        return not self.sealed and not self.undo.stuck

    def run(self) -> Record:
        """Lock, or complete an interrupted lock. Dies with the right exit status if that fails."""
        with self.stop, self.store.exclusive():
            try:
                return self._run()
            except HostRefusedError as error:
                status = Exit.ERROR if self.is_sealed() else Exit.REFUSED
                end(self, UserError(f"the host refused: {error}", error.hint, status))
            except UserError as error:
                end(self, error)
            except StoppedError as stopped:
                end(self, stopped.error)
            except BaseException as error:
                roll_back(self, repr(error))
                forget(self)
                raise

    def _run(self) -> Record:
        self.say(Event.LOCK_STARTED, host=self.host.name)
        lost = self.store.mend(self.boot_id)
        for loss in lost:
            self.say(Event.HISTORY_DAMAGED, part="locks", what=str(loss))
        earlier, kept = self.store.journal(self.boot_id), self.store.last(self.boot_id)
        last = kept.record if kept else None
        remembered = (earlier and earlier.plan_digest) or (last and last.state is State.SEALED)
        status = observe(self.host, sealed=bool(remembered))
        check_host(self.host, status, self.mode)
        if earlier:
            self.say(Event.INTERRUPTED, step=earlier.step)
        self.sealed = status.sealed
        if self.sealed:
            return resume(self, earlier if earlier and earlier.plan_digest else last)
        return self._lock(earlier, restricted=status.restricted, held=bool(earlier or lost))

    def _lock(self, earlier: Journal | None, *, restricted: bool, held: bool) -> Record:
        self.switched = earlier.switched if earlier else {}
        self.begin(Step.CHECK)
        if unfit := text_misfit(self.host, self.policy.level):
            refuse(*unfit)
        self._recover(restricted, held)
        self._patiently(self._survey)
        hold(self)
        if not self.prober.run_canary(Probe.CANARY_BEFORE):
            refuse("the canary page does not run before the lock", "the shim is broken, or the host denies it")
        reserve(self)
        self._patiently(self._make_ready)
        if self.mode == "audit":
            self.host.hold_modules(False)
            return finish(self, State.APPLIED, reason("audit-mode"))
        keep_text(self)
        pin(self)
        self._seal()
        left = keep_modules(self)
        refused = freeze_for_good(self)
        return finish(self, State.SEALED, *remaining(self), *left, *refused)

    def _recover(self, restricted: bool, held: bool) -> None:
        """Undo what a killed agent left half done."""
        if held:
            self.undo.add("module hold", lambda: self.host.hold_modules(False))
        if restricted:
            self.undo.add("map", self._open)
        for knob, before in self.switched.items():
            self.undo.add(knob, partial(self.knobs.put, knob, before))
        self.undo.add("room for BPF programs", self.room.give_back)
        self.undo.undo_all()
        if self.undo.stuck:
            refuse("an earlier attempt could not be undone", "reset the guest")
        self.switched = {}

    def _patiently(self, act: Callable[[], object]) -> None:
        """Do it again, from the beginning, as long as the guest is changing; dies if it never settles."""
        depth = self.undo.depth
        while True:
            try:
                act()
                return
            except UnsettledError:
                if self.attempt == ATTEMPTS:
                    raise
            self.undo.undo_to(depth)
            self.attempt += 1
            self.say(Event.RETRY, attempt=str(self.attempt))
            self._wait(AGAIN_SECONDS)

    def _make_ready(self) -> None:
        """All that comes before the seal and can be undone."""
        applied = self._apply()
        if self.mode == "audit":
            return
        self.begin(Step.PROVE)
        self._prove()
        freeze(self)
        decided = self._frozen
        self.begin(Step.SETTLE)
        self._wait(SETTLE_SECONDS)
        self.begin(Step.LAST_SURVEY)
        self._require_same(applied, self._survey())
        if self._frozen != decided:
            raise UnsettledError(
                f"what the guest uses kept changing over {ATTEMPTS} surveys", "say on or off in the freeze settings"
            )
        if self.plan.keep != applied.keep:
            self._tighten()

    def _wait(self, seconds: float) -> None:
        with self.stop.interrupted():
            self.sleep(seconds)

    def _survey(self) -> Plan:
        """Look again; returns the plan to apply, which leaves free space to those who need it until the freeze."""
        with self.stop.interrupted():
            seen = self.look(self.policy)
        self.take(seen)
        room = room_findings(self.compiles and self.mode != "audit", self.packs, self.room)
        long = too_long(self.host, seen.plan, seen.roomy)
        check_plan(self.plan, self.host, [*findings(self.decisions, self.knobs), *room, *long, *seen.obstacles])
        return seen.roomy

    def _require_same(self, applied: Plan, now: Plan) -> None:
        if now.keep != applied.keep:
            raise UnsettledError(
                f"the guest's code kept changing over {ATTEMPTS} surveys", "lock later, when modules have settled"
            )

    @property
    def _frozen(self) -> set[str]:
        return {decision.switch.knob for decision in self.decisions if decision.on}

    def _apply(self) -> Plan:
        """Apply the map between two surveys that agree."""
        self.begin(Step.SURVEY)
        applied = self._survey()
        self.begin(Step.APPLY)
        self.undo.do("map", lambda: self._send(applied), self._open)
        self.begin(Step.RESURVEY)
        self._require_same(applied, self._survey())
        return applied

    def _tighten(self) -> None:
        """Drop what free space nobody can need any more; the map's undoing undoes this, too."""
        self.begin(Step.TIGHTEN)
        self._send(self.plan)
        self._prove()

    def _send(self, plan: Plan) -> None:
        wanted = request(plan, self.host.canary_pfn, immutable=False)
        self.host.protect(wanted)
        self.say(Event.APPLIED, ranges=str(len(wanted)))

    def _open(self) -> None:
        try:
            self.host.protect([Protection(PageRange(0, self.host.max_pfn), KEPT)])
        except HostRefusedError:
            answer = self.host.query()
            if answer.restricted or answer.mode is HostMode.UNKNOWN:
                raise  # else a host that refuses everything has taken nothing either

    def _prove(self) -> None:
        self.prober.run_canary(Probe.CANARY_AFTER)
        self.prober.run_neighbours(self.plan)
        self.note()
        self.prober.believe()
        self.say(Event.PROVEN, evidence=f"{len(self.prober.found)} probes, all as expected")

    def _seal(self) -> None:
        self.begin(Step.SEAL)
        try:
            self.host.protect(request(self.plan, self.host.canary_pfn, immutable=True))
        except HostRefusedError as error:
            if self.is_sealed():
                raise DegradedError(reason("seal-of-other-plan", problem=error), Exit.REFUSED) from error
            raise
        prove_seal(self)
