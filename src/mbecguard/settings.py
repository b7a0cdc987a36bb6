# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the values of the settings come from: defaults, files, the kernel command line, options."""

from __future__ import annotations

import difflib
import os
import re
import stat
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mbecguard.errors import die
from mbecguard.table import BY_KEY, SECTIONS, SYSTEM_FILE, SYSTEM_FOLDER, WORDS, Setting, Value
from mbecguard.table import SETTINGS as SETTINGS

OFF = "off"  #: the word, and the value of lock.mode
DEFAULT, COMMAND_LINE = "default", "kernel command line"

_FILE_LIMIT = 1 << 20  #: bytes
_REPAIR = "put it right as root, or remove it"


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings with their values and where each comes from; read them by key."""

    values: Mapping[str, Value]
    origins: Mapping[str, str]  #: of those that are set: a file, an option, or the kernel command line

    def text(self, key: str) -> str:
        """Value of a setting with choices or free text."""
        return str(self.values[key])

    def enabled(self, key: str) -> bool:
        """Value of a boolean setting."""
        return bool(self.values[key])

    def number(self, key: str) -> int:
        """Value of a number."""
        return int(self.values[key])

    def origin(self, key: str) -> str:
        """Who set it: `default`, a file, an option, or the kernel command line."""
        return self.origins.get(key, DEFAULT)

    def describe(self) -> list[dict[str, Value]]:
        """The whole table as JSON has it."""
        return [
            {
                "key": setting.key,
                "value": self.values[setting.key],
                "origin": self.origin(setting.key),
                "default": setting.default,
                "values": setting.allowed,
                "help": setting.help,
                "risk": setting.risk,
            }
            for setting in SETTINGS
        ]


@dataclass(frozen=True, slots=True)
class _Choice:
    """One value from one place, not checked yet."""

    key: str
    value: object
    origin: str


def load(
    file: Path | None = None,
    overrides: Iterable[str] = (),
    *,
    root: Path | None = None,
    flags: Mapping[str, str] | None = None,
) -> Settings:
    """Defaults, files, kernel command line, `--set KEY=VALUE`, flags: the later wins. Dies of what it does not know.

    `root` is that of the running guest: only there the system's files and command line count, and files that others
    may write are refused. `file` stands for the system's files. `flags` has KEY=VALUE by the name of an option.
    """
    if file:
        files = _choices([file], trusted=root is not None)
    else:
        files = _choices(_system_files(root), trusted=True) if root else iter(())
    words = _from_command_line(root) if root else []
    options = [_option(text, "--set") for text in overrides]
    options += [_option(text, flag) for flag, text in (flags or {}).items()]
    # `off` is the way out of a guest that its own settings broke: nothing may stand above it.
    last = [word for word in words if word.value == OFF]
    return _merged([*files, *words, *options, *last])


def _merged(choices: Iterable[_Choice]) -> Settings:
    values = {setting.key: setting.default for setting in SETTINGS}
    origins = {}
    for choice in choices:
        values[choice.key] = _checked(choice)
        origins[choice.key] = choice.origin
    return Settings(values, origins)


def _checked(choice: _Choice) -> Value:
    setting = _setting(choice.key, choice.origin)
    if not setting.allows(choice.value):
        die(
            f"{choice.origin}: {setting.key} has to be {setting.allowed}, not {choice.value!r}",
            f"it is for: {setting.help}",
        )
    assert isinstance(choice.value, bool | int | str)
    return choice.value


def _setting(key: str, where: str) -> Setting:
    return BY_KEY.get(key) or die(f"{where}: unknown setting {key!r}", _nearest(key))


def _option(text: str, origin: str) -> _Choice:
    key, equals, value = text.partition("=")
    if not equals:
        die(f"{origin} {text!r} is not KEY=VALUE", f"for example {origin} policy.bpf=drop")
    default = _setting(key, origin).default
    if isinstance(default, bool):
        return _Choice(key, {"true": True, "false": False}.get(value, value), origin)
    number = isinstance(default, int) and re.fullmatch(r"[0-9]{1,18}", value)
    return _Choice(key, int(value) if number else value, origin)


def _from_command_line(root: Path) -> list[_Choice]:
    """The word `mbecguard=`: `off` wins wherever it stands, as it does for the units; else the last one.

    Who writes another word wants something else than usual, most likely no lock: then there is none, and it is said.
    """
    try:
        line = (root / "proc/cmdline").read_text(errors="replace")
    except OSError:
        return []
    # As next_arg() in lib/cmdline.c: a double quote keeps spaces together, wherever it begins.
    words = [word.replace('"', "") for word in re.findall(r'(?:[^\s"]|"[^"]*"?)+', line)]
    values = [word.partition("=")[2] for word in words if word.partition("=")[0] == "mbecguard"]
    if not values:
        return []
    value = OFF if OFF in values else values[-1]
    if value in WORDS:
        return [_Choice("lock.mode", value, COMMAND_LINE)]
    return [_Choice("lock.mode", OFF, f"{COMMAND_LINE} (unknown word mbecguard={value!r})")]


def _system_files(root: Path) -> list[Path]:
    file, folder = root / SYSTEM_FILE, root / SYSTEM_FOLDER
    for parent in (file.parent, folder):
        if _exists(parent):
            _refuse_unsafe(parent, folder=True)
    names = _names(folder) if _exists(folder) else []
    further = [folder / name for name in names if name.endswith(".toml") and not name.startswith(".")]
    return [file, *further] if _exists(file) else further


def _exists(path: Path) -> bool:
    """Whether there is anything, a broken link too. Dies where nobody can tell."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:
        die(f"{path} cannot be read: {error.strerror}", _REPAIR)
    return True


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError as error:
        die(f"{folder} cannot be read: {error.strerror}", _REPAIR)


