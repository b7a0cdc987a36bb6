# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the values of the settings come from: defaults, files, the kernel command line, options.

What is wrong in the files of the system is kept beside the values that can be read. Whoever only looks at a guest goes
on with those; whoever changes it asks for `clean` settings. A wrong option of a command is fatal.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mbecguard.settings.declared import BY_KEY, SECTIONS, SETTINGS, SYSTEM_FILE, SYSTEM_FOLDER, WORDS, Setting, Value
from mbecguard.values.errors import UserError, die

OFF = "off"  #: the word, and the value of lock.mode
DEFAULT, COMMAND_LINE = "default", "kernel command line"

_FILE_LIMIT = 1 << 20  #: bytes
_REPAIR = "put it right as root, or remove it"
_GIVE = f"give a TOML file that may be read, or leave --config out: then /{SYSTEM_FILE.parent} counts"


class Problem(NamedTuple):
    """Something that is wrong in the files of the settings, and what to do about it."""

    message: str
    hint: str


class Settings(NamedTuple):
    """All settings with their values and where each comes from; read them by key.

    What the problems name is left out: there the value is that of an earlier place, in the end the default.
    """

    values: Mapping[str, Value]
    origins: Mapping[str, str]  #: of those that are set: a file, an option, or the kernel command line
    problems: tuple[Problem, ...] = ()

    def clean(self) -> Settings:
        """The same; dies if anything is wrong in the files."""
        if not self.problems:
            return self
        first, *others = self.problems
        more = f" (and {len(others)} more, see `mbecguard config`)" if others else ""
        die(f"{first.message}{more}", first.hint)

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


class _Given(NamedTuple):
    """One value from one place, not checked yet."""

    key: str
    value: object
    origin: str


class _Value(NamedTuple):
    """One that may stand there."""

    key: str
    value: Value
    origin: str


def load(
    file: Path | None = None,
    overrides: Iterable[str] = (),
    *,
    root: Path | None = None,
    flags: Mapping[str, str] | None = None,
) -> Settings:
    """Defaults, files, kernel command line, `--set KEY=VALUE`, flags: the later wins.

    `root` is that of the running guest: only there the system's files and command line count, and files that others
    may write are refused. `file` stands for the system's files. `flags` has KEY=VALUE by the name of an option.
    What is wrong in the system's files is skipped and told in `problems`; dies of a wrong `file` or option.
    """
    reader = _Reader(trusted=root is not None, tolerant=file is None)
    files = reader.files(root) if root and not file else [file] if file else []
    given = reader.values(files)
    words = _from_command_line(root) if root else []
    options = [_option(text, "--set") for text in overrides]
    options += [_option(text, flag) for flag, text in (flags or {}).items()]
    # `off` is the way out of a guest that its own settings broke: nothing may stand above it.
    last = [word for word in words if word.value == OFF]
    every = [*given, *words, *map(_checked, options), *last]
    values = {setting.key: setting.default for setting in SETTINGS} | {one.key: one.value for one in every}
    return Settings(values, {one.key: one.origin for one in every}, tuple(reader.problems))


def _checked(given: _Given) -> _Value:
    setting = _setting(given.key, given.origin)
    if not setting.allows(given.value):
        die(
            f"{given.origin}: {setting.key} has to be {setting.allowed}, not {given.value!r}",
            f"it is for: {setting.help}",
        )
    assert isinstance(given.value, bool | int | str)
    return _Value(given.key, given.value, given.origin)


def _setting(key: str, where: str) -> Setting:
    return BY_KEY.get(key) or die(f"{where}: unknown setting {key!r}", _nearest(key))


def _option(text: str, origin: str) -> _Given:
    key, equals, value = text.partition("=")
    if not equals:
        die(f"{origin} {text!r} is not KEY=VALUE", f"for example {origin} policy.bpf=drop")
    default = _setting(key, origin).default
    if isinstance(default, bool):
        return _Given(key, {"true": True, "false": False}.get(value, value), origin)
    number = isinstance(default, int) and re.fullmatch(r"[0-9]{1,18}", value)
    return _Given(key, int(value) if number else value, origin)


def _from_command_line(root: Path) -> list[_Value]:
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
        return [_Value("lock.mode", value, COMMAND_LINE)]
    return [_Value("lock.mode", OFF, f"{COMMAND_LINE} (unknown word mbecguard={value!r})")]


