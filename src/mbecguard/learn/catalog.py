# SPDX-License-Identifier: GPL-2.0-or-later
"""Which modules an alias stands for: depmod's tables of one release."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from mbecguard.guest.tree import present
from mbecguard.image.module import module_name
from mbecguard.values.errors import die

_KEY = 3  #: letters by which patterns are found; few patterns are shorter than that


@dataclass(frozen=True)
class Catalog:
    """Modules that can be loaded by name, what each needs, and (pattern, module) pairs."""

    needs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    aliases: tuple[tuple[str, str], ...] = ()

    def modules(self, alias: str) -> frozenset[str]:
        """Names that `modprobe ALIAS` would load, without what they need; empty for what is built in or unknown."""
        name = _plain(alias)
        if name in self.needs:
            return frozenset({name})
        patterns = self._by_start.get(name[:_KEY], []) + self._by_start.get("", [])
        return frozenset(module for pattern, module in patterns if fnmatchcase(name, pattern))

    def loads(self, alias: str) -> frozenset[str]:
        """The same with what they need."""
        names = self.modules(alias)
        return names.union(*(self.needs.get(name, ()) for name in names))

    @cached_property
    def _by_start(self) -> dict[str, list[tuple[str, str]]]:
        table: dict[str, list[tuple[str, str]]] = {}
        for pattern, module in self.aliases:
            literal = re.split(r"[*?[]", pattern, maxsplit=1)[0]
            table.setdefault(literal[:_KEY] if len(literal) >= _KEY else "", []).append((pattern, module))
        return table


def with_tables(folders: Sequence[Path]) -> Path | None:
    """The folder that depmod has made its tables in; if none has them, the first."""
    return next((folder for folder in folders if present((folder / "modules.dep").is_file)), next(iter(folders), None))


def catalog(folder: Path | None) -> Catalog:
    """Read the tables of a modules folder; without one nothing is known."""
    if folder is None:
        return Catalog()
    needs = {}
    for line in _lines(folder / "modules.dep"):
        file, _, others = line.partition(":")
        needs[module_name(file)] = tuple(map(module_name, others.split()))
    rows = (line.split() for line in _lines(folder / "modules.alias"))
    aliases = tuple((_plain(row[1]), _plain(row[2])) for row in rows if len(row) == 3 and row[0] == "alias")
    return Catalog(needs, aliases)


def _lines(file: Path) -> Iterable[str]:
    try:
        return file.read_text(errors="replace").splitlines()
    except OSError as error:
        die(f"{file} cannot be read: {error.strerror}", "run depmod, or give the folder with --modules-dir")


def _plain(alias: str) -> str:
    # libkmod alias_normalize(): "-" and "_" are the same, but not within brackets.
    return re.sub(r"\[[^]]*\]|-", lambda match: match[0] if match[0] != "-" else "_", alias)
