# SPDX-License-Identifier: GPL-2.0-or-later
"""Which switches a lock sets, by the settings and by what the guest uses, and what a person must know of that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mbecguard.guest.setters import Setter
from mbecguard.guest.sysctlfiles import Assignment
from mbecguard.guest.uses import Uses
from mbecguard.plan.findings import finding
from mbecguard.plan.policy import CodeKind, Policy
from mbecguard.records.reasons import Reason, reason
from mbecguard.settings.load import Settings
from mbecguard.switches import SWITCHES, Knobs, Switch, Use
from mbecguard.values.findings import Finding

NOTHING: Mapping[str, Assignment] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a switch is to be set, by its setting (auto, on, off) and by what the guest uses."""

    switch: Switch
    choice: str
    use: Use | None
    assigned: Assignment | None = None  #: what a file sets it to, whenever it is read again
    setters: tuple[Setter, ...] = ()  #: programs of this guest that set it

    @property
    def on(self) -> bool:
        """Whether it is to be set."""
        return self.choice == "on" or (self.choice == "auto" and self.use is None)

    @property
    def remark(self) -> Reason | None:
        """Why `auto` leaves it open; None if it does not."""
        if self.on or self.choice == "off" or not self.use:
            return None
        id_ = "freeze-unknown" if self.use.unknown else "freeze-left-open"
        return reason(id_, knob=self.switch.knob, use=self.use.what, remedy=self.use.remedy, risk=self.switch.risk)

    def others(self) -> Iterator[Finding]:
        """Who sets it to something else than the freeze does."""
        if not self.on:
            return
        facts = {"knob": self.switch.knob, "frozen": self.switch.value, "key": self.switch.setting}
        if (file := self.assigned) and file.value != self.switch.value:
            # A file is read before the lock as well; of a switch that nobody can take back, a later look is refused.
            id_ = "freeze-contested" if self.switch.one_way else "freeze-undone"
            yield finding(id_, file=file.place, value=file.value, **facts)
        for setter in self.setters:
            if setter.value != self.switch.value:
                yield finding("freeze-setter", who=setter.name, when=setter.when, value=setter.value, **facts)


def decide(
    settings: Settings,
    uses: Uses,
    assigned: Mapping[str, Assignment] = NOTHING,
    setters: Iterable[Setter] = (),
) -> tuple[Decision, ...]:
    """One decision for each switch; one-way ones come last.

    `assigned`: what files set sysctls to; `setters`: the programs of this guest that set any.
    """
    known_setters = tuple(setters)
    return tuple(
        Decision(
            switch,
            settings.text(switch.setting),
            switch.use(uses),
            assigned.get(switch.knob),
            tuple(one for one in known_setters if one.sysctl == switch.knob),
        )
        for switch in SWITCHES
    )


def frozen(decisions: Iterable[Decision], knobs: Knobs) -> frozenset[str]:
    """The settings of the switches that are to be set, and can be."""
    return frozenset(d.switch.setting for d in decisions if d.on and knobs.get(d.switch.knob) is not None)


def compiles(policy: Policy, decisions: Iterable[Decision], knobs: Knobs) -> bool:
    """Whether BPF programs go on being compiled and run, by this policy and these decisions."""
    if not policy.keeps(CodeKind.BPF):
        return False
    left = (d.switch for d in decisions if d.switch.setting == "freeze.bpf_jit" and not d.on)
    return any(knobs.get(switch.knob) not in (None, switch.value) for switch in left)


def findings(decisions: Iterable[Decision], knobs: Knobs) -> list[Finding]:
    """What a person must know of the freeze before it is done."""
    found: list[Finding] = []
    for decision in decisions:
        switch, use = decision.switch, decision.use
        before = knobs.get(switch.knob)
        if before is not None:
            found += decision.others()
        if before == switch.value:
            continue
        facts = {"knob": switch.knob, "key": switch.setting, "risk": switch.risk}
        facts |= {"use": use.what, "remedy": use.remedy} if use else {}
        if decision.remark:
            found.append(finding(decision.remark.id, **facts))
        elif decision.on and before is None:
            found.append(finding("freeze-missing", **facts))
        elif decision.on and use and not use.unknown:
            found.append(finding("freeze-impossible" if use.bar else "freeze-loss", **facts))
    return found
