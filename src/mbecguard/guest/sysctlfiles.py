# SPDX-License-Identifier: GPL-2.0-or-later
"""What the files of sysctl.d set, whenever somebody has them read again."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from mbecguard.guest.tree import Tree
from mbecguard.values.facts import known

#: sysctl.d(5): of files with one name the first folder's counts; all are read in the order of their names.
FOLDERS = ("etc/sysctl.d", "run/sysctl.d", "usr/local/lib/sysctl.d", "usr/lib/sysctl.d", "lib/sysctl.d")
LAST = "etc/sysctl.conf"  #: `sysctl --system` reads it last


@dataclass(frozen=True, slots=True)
class Assignment:
    """A value that a line of a file gives to a sysctl; `file` is below the guest's root."""

    value: str
    file: str
    line: int = 1

    @property
    def place(self) -> str:
        """Where a person finds it."""
        return f"/{self.file}:{self.line}"


def files(tree: Tree) -> tuple[str, ...]:
    """The files that count, in the order in which they are read; one that cannot be read is empty."""
    found: dict[str, str] = {}
    for folder in FOLDERS:
        for name in known(tree.fact_of_names(folder), ()):
            if name.endswith(".conf"):
                found.setdefault(name, f"{folder}/{name}")
    return (*(path for _, path in sorted(found.items())), LAST)


def assignments(tree: Tree, names: tuple[str, ...]) -> dict[str, Assignment]:
    """Which of these sysctls are set, and what they come to. A pattern never outdoes a name (sysctl.d(5))."""
    by_name: dict[str, Assignment] = {}
    by_pattern: dict[str, Assignment] = {}
    left_out: set[str] = set()
    for path in files(tree):
        for number, line in enumerate(known(tree.fact(path), "").splitlines(), 1):
            key, equals, value = line.strip().partition("=")
            if key.startswith(("#", ";")):
                continue
            name = _dotted(key.strip().removeprefix("-").strip())
            found = Assignment(value.strip(), path, number)
            if equals and name in names:
                by_name[name] = found
            elif equals:
                by_pattern |= {one: found for one in names if fnmatchcase(one, name)}
            elif key.startswith("-"):
                left_out.add(name)
    return {name: one for name, one in by_pattern.items() if name not in left_out} | by_name


def _dotted(key: str) -> str:
    """A key by its dots; if a slash comes first in it, slashes part it, and dots belong to the names."""
    dot, slash = key.find("."), key.find("/")
    return key.translate(str.maketrans("./", "/.")) if slash >= 0 and (dot < 0 or slash < dot) else key