def _choices(files: Iterable[Path], *, trusted: bool) -> Iterator[_Choice]:
    for file in files:
        name = os.fsencode(file).decode(errors="backslashreplace")
        if trusted:
            _refuse_unsafe(file)
        for key, value in _flatten(_toml(file), name):
            yield _Choice(key, value, name)


def _refuse_unsafe(path: Path, *, folder: bool = False) -> None:
    """Whoever may write the settings decides what the kernel may run."""
    try:
        found = path.stat()
    except OSError as error:
        die(f"{path} cannot be read: {error.strerror}", _REPAIR)
    right, kind = (stat.S_ISDIR, "folder") if folder else (stat.S_ISREG, "file")
    if not right(found.st_mode):
        die(f"{path} is not a {kind}", _REPAIR)
    if found.st_uid not in {0, os.geteuid()}:
        die(f"{path} belongs to another user ({found.st_uid})", f"chown root {path}")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        die(f"{path} can be written by others than its owner", f"chmod go-w {path}")


def _toml(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as content:
            data = content.read(_FILE_LIMIT + 1)
        if len(data) > _FILE_LIMIT:
            die(f"{file} is larger than {_FILE_LIMIT >> 20} MiB", "settings fit into a few lines")
        return tomllib.loads(data.decode())
    except OSError as error:
        die(f"{file} cannot be read: {error.strerror}", "give a TOML file that may be read")
    except (ValueError, RecursionError) as error:  # TOML, UTF-8, integers of thousands of digits
        die(f"{file} is not TOML: {error}", 'for example [policy] in one line and bpf = "drop" in the next')


def _flatten(table: dict[str, Any], where: str) -> Iterable[tuple[str, object]]:
    for section, content in table.items():
        if not isinstance(content, dict):
            die(f"{where}: {section} is outside any section", _nearest(section))
        if section not in SECTIONS and not content:
            die(f"{where}: unknown section {section!r}", f"known sections: {', '.join(SECTIONS)}")
        yield from ((f"{section}.{name}", value) for name, value in content.items())


def _nearest(key: str) -> str:
    """Settings of the same name in any section, else the one that is spelled most alike, with a section or without."""
    same = [name for name in BY_KEY if name.partition(".")[2] == key.rpartition(".")[2]]
    spelled = {name.partition(".")[2]: name for name in reversed(BY_KEY)} | {name: name for name in BY_KEY}
    close = same or [spelled[name] for name in difflib.get_close_matches(key, spelled, n=1, cutoff=0.5)]
    return f"did you mean {' or '.join(close)}?" if close else f"known settings: {', '.join(BY_KEY)}"
