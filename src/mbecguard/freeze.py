# SPDX-License-Identifier: GPL-2.0-or-later
"""One-way switches of the guest that keep new kernel code from being asked for.

The lock stops such code by a fault; these stop it earlier, with an errno that its owner understands.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from mbecguard.errors import die
from mbecguard.settings import Settings


@dataclass(frozen=True, slots=True)
class Switch:
    """A sysctl, the value that freezes it, and whether the kernel lets it be taken back."""

    setting: str
    sysctl: str
    value: str
    one_way: bool
    source: str


SWITCHES: tuple[Switch, ...] = (
    Switch("freeze.ftrace", "kernel.ftrace_enabled", "0", False, "kernel/trace/ftrace.c ftrace_enable_sysctl()"),
    Switch(
        "freeze.bpf_jit", "net.core.bpf_jit_enable", "0", False, "net/core/sysctl_net_core.c; needs !BPF_JIT_ALWAYS_ON"
    ),
    Switch("freeze.kexec", "kernel.kexec_load_disabled", "1", True, "kernel/kexec_core.c: only 0 to 1"),
    Switch("freeze.modules", "kernel.modules_disabled", "1", True, "kernel/module/main.c: only 0 to 1"),
)


_HINT = "a kernel may be built without this choice; the `freeze` settings say which switches are set"


def chosen(settings: Settings) -> tuple[Switch, ...]:
    """The switches that the settings ask for; one-way ones come last."""
    return tuple(switch for switch in SWITCHES if settings.enabled(switch.setting))


class Sysctls(Protocol):
    """Reads and writes sysctls."""

    def get(self, name: str) -> str | None:
        """The value, None if this kernel has no such sysctl."""
        ...

    def put(self, name: str, value: str) -> None:
        """Write a value; dies if the kernel refuses."""
        ...


@dataclass(frozen=True, slots=True)
class LiveSysctls:
    """Those of the running kernel."""

    root: Path = Path("/proc/sys")

    def get(self, name: str) -> str | None:
        """The value, None if this kernel has no such sysctl."""
        try:
            return (self.root / name.replace(".", "/")).read_text().strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            die(f"sysctl {name} cannot be read: {error.strerror}")

    def put(self, name: str, value: str) -> None:
        """Write a value; dies if the kernel refuses, or says yes and keeps another value."""
        try:
            (self.root / name.replace(".", "/")).write_text(value)
        except OSError as error:
            die(f"sysctl {name} cannot be set to {value}: {error.strerror}", _HINT)
        if self.get(name) != value:
            die(f"sysctl {name} did not take the value {value}", _HINT)


@dataclass(slots=True)
class SimulatedSysctls:
    """For the simulator: a lock that protects nothing must not freeze anything either."""

    values: dict[str, str] = field(default_factory=lambda: {switch.sysctl: "" for switch in SWITCHES})

    def get(self, name: str) -> str | None:
        """The value, None if there is no such sysctl."""
        return self.values.get(name)

    def put(self, name: str, value: str) -> None:
        """Set a value."""
        self.values[name] = value
