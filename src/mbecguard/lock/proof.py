# SPDX-License-Identifier: GPL-2.0-or-later
"""The experiments: never believe a return code. Each probe is kept as evidence, whatever it shows."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

from mbecguard.host.base import Host, HostErrno, HostRefusedError, Outcome, Permission, Protection
from mbecguard.plan.policy import CodeKind, Level
from mbecguard.plan.value import Plan
from mbecguard.records.reasons import Reason, reason
from mbecguard.records.record import Evidence, Probe, is_proof, proves_text
from mbecguard.values.errors import Exit, UserError
from mbecguard.values.pages import PageRange, PageSet

DENIED = Permission.READ | Permission.WRITE
KEPT = DENIED | Permission.EXEC
KEPT_TRIES = 16  #: page frames tried at most: a page of padding holds nothing that could be run


class DegradedError(UserError):
    """The guest is not what it should be: something that the host granted does not hold."""

    def __init__(self, why: Reason, status: Exit) -> None:
        super().__init__(why.text, why.hint, status)
        self.why = why


def frames_to_try(plan: Plan, canary_pfn: int) -> list[int]:
    """Some page frames that stay executable, those of the kernel's own text first; none if nothing stays."""
    canary = PageSet([PageRange(canary_pfn, canary_pfn + 1)])
    text_first = sorted(plan.keep, key=lambda k: k.kind is not CodeKind.KERNEL_TEXT)
    frames = (pfn for k in text_first for run in canary.gaps(k.pages) for pfn in range(run.start, run.end))
    return list(islice(frames, KEPT_TRIES))


@dataclass(slots=True)
class Prober:
    """Runs probes on a host that brings a canary, and keeps what they showed."""

    host: Host
    evidence: dict[Probe, Evidence] = field(default_factory=dict)

    @property
    def found(self) -> tuple[Evidence, ...]:
        """All evidence so far; a probe that was repeated counts as it came out last."""
        return tuple(self.evidence.values())

    @property
    def unlocked(self) -> bool:
        """Whether the attempt to unlock succeeded: then the seal is none."""
        unlock = self.evidence.get(Probe.UNLOCK)
        return unlock is not None and unlock.outcome is Outcome.RAN

    def run_canary(self, probe: Probe) -> bool:
        """Whether the canary does what it should at this time."""
        return self.keep(probe, self.host.run_canary(), self._canary)

    def run_neighbours(self, plan: Plan) -> None:
        """User mode still executes from a denied page, the kernel from a kept one."""
        self.keep(Probe.USER_ON_DENIED, self.host.run_user(self._canary), self._canary)
        for kept in frames_to_try(plan, self._canary):
            outcome = self.host.run_kept(kept)
            self.keep(Probe.KEPT_TEXT, outcome, kept)
            if outcome is not Outcome.NO_VERDICT:
                break

    def try_unlock(self) -> None:
        """Try what an attacker would try: make the canary executable again."""
        page = PageRange(self._canary, self._canary + 1)
        try:
            self.host.protect([Protection(page, KEPT)])
        except HostRefusedError as error:
            outcome = Outcome.DENIED if error.errno is HostErrno.PERM else Outcome.NO_VERDICT
        else:
            outcome = Outcome.RAN
            with suppress(HostRefusedError):
                self.host.protect([Protection(page, DENIED)])
        self.keep(Probe.UNLOCK, outcome, self._canary)

    def run_store(self, probe: Probe) -> None:
        """Write to the target page as an attacker would."""
        self.keep(probe, self.host.run_store(), self.host.target_pfn or 0)

    def believe(self, level: Level = Level.EXEC) -> None:
        """Go on only with evidence of all kinds that a level needs, and none against. Raises DegradedError."""
        if not (is_proof(self.found) and proves_text(self.found, level)):
            wrong = [f"{e.probe}: {e.outcome.value}" for e in self.found if not e.holds] or ["evidence is missing"]
            raise DegradedError(reason("not-enforced", evidence="; ".join(wrong)), Exit.NOT_ENFORCED)

    @property
    def _canary(self) -> int:
        assert self.host.canary_pfn is not None  # such a host is refused
        return self.host.canary_pfn

    def keep(self, probe: Probe, outcome: Outcome, pfn: int) -> bool:
        """Keep what a probe showed; whether that is as it should be."""
        self.evidence[probe] = evidence = Evidence(probe, outcome, pfn)
        return evidence.holds
