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
    """A value that a file gives to a sysctl; `file` is below the guest's root."""

    value: str
    file: str


def files(tree: Tree) -> tuple[str, ...]:
    """The files that count, in the order in which they are read; one that cannot be read is empty."""
    found: dict[str, str] = {}
    for folder in FOLDERS:
        for name in known(tree.fact_of_names(folder), ()):
            if name.endswith(".conf"):
                found.setdefault(name, f"{folder}/{name}")
    return (*(path for _, path in sorted(found.items())), LAST)


def assignments(tree: Tree, names: tuple[str, ...]) -> dict[str, Assignment]:
    """Which of these sysctls are set, and what they come to."""
    found: dict[str, Assignment] = {}
    for path in files(tree):
        for line in known(tree.fact(path), "").splitlines():
            key, equals, value = line.strip().partition("=")
            if equals and not key.startswith(("#", ";")):
                pattern = _dotted(key.strip().removeprefix("-").strip())
                found |= {name: Assignment(value.strip(), path) for name in names if fnmatchcase(name, pattern)}
    return found


def _dotted(key: str) -> str:
    """A key by its dots; if a slash comes first in it, slashes part it, and dots belong to the names."""
    dot, slash = key.find("."), key.find("/")
    return key.translate(str.maketrans("./", "/.")) if slash >= 0 and (dot < 0 or slash < dot) else key
