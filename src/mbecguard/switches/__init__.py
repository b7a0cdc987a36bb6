# SPDX-License-Identifier: GPL-2.0-or-later
"""Switches of the guest that keep new kernel code from being asked for.

The lock stops such code by a fault; these stop it earlier, with an errno that its owner understands. Each can take
something away that the guest uses now: `auto` leaves such a switch alone, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from mbecguard.records.reasons import Reason, reason
from mbecguard.settings.declared import BY_KEY
from mbecguard.values.errors import die
from mbecguard.values.facts import Absent, Fact, Known, Unknown, known

if TYPE_CHECKING:  # a daemon looks at switches, and asks nobody what uses them
    from mbecguard.guest.tree import Tree
    from mbecguard.guest.uses import Uses


class Use(NamedTuple):
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


class Switch(NamedTuple):
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

_HINT = "a kernel may be built without this choice; the `freeze` settings say which switches are set"


class Knobs(Protocol):
    """Reads and writes switches."""

    def get(self, name: str) -> str | None:
        """The value, None if this kernel has no such switch, or lets nobody near it."""
        ...

    def put(self, name: str, value: str) -> None:
        """Write a value; dies if the kernel refuses."""
        ...


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


def _path(knob: str) -> str:
    return knob[1:] if knob.startswith("/") else f"proc/sys/{knob.replace('.', '/')}"


FILES = tuple(f"/{_path(switch.knob)}" for switch in SWITCHES)  #: of all switches


class LiveKnobs(NamedTuple):
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


class SimulatedKnobs:
    """For the simulator: a lock that protects nothing must not freeze anything either."""

    def __init__(self, values: dict[str, str] | None = None) -> None:
        self.values = {switch.knob: "" for switch in SWITCHES} if values is None else values

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
