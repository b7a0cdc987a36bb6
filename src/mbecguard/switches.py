# SPDX-License-Identifier: GPL-2.0-or-later
"""Switches of the guest that keep new kernel code from being asked for.

The lock stops such code by a fault; these stop it earlier, with an errno that its owner understands. Each can take
something away that the guest uses now: `auto` leaves such a switch alone, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from mbecguard.guest.setters import Setter
from mbecguard.guest.sysctlfiles import Assignment
from mbecguard.guest.tree import Tree
from mbecguard.guest.uses import Uses
from mbecguard.plan.findings import finding
from mbecguard.plan.policy import CodeKind, Policy
from mbecguard.records.reasons import Reason, reason
from mbecguard.settings.declared import BY_KEY
from mbecguard.settings.load import Settings
from mbecguard.values.errors import die
from mbecguard.values.facts import Absent, Fact, Known, Unknown, known
from mbecguard.values.findings import Finding


@dataclass(frozen=True, slots=True)
class Use:
    """What a switch would take away; `bar`: the kernel refuses the switch because of it.

    `unknown`: nobody can tell whether it is used; `what` says why, and `remedy` what would help.
    """

    what: str
    bar: bool = False
    unknown: bool = False
    remedy: str = ""


def _none(_uses: Uses) -> Use | None:
    return None


def _ftrace(uses: Uses) -> Use | None:
    """Everybody who hooks functions by ftrace; enabled_functions lists them all, the rest tells who they are."""
    if patches := known(uses.livepatches, ()):
        return Use(f"livepatches: {', '.join(patches)}", bar=True)
    if hooks := known(uses.bpf_trampolines, 0):
        # register_ftrace_direct(): without ftrace their hooks are gone, and nobody is told.
        return Use(f"BPF hooks on kernel functions ({hooks}), such as systemd's RestrictFileSystems=")
    if probes := known(uses.ftrace_kprobes, 0):
        return Use(f"kprobes that use ftrace ({probes})")
    if traced := known(uses.traced, 0):
        hidden = f"; {uses.bpf_trampolines.reason}" if isinstance(uses.bpf_trampolines, Unknown) else ""
        return Use(f"hooks on kernel functions ({traced}), by a tracer, a fprobe, perf or BPF{hidden}")
    if isinstance(uses.traced, Known):
        return None
    return _unknown(uses.bpf_trampolines, uses.traced, uses.livepatches, uses.ftrace_kprobes)


def _kprobes(uses: Uses) -> Use | None:
    if probes := known(uses.kprobes, 0):
        return Use(f"{probes} kprobes")
    return _unknown(uses.kprobes)


def _unknown(*facts: Fact[Any]) -> Use | None:
    unknown = [fact for fact in facts if isinstance(fact, Unknown)]
    if not unknown:
        return None
    reasons, remedies = (
        list(dict.fromkeys(texts)) for texts in zip(*((f.reason, f.remedy) for f in unknown), strict=True)
    )
    return Use("; ".join(reasons), unknown=True, remedy=remedies[0])


def _bpf_jit(uses: Uses) -> Use | None:
    no_other_way = "BPF programs, which could not run without the JIT: this kernel has no interpreter"
    return None if uses.bpf_interpreter else Use(no_other_way, bar=True)


@dataclass(frozen=True, slots=True)
class Switch:
    """A file that freezes something when `value` is written to it. `knob` is a sysctl, or else an absolute path."""

    setting: str
    knob: str
    value: str
    one_way: bool  #: the kernel lets nobody take it back
    source: str
    use: Callable[[Uses], Use | None] = _none

    @property
    def risk(self) -> str:
        """What can happen after the lock if it is left open."""
        return BY_KEY[self.setting].risks["off"]


SWITCHES: tuple[Switch, ...] = (
    Switch(
        "freeze.ftrace",
        "kernel.ftrace_enabled",
        "0",
        False,
        "kernel/trace/ftrace.c ftrace_enable_sysctl()",
        _ftrace,
    ),
    Switch(
        "freeze.kprobes",
        "/sys/kernel/debug/kprobes/enabled",
        "0",
        False,
        "kernel/kprobes.c disarm_all_kprobes(): new probes are accepted, but not armed",
        _kprobes,
    ),
    Switch(
        "freeze.bpf_jit",
        "net.core.bpf_jit_enable",
        "0",
        False,
        "net/core/sysctl_net_core.c; needs !BPF_JIT_ALWAYS_ON",
        _bpf_jit,
    ),
    Switch(
        "freeze.kexec",
        "kernel.kexec_load_disabled",
        "1",
        True,
        "kernel/kexec_core.c: only 0 to 1",
    ),
    Switch(
        "freeze.modules",
        "kernel.modules_disabled",
        "1",
        True,
        "kernel/module/main.c: only 0 to 1",
    ),
)

NOTHING: Mapping[str, Assignment] = MappingProxyType({})
_HINT = "a kernel may be built without this choice; the `freeze` settings say which switches are set"


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


class Knobs(Protocol):
    """Reads and writes switches."""

    def get(self, name: str) -> str | None:
        """The value, None if this kernel has no such switch, or lets nobody near it."""
        ...

    def put(self, name: str, value: str) -> None:
        """Write a value; dies if the kernel refuses."""
        ...


def frozen(decisions: Iterable[Decision], knobs: Knobs) -> frozenset[str]:
    """The settings of the switches that are to be set, and can be."""
    return frozenset(d.switch.setting for d in decisions if d.on and knobs.get(d.switch.knob) is not None)


def undone(knobs: Knobs, at_seal: Collection[str]) -> tuple[Reason, ...]:
    """What became of the switches that were set at the seal: those that are not any more, or cannot be seen."""
    reasons = []
    for switch in (switch for switch in SWITCHES if switch.knob in at_seal):
        if (value := knobs.get(switch.knob)) is None:
            reasons.append(reason("switch-unseen", knob=switch.knob))
        elif value != switch.value:
            facts = {"value": value, "frozen": switch.value, "risk": switch.risk}
            reasons.append(reason("switch-undone", knob=switch.knob, **facts))
    return tuple(reasons)


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


def _path(knob: str) -> str:
    return knob[1:] if knob.startswith("/") else f"proc/sys/{knob.replace('.', '/')}"


@dataclass(frozen=True, slots=True)
class LiveKnobs:
    """Those of the running kernel."""

    root: Path = Path("/")

    def get(self, name: str) -> str | None:
        """The value, None if this kernel has no such switch, or lets nobody near it."""
        try:
            return self._path(name).read_text().strip()
        except (FileNotFoundError, PermissionError):
            return None
        except OSError as error:
            die(f"{name} cannot be read: {error.strerror}")

    def put(self, name: str, value: str) -> None:
        """Write a value; dies if the kernel refuses, or says yes and keeps another value."""
        try:
            self._path(name).write_text(value)
        except OSError as error:
            die(f"{name} cannot be set to {value}: {error.strerror}", _HINT)
        if self.get(name) != value:
            die(f"{name} did not take the value {value}", _HINT)

    def _path(self, name: str) -> Path:
        return self.root / _path(name)


@dataclass(slots=True)
class SimulatedKnobs:
    """For the simulator: a lock that protects nothing must not freeze anything either."""

    values: dict[str, str] = field(default_factory=lambda: {switch.knob: "" for switch in SWITCHES})

    @classmethod
    def of(cls, tree: Tree) -> SimulatedKnobs:
        """As a guest has them; those of which nobody can tell are there, and say nothing."""
        facts = {switch.knob: tree.fact(_path(switch.knob)) for switch in SWITCHES}
        return cls({knob: known(fact, "").strip() for knob, fact in facts.items() if not isinstance(fact, Absent)})

    def get(self, name: str) -> str | None:
        """The value, None if there is no such switch."""
        return self.values.get(name)

    def put(self, name: str, value: str) -> None:
        """Set a value."""
        self.values[name] = value
