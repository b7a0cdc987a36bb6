# SPDX-License-Identifier: GPL-2.0-or-later
"""The one table of settings: names, types, defaults, and what each is for.

The configuration file (TOML), `--set`, and the documentation are all made from it. Keys are `section.name`.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mbecguard.errors import die

Value = bool | str


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting; `choices` is empty for booleans and free text."""

    key: str
    default: Value
    help: str
    choices: tuple[str, ...] = ()


_KEEP = ("keep", "drop")
_FREEZE = ("auto", "on", "off")  # auto: on, unless the guest uses what it would take away

SETTINGS: tuple[Setting, ...] = (
    Setting("policy.bpf", "keep", "BPF JIT packs, trampolines and dispatchers", _KEEP),
    Setting("policy.ftrace", "keep", "trampolines of the function tracer that exist at the lock", _KEEP),
    Setting("policy.kprobe", "keep", "kprobe instruction slots that exist at the lock", _KEEP),
    Setting("policy.trampoline", "keep", "start-up code of further CPUs below 1 MiB", _KEEP),
    Setting("policy.efi_runtime", "keep", "EFI runtime services code", _KEEP),
    Setting("policy.kexec", "drop", "control page of a loaded kexec image", _KEEP),
    Setting("policy.crash_kernel", "drop", "the whole crash kernel region", _KEEP),
    Setting("policy.tight", False, "drop kept pages that hold nothing but int3"),
    Setting("policy.deny_unexplained", False, "drop executable pages that nobody explains, instead of refusing"),
    Setting("freeze.modules", "auto", "no new modules after the lock (kernel.modules_disabled)", _FREEZE),
    Setting("freeze.bpf_jit", "auto", "new BPF programs are interpreted (net.core.bpf_jit_enable)", _FREEZE),
    Setting("freeze.kexec", "auto", "no new kexec image (kernel.kexec_load_disabled)", _FREEZE),
    Setting("freeze.ftrace", "auto", "no function tracing (kernel.ftrace_enabled)", _FREEZE),
    Setting("freeze.kprobes", "auto", "kprobes do not fire (debugfs kprobes/enabled)", _FREEZE),
    Setting("lock.mode", "enforce", "what the host does with a denied fetch", ("enforce", "audit")),
    Setting("lock.host", "auto", "whom to ask", ("auto", "shim", "simulator")),
    Setting("simulator.mbec", True, "whether the simulated CPU has mode-based execute control"),
    Setting("simulator.mode", "enforce", "mode of the simulated host", ("enforce", "audit", "off")),
)

_BY_KEY = {setting.key: setting for setting in SETTINGS}


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings with their values; read them by key."""

    values: Mapping[str, Value]

    def text(self, key: str) -> str:
        """Value of a setting with choices or free text."""
        return str(self.values[key])

    def enabled(self, key: str) -> bool:
        """Value of a boolean setting."""
        return bool(self.values[key])


def load(file: Path | None = None, overrides: Iterable[str] = ()) -> Settings:
    """Defaults, then a TOML file, then `KEY=VALUE` overrides; unknown keys and wrong values die."""
    values = {setting.key: setting.default for setting in SETTINGS}
    if file:
        for key, value in _flatten(_toml(file), str(file)):
            values[key] = _checked(key, value, str(file))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            die(f"--set {override!r} is not KEY=VALUE", "for example --set policy.bpf=drop")
        values[key] = _checked(key, _parsed(text), "--set")
    return Settings(values)


def _toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        die(f"{file} cannot be read: {error.strerror}", "give a TOML file that may be read")
    except (ValueError, RecursionError) as error:  # TOML, UTF-8, integers of thousands of digits
        die(f"{file} is not TOML: {error}", 'for example [policy] in one line and bpf = "drop" in the next')


def _flatten(table: dict[str, Any], where: str) -> Iterable[tuple[str, object]]:
    for section, content in table.items():
        if not isinstance(content, dict):
            die(f"{where}: {section} is outside any section", _nearest(section))
        yield from ((f"{section}.{name}", value) for name, value in content.items())


def _parsed(text: str) -> object:
    return {"true": True, "false": False}.get(text, text)


def _checked(key: str, value: object, where: str) -> Value:
    setting = _BY_KEY.get(key) or die(f"{where}: unknown setting {key!r}", _nearest(key))
    if type(value) is not type(setting.default):
        wanted = "true or false" if isinstance(setting.default, bool) else "a text"
        die(f"{where}: {key} has to be {wanted}, not {value!r}", f"it is for: {setting.help}")
    assert isinstance(value, bool | str)
    if setting.choices and value not in setting.choices:
        die(
            f"{where}: {key} has to be one of {', '.join(setting.choices)}, not {value!r}",
            f"it is for: {setting.help}",
        )
    return value


def _nearest(key: str) -> str:
    names = {name: name for name in _BY_KEY} | {name.partition(".")[2]: name for name in _BY_KEY}
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    return f"did you mean {names[close[0]]}?" if close else f"known settings: {', '.join(_BY_KEY)}"
