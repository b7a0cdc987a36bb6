# SPDX-License-Identifier: GPL-2.0-or-later
"""How many processors a guest has, and could have."""

from __future__ import annotations

from dataclasses import dataclass

from mbecguard.guest.tree import Tree
from mbecguard.values.cpus import cpu_list
from mbecguard.values.errors import die
from mbecguard.values.facts import Absent, Fact, Known, Unknown, told

POSSIBLE = "sys/devices/system/cpu/possible"
ONLINE = "sys/devices/system/cpu/online"
NOT_LOOKED = Unknown("nobody looked")


@dataclass(frozen=True, slots=True)
class Processors:
    """Those that run now, and those that could be brought online."""

    possible: int
    online: int


def processors(tree: Tree) -> Fact[Processors]:
    """Look at a guest's files; every kernel has both (drivers/base/cpu.c), so that without them it is unknown."""
    counts = []
    for path in (POSSIBLE, ONLINE):
        fact = tree.fact(path)
        if isinstance(fact, Absent):
            return Unknown(f"there is no /{path}", "of a captured guest: capture it again")
        if isinstance(fact, Unknown):
            return fact
        counted = told(lambda text=fact.value, path=path: _count(text, path))  # type: ignore[misc]
        if not isinstance(counted, Known):
            return counted
        counts.append(counted.value)
    return Known(Processors(*counts))


def _count(text: str, path: str) -> int:
    """How many there are."""
    try:
        return len(cpu_list(text))
    except ValueError:
        die(f"/{path} is no list of processors", "of a captured guest: capture it again")