class _Reader:
    """Reads files. What is wrong there is fatal or, if `tolerant`, kept as a problem, and left out."""

    def __init__(self, *, trusted: bool, tolerant: bool) -> None:
        self.trusted, self.tolerant = trusted, tolerant
        self.problems: list[Problem] = []

    def files(self, root: Path) -> list[Path]:
        """Those of the system, in their order; none of a folder that others may write to."""
        file, folder = root / SYSTEM_FILE, root / SYSTEM_FOLDER
        found: list[Path] = []
        with self._noting():
            if _safe_folder(file.parent):
                found += [file] if _exists(file) else []
                found += self._further(folder)
        return found

    def _further(self, folder: Path) -> list[Path]:
        names: list[str] = []
        with self._noting():
            if _safe_folder(folder):
                names = _names(folder)
        return [folder / name for name in names if name.endswith(".toml") and not name.startswith(".")]

    def values(self, files: Iterable[Path]) -> Iterator[_Value]:
        """What the files set, file by file."""
        for file in files:
            with self._noting():
                repair = _REPAIR if self.tolerant else _GIVE
                if self.trusted:
                    _refuse_unsafe(file, repair)
                yield from self._sections(_toml(file, repair), os.fsencode(file).decode(errors="backslashreplace"))

    def _sections(self, table: dict[str, Any], where: str) -> Iterator[_Value]:
        for section, content in table.items():
            with self._noting():
                for name, value in _entries(section, content, where):
                    with self._noting():
                        yield _checked(_Given(f"{section}.{name}", value, where))

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            if not self.tolerant:
                raise
            self.problems.append(Problem(error.message, error.hint))


def _exists(path: Path) -> bool:
    """Whether there is anything, a broken link too. Dies where nobody can tell."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:
        die(f"{path} cannot be read: {error.strerror}", _REPAIR)
    return True


def _safe_folder(folder: Path) -> bool:
    """Whether it is there; dies if others may write to it."""
    there = _exists(folder)
    if there:
        _refuse_unsafe(folder, _REPAIR, folder=True)
    return there


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError as error:
        die(f"{folder} cannot be read: {error.strerror}", _REPAIR)


def _refuse_unsafe(path: Path, repair: str, *, folder: bool = False) -> None:
    """Whoever may write the settings decides what the kernel may run."""
    try:
        found = path.stat()
    except OSError as error:
        die(f"{path} cannot be read: {error.strerror}", repair)
    right, kind = (stat.S_ISDIR, "folder") if folder else (stat.S_ISREG, "file")
    if not right(found.st_mode):
        die(f"{path} is not a {kind}", repair)
    if found.st_uid not in {0, os.geteuid()}:
        die(f"{path} belongs to another user ({found.st_uid})", f"chown root {path}")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        die(f"{path} can be written by others than its owner", f"chmod go-w {path}")


def _toml(file: Path, repair: str) -> dict[str, Any]:
    import tomllib  # a guest may have no such file

    try:
        with file.open("rb") as content:
            data = content.read(_FILE_LIMIT + 1)
        if len(data) > _FILE_LIMIT:
            die(f"{file} is larger than {_FILE_LIMIT >> 20} MiB", "settings fit into a few lines")
        return tomllib.loads(data.decode())
    except OSError as error:
        die(f"{file} cannot be read: {error.strerror}", repair)
    except (ValueError, RecursionError) as error:  # TOML, UTF-8, integers of thousands of digits
        die(f"{file} is not TOML: {error}", 'for example [policy] in one line and bpf = "drop" in the next')


def _entries(section: str, content: object, where: str) -> Iterable[tuple[str, object]]:
    if not isinstance(content, dict):
        die(f"{where}: {section} is outside any section", _nearest(section))
    if section not in SECTIONS and not content:
        die(f"{where}: unknown section {section!r}", f"known sections: {', '.join(SECTIONS)}")
    return content.items()


def _nearest(key: str) -> str:
    """Settings of the same name in any section, else the one that is spelled most alike, with a section or without."""
    import difflib  # for mistakes alone

    same = [name for name in BY_KEY if name.partition(".")[2] == key.rpartition(".")[2]]
    spelled = {name.partition(".")[2]: name for name in reversed(BY_KEY)} | {name: name for name in BY_KEY}
    close = same or [spelled[name] for name in difflib.get_close_matches(key, spelled, n=1, cutoff=0.5)]
    return f"did you mean {' or '.join(close)}?" if close else f"known settings: {', '.join(BY_KEY)}"
