# SPDX-License-Identifier: GPL-2.0-or-later
"""The options that commands share: one table, by the headings under which help shows them."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Option:
    """One option; `more` is for argparse."""

    flags: tuple[str, ...]
    help: str
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def dest(self) -> str:
        """Its name among the options."""
        return self.flags[-1].removeprefix("--").replace("-", "_")


def _path(flag: str, kind: str, text: str) -> Option:
    return Option((flag,), text, {"type": Path, "metavar": kind})


def _switch(flag: str, text: str) -> Option:
    return Option((flag,), text, {"action": "store_true"})


GROUPS: dict[str, tuple[Option, ...]] = {
    "output": (
        _switch("--json", "JSON on stdout, diagnostics on stderr"),
        Option(("-o", "--output"), "write to a file instead of stdout", {"type": Path, "metavar": "FILE"}),
    ),
    "guest and host": (
        _path("--guest", "DIR", "a captured guest instead of the running one"),
        _path("--kernel-image", "FILE", "vmlinuz, vmlinux or unified kernel image"),
        Option(
            ("--modules-dir",),
            "a folder of the running release's modules; may be given more than once",
            {"type": Path, "action": "append", "metavar": "DIR"},
        ),
        Option(("--host",), "whom to ask", {"choices": ("auto", "shim", "simulator")}),
    ),
    "plan": (
        _switch("--deny-unexplained", "drop unexplained pages instead of refusing"),
        Option(("--tight",), "drop all free space among kept code", {"action": "store_const", "const": "on"}),
    ),
    "settings and folders": (
        _path("--config", "FILE", "settings (TOML) instead of those in /etc/mbecguard"),
        Option(
            ("--set",),
            "one setting, see mbecguard.toml(5)",
            {"action": "append", "default": [], "metavar": "KEY=VALUE"},
        ),
        _path("--state-dir", "DIR", "where records are kept"),
        _path("--cache-dir", "DIR", "where parsed sections are cached"),
    ),
}
BY_DEST = {option.dest: option for options in GROUPS.values() for option in options}

OUTPUT = ("json", "output")
GUEST = ("guest", "kernel_image", "modules_dir")
PLAN = ("deny_unexplained", "tight")
SETTINGS = ("config", "set")

#: Where things are may be said to every command, as a script does; the help of a command shows what it looks at.
EVERYWHERE = ("guest", *SETTINGS, "state_dir", "cache_dir")
#: What may stand before the command as well is shown there if most commands take it.
BEFORE = ("json", "guest", *SETTINGS, "state_dir", "cache_dir")


def add_options(parser: argparse.ArgumentParser, names: Collection[str], hidden: Collection[str] = ()) -> None:
    """Add options by their names, grouped. Hidden ones are taken, and not shown; all others have no value."""
    for title, options in GROUPS.items():
        visible = [option for option in options if option.dest in names]
        if visible:
            _add(parser.add_argument_group(title), visible)
    for name in hidden:
        if name not in names:
            _add(parser, [replace(BY_DEST[name], help=argparse.SUPPRESS)])
    parser.set_defaults(**dict.fromkeys(BY_DEST.keys() - {*names, *hidden}))


def add_together(parser: argparse.ArgumentParser, names: Iterable[str], title: str) -> None:
    """Add options under one heading."""
    _add(parser.add_argument_group(title), [BY_DEST[name] for name in names])


def _add(group: argparse._ActionsContainer, options: Iterable[Option]) -> None:
    for option in options:
        group.add_argument(*option.flags, dest=option.dest, help=option.help, **option.more)
