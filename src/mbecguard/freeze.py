# SPDX-License-Identifier: GPL-2.0-or-later
"""Switches of the guest that keep new kernel code from being asked for.

The lock stops such code by a fault; these stop it earlier, with an errno that its owner understands. Each can take
something away that the guest uses now: `auto` leaves such a switch alone, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from mbecguard.errors import die
from mbecguard.guest.uses import Uses
from mbecguard.plan.findings import Finding, finding
from mbecguard.settings import Settings


@dataclass(frozen=True, slots=True)
class Use:
    """What a switch would take away; `bar`: the kernel refuses the switch because of it."""

    what: str
    bar: bool = False


def _none(_uses: Uses) -> Use | None:
    return None


def _ftrace(uses: Uses) -> Use | None:
    if uses.livepatches:
        return Use(f"livepatches: {', '.join(uses.livepatches)}", bar=True)
    if uses.bpf_trampolines:
        # register_ftrace_direct(): without ftrace their hooks are gone, and nobody is told.
        return Use(f"BPF hooks on kernel functions ({uses.bpf_trampolines}), such as systemd's RestrictFileSystems=")
    return None


def _kprobes(uses: Uses) -> Use | None:
    return Use(f"{uses.kprobes} kprobes") if uses.kprobes else None


def _bpf_jit(uses: Uses) -> Use | None:
    return None if uses.bpf_interpreter else Use("every BPF program: this kernel has no interpreter", bar=True)


@dataclass(frozen=True, slots=True)
class Switch:
    """A file that freezes something when `value` is written to it. `knob` is a sysctl, or else an absolute path."""

    setting: str
    knob: str
    value: str
    one_way: bool  #: the kernel lets nobody take it back
    source: str
    risk: str  #: what can happen after the lock if it is left open
    use: Callable[[Uses], Use | None] = _none


SWITCHES: tuple[Switch, ...] = (
    Switch(
        "freeze.ftrace",
        "kernel.ftrace_enabled",
        "0",
        False,
        "kernel/trace/ftrace.c ftrace_enable_sysctl()",
        "whoever starts a function tracer crashes the guest",
        _ftrace,
    ),
    Switch(
        "freeze.kprobes",
        "/sys/kernel/debug/kprobes/enabled",
        "0",
        False,
        "kernel/kprobes.c disarm_all_kprobes(): new probes are accepted, but not armed",
        "a new probe in the middle of a function crashes whatever reaches it",
        _kprobes,
    ),
    Switch(
        "freeze.bpf_jit",
        "net.core.bpf_jit_enable",
        "0",
        False,
        "net/core/sysctl_net_core.c; needs !BPF_JIT_ALWAYS_ON",
        "new BPF programs run as long as there is room among the kept ones, and then crash whatever calls them",
        _bpf_jit,
    ),
    Switch(
        "freeze.kexec",
        "kernel.kexec_load_disabled",
        "1",
        True,
        "kernel/kexec_core.c: only 0 to 1",
        "a new kexec image can be loaded, but its start ends in a reset",
    ),
    Switch(
        "freeze.modules",
        "kernel.modules_disabled",
        "1",
        True,
        "kernel/module/main.c: only 0 to 1",
        "only the shim refuses new modules",
    ),
)

_HINT = "a kernel may be built without this choice; the `freeze` settings say which switches are set"


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a switch is to be set, by its setting (auto, on, off) and by what the guest uses."""

    switch: Switch
    choice: str
    use: Use | None

    @property
    def on(self) -> bool:
        """Whether it is to be set."""
        return self.choice == "on" or (self.choice == "auto" and self.use is None)

    @property
    def remark(self) -> str:
        """Why `auto` leaves it open; empty if it does not."""
        if self.on or self.choice == "off" or not self.use:
            return ""
        return f"{self.switch.knob} is not frozen, because of {self.use.what}"


def decide(settings: Settings, uses: Uses) -> tuple[Decision, ...]:
    """One decision for each switch; one-way ones come last."""
    return tuple(Decision(switch, settings.text(switch.setting), switch.use(uses)) for switch in SWITCHES)


class Knobs(Protocol):
    """Reads and writes switches."""

    def get(self, name: str) -> str | None:
        """The value, None if this kernel has no such switch, or lets nobody near it."""
        ...

    def put(self, name: str, value: str) -> None:
        """Write a value; dies if the kernel refuses."""
        ...


def findings(decisions: Iterable[Decision], knobs: Knobs) -> list[Finding]:
    """What a person must know of the freeze before it is done."""
    found = []
    for decision in decisions:
        switch, use = decision.switch, decision.use
        before = knobs.get(switch.knob)
        if before == switch.value:
            continue
        facts = {"knob": switch.knob, "key": switch.setting, "risk": switch.risk, "use": use.what if use else ""}
        if decision.remark:
            found.append(finding("freeze-left-open", **facts))
        elif decision.on and before is None:
            found.append(finding("freeze-missing", **facts))
        elif decision.on and use:
            found.append(finding("freeze-impossible" if use.bar else "freeze-loss", **facts))
    return found


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
        return self.root / (name[1:] if name.startswith("/") else f"proc/sys/{name.replace('.', '/')}")


@dataclass(slots=True)
class SimulatedKnobs:
    """For the simulator: a lock that protects nothing must not freeze anything either."""

    values: dict[str, str] = field(default_factory=lambda: {switch.knob: "" for switch in SWITCHES})

    def get(self, name: str) -> str | None:
        """The value, None if there is no such switch."""
        return self.values.get(name)

    def put(self, name: str, value: str) -> None:
        """Set a value."""
        self.values[name] = value
