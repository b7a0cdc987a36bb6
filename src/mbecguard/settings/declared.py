# SPDX-License-Identifier: GPL-2.0-or-later
"""The one table of settings: names, types, defaults, what each is for, and what can go wrong.

Configuration files (TOML), `--set`, the manual and the completions are all made from it. Keys are `section.name`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

Value = bool | int | str


class Setting(NamedTuple):
    """One setting; `choices` is empty for free text, `bounds` (both inclusive) is for numbers.

    `risks` has what can go wrong by value, under "" if it is the same for each that is not the default.
    """

    key: str
    default: Value
    help: str
    choices: tuple[str, ...] = ()
    risks: Mapping[str, str] = MappingProxyType({})
    bounds: tuple[int, int] = (0, 0)

    @property
    def risk(self) -> str:
        """What can go wrong with other values than the default; empty if nothing."""
        others = {value: text for value, text in self.risks.items() if not value or value != self.default}
        if len(self.choices) <= 2:
            return "; ".join(others.values())
        return "; ".join(f"{value}: {text}" for value, text in others.items())

    @property
    def allowed(self) -> str:
        """The values it may have."""
        if isinstance(self.default, bool):
            return "true or false"
        if isinstance(self.default, int):
            return "a number from {} to {}".format(*self.bounds)
        return f"one of {', '.join(self.choices)}" if self.choices else "a text in one line"

    def allows(self, value: object) -> bool:
        """Whether a value of TOML is one of them; a number is not a boolean, nor the other way round."""
        if type(value) is not type(self.default):
            return False
        if isinstance(value, str):
            return value in self.choices if self.choices else value.isprintable()
        return isinstance(value, bool) or (isinstance(value, int) and self.bounds[0] <= value <= self.bounds[1])


_KEEP = ("keep", "drop")
_START = ("auto", "keep", "drop")  # auto: keep, if processors can come later
#: Groups of `text/frozen.py` by what `policy.frozen_keys` says.
FROZEN_KEYS: dict[str, tuple[str, ...]] = {
    "all": ("lsm", "mitigations"),
    "lsm": ("lsm",),
    "mitigations": ("mitigations",),
    "none": (),
}
_SWITCHABLE = "whoever can write kernel memory can switch the others off, by patches that look like the kernel's own"
_FREEZE = ("auto", "on", "off")  # auto: on, unless the guest uses what it would take away

SETTINGS: tuple[Setting, ...] = (
    Setting(
        "policy.bpf",
        "keep",
        "BPF JIT packs, trampolines and dispatchers",
        _KEEP,
        {"drop": "every BPF program that is already compiled faults when it runs next"},
    ),
    Setting(
        "policy.ftrace",
        "keep",
        "trampolines of the function tracer that exist at the lock",
        _KEEP,
        {"drop": "the tracer that owns them faults; stop it before the lock"},
    ),
    Setting(
        "policy.kprobe",
        "keep",
        "kprobe instruction slots that exist at the lock",
        _KEEP,
        {"drop": "probes in the middle of a function fault; remove them before the lock"},
    ),
    Setting(
        "policy.trampoline",
        "auto",
        "start-up code of further CPUs below 1 MiB; auto: kept only if more CPUs are possible than online at the lock",
        _START,
        {
            "auto": "a CPU that is taken offline after the lock may stay offline",
            "keep": "whoever can write kernel memory decides what a CPU runs that starts",
            "drop": "no CPU can be brought online, and the guest cannot resume from suspend",
        },
    ),
    Setting(
        "policy.efi_runtime",
        "keep",
        "EFI runtime services code",
        _KEEP,
        {"drop": "EFI variables, reboot and panic records through EFI fault"},
    ),
    Setting(
        "policy.kexec",
        "drop",
        "control page of a loaded kexec image; if dropped, the image cannot be started",
        _KEEP,
        {
            "keep": "if kept, whoever can write to the page can run code there",
            "drop": "the loaded kexec or crash kernel cannot be started",
        },
    ),
    Setting(
        "policy.crash_kernel",
        "drop",
        "the whole crash kernel region; if dropped, crash dumps fail",
        _KEEP,
        {"keep": "if kept, whoever can write to the region can run code there"},
    ),
    Setting(
        "policy.tight",
        "auto",
        "drop free space among kept code; auto: where what would use it is frozen",
        _FREEZE,
        {
            "on": "whatever the kernel puts there after the lock faults; more regions need 4 KiB EPT entries",
            "off": "whoever can write kernel memory can put code there, and load modules on kernels from 6.13 on",
        },
    ),
    Setting(
        "policy.deny_unexplained",
        False,
        "drop executable pages that nothing explains, instead of refusing to lock",
        risks={"": "if the kernel runs them after the lock, it crashes"},
    ),
    Setting(
        "policy.level",
        "exec",
        "what the lock protects; exec: no new kernel code; text-log: devices cannot change kernel text either, and the "
        "guest's own stores to it are counted; text: only the kernel's own patches are stored to it",
        ("exec", "text-log", "text"),
        {
            "exec": "kernel text can be overwritten by whoever can write kernel memory",
            "text-log": "the guest's own stores to kernel text are done",
            "text": "a patch that is none of the kernel's for the host ends its task, and all patching until a reset",
        },
    ),
    Setting(
        "policy.frozen_keys",
        "all",
        "at level text, whose patch sites take no patch any more: of security modules (lsm), of mitigations of the "
        "processor's faults (mitigations), of both (all)",
        tuple(FROZEN_KEYS),
        {"lsm": _SWITCHABLE, "mitigations": _SWITCHABLE, "none": _SWITCHABLE},
    ),
    Setting(
        "freeze.modules",
        "auto",
        "no new modules after the lock (kernel.modules_disabled)",
        _FREEZE,
        {"off": "only the shim refuses new modules"},
    ),
    Setting(
        "freeze.bpf_jit",
        "auto",
        "new BPF programs are interpreted (net.core.bpf_jit_enable)",
        _FREEZE,
        {
            "on": "the lock is refused where the kernel has no interpreter",
            "off": "new BPF programs run as long as there is room among the kept ones, "
            "and then crash whatever calls them",
        },
    ),
    Setting(
        "freeze.kexec",
        "auto",
        "no new kexec image (kernel.kexec_load_disabled)",
        _FREEZE,
        {"off": "a new kexec image can be loaded, but its start ends in a reset"},
    ),
    Setting(
        "freeze.ftrace",
        "auto",
        "no function tracing (kernel.ftrace_enabled)",
        _FREEZE,
        {
            "on": "BPF hooks on kernel functions are never called, and nothing says so",
            "off": "whoever starts a function tracer crashes the guest",
        },
    ),
    Setting(
        "freeze.kprobes",
        "auto",
        "kprobes do not fire (debugfs kprobes/enabled)",
        _FREEZE,
        {
            "on": "kprobes that exist are never hit",
            "off": "a new probe in the middle of a function crashes whatever reaches it",
        },
    ),
    Setting(
        "lock.mode",
        "enforce",
        "what the host does with a denied fetch; off: mbecguard does not lock",
        ("enforce", "audit", "off"),
        {"audit": "denied code is logged, and runs", "off": "nothing is protected"},
    ),
    Setting(
        "lock.host",
        "auto",
        "which host to ask; auto: the shim, or for a captured guest the simulator",
        ("auto", "shim", "simulator"),
        {"simulator": "nothing is protected"},
    ),
    Setting(
        "lock.bpf_packs",
        8,
        "packs of 2 MiB that are reserved for new BPF programs, if they go on being compiled (freeze.bpf_jit)",
        risks={
            "": "what users without privileges have compiled after the lock is limited to a sixteenth of the packs; "
            "too few: when root has filled them, the next program crashes what calls it; "
            "0: none are reserved, and any user can bring that about",
        },
        bounds=(0, 64),
    ),
    Setting(
        "guest.kernel_image",
        "",
        "image of the running kernel; empty: the one with its build-id in the places that distributions use",
        risks={"": "an image of another kernel is refused, also where the right one is in its place"},
    ),
    Setting(
        "guest.modules_dirs",
        "",
        "folders of the running release's modules, separated by colons, before the places that distributions use",
        risks={"": "a folder that is not there is an error"},
    ),
    Setting(
        "boot.health_check",
        "",
        "command line that has to succeed before a boot counts as good; empty: none",
        risks={"": "if it fails, the boot stays unconfirmed, and the next one does not lock"},
    ),
    Setting(
        "boot.settle",
        10,
        "seconds that the lock at boot waits for udev to settle",
        risks={"": "too short: modules that load later are refused; too long: logins wait"},
        bounds=(0, 600),
    ),
    Setting(
        "audit.text",
        True,
        "whether an audit compares kernel text with its files, byte by byte",
        risks={"": "if not, nobody looks whether code that stays executable was overwritten"},
    ),
    Setting(
        "history.size",
        64,
        "MiB that the records of locks and their plans take at most, and audits a quarter of that; the oldest go first",
        risks={"": "what has gone cannot be compared with any more"},
        bounds=(1, 65536),
    ),
    Setting(
        "history.days",
        730,
        "days after which records of locks and audits go",
        risks={"": "what has gone cannot be compared with any more"},
        bounds=(1, 36500),
    ),
    Setting("simulator.mbec", True, "whether the simulated CPU has mode-based execute control"),
    Setting("simulator.text", "log", "what the simulated host makes of bad stores to text", ("log", "enforce", "none")),
    Setting("simulator.mode", "enforce", "mode of the simulated host", ("enforce", "audit", "off")),
)

BY_KEY = {setting.key: setting for setting in SETTINGS}

SECTIONS = tuple(dict.fromkeys(setting.key.partition(".")[0] for setting in SETTINGS))

SYSTEM_FILE = Path("etc/mbecguard/mbecguard.toml")  #: below the guest's root
SYSTEM_FOLDER = Path("etc/mbecguard/mbecguard.toml.d")

#: What `mbecguard=` on the kernel command line says, and what it does.
WORDS = {
    "off": "do not lock, whatever the files and options say",
    "audit": "lock in mode audit, whatever the files say",
    "enforce": "lock in mode enforce, whatever the files say",
}


def toml_value(value: Value) -> str:
    """A value as TOML; text is one printable line, for which JSON's strings are TOML's."""
    return json.dumps(value, ensure_ascii=False)


def by_section() -> Iterator[tuple[str, list[Setting]]]:
    """The table, section by section."""
    for section in SECTIONS:
        yield section, [setting for setting in SETTINGS if setting.key.partition(".")[0] == section]


def default_file() -> str:
    """The file that is installed: every setting with its default, as a comment."""
    lines = [
        "# Settings of mbecguard, see mbecguard.toml(5). Every line shows its default; remove the # and change it.",
        f"# Files in /{SYSTEM_FOLDER}/ are read after this one, by name; the later wins.",
        "# `mbecguard config` shows what holds, and where it comes from.",
    ]
    for section, settings in by_section():
        lines += ["", f"[{section}]"]
        for setting in settings:
            lines += ["", f"# {setting.help}", f"# values: {setting.allowed}"]
            lines += [f"# risk: {setting.risk}"] if setting.risk else []
            lines.append(f"#{setting.key.partition('.')[2]} = {toml_value(setting.default)}")
    return "\n".join(lines) + "\n"
