# SPDX-License-Identifier: GPL-2.0-or-later
"""The options that commands share: one table, by the headings under which help shows them."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Option(NamedTuple):
    """One option, or an argument, whose flag is a name. `more` is for argparse.

    `setting`: the option is only short for that, and takes what it takes.
    """

    flags: tuple[str, ...]
    help: str
    more: Mapping[str, Any] = NOTHING
    setting: str = ""

    @property
    def dest(self) -> str:
        """Its name among the options."""
        return self.flags[-1].removeprefix("--").replace("-", "_")

    @property
    def takes_value(self) -> bool:
        """Whether the next word belongs to it."""
        return not str(self.more.get("action", "")).startswith("store_")


def path(text: str) -> Path:
    """A path that was given."""
    from pathlib import Path  # help shows none

    return Path(text)


def switch(*told: str) -> Option:
    """One that is given or not: its flags, and what it is for."""
    return Option(told[:-1], told[-1], {"action": "store_true"})


def _path(flag: str, kind: str, text: str) -> Option:
    return Option((flag,), text, {"type": path, "metavar": kind})


def _short(flag: str, text: str, setting: str, value: str) -> Option:
    return Option((flag,), text, {"action": "store_const", "const": value}, setting)


GROUPS: dict[str, tuple[Option, ...]] = {
    "output": (
        switch("--json", "JSON on stdout, diagnostics on stderr"),
        Option(("-o", "--output"), "write to a file instead of stdout", {"type": path, "metavar": "FILE"}),
    ),
    "guest and host": (
        _path("--guest", "DIR", "a captured guest instead of the running one"),
        _path("--kernel-image", "FILE", "vmlinuz, vmlinux or unified kernel image"),
        Option(
            ("--modules-dir",),
            "a folder of the running release's modules; may be given more than once",
            {"type": path, "action": "append", "metavar": "DIR"},
        ),
        Option(("--host",), "whom to ask", setting="lock.host"),
    ),
    "plan": (
        _short("--deny-unexplained", "drop unexplained pages instead of refusing", "policy.deny_unexplained", "true"),
        _short("--tight", "drop all free space among kept code", "policy.tight", "on"),
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
            add(parser.add_argument_group(title), visible)
    add(parser, [BY_DEST[name]._replace(help=argparse.SUPPRESS) for name in hidden if name not in names])
    parser.set_defaults(**dict.fromkeys(BY_DEST.keys() - {*names, *hidden}))


def add_together(parser: argparse.ArgumentParser, names: Iterable[str], title: str) -> None:
    """Add options under one heading."""
    add(parser.add_argument_group(title), [BY_DEST[name] for name in names])


def add(group: argparse._ActionsContainer, options: Iterable[Option], unwanted: Collection[str] = ()) -> None:
    """Add options; `unwanted`: values that a setting has, and an option for it has not."""
    for option in options:
        dest: dict[str, Any] = {"dest": option.dest} if option.flags[0].startswith("-") else {}
        group.add_argument(*option.flags, **dest, help=option.help, **{**_choices(option, unwanted), **option.more})


def _choices(option: Option, unwanted: Collection[str]) -> dict[str, Any]:
    if not option.setting or not option.takes_value:
        return {}
    from mbecguard.settings.declared import BY_KEY  # only if such an option is asked for

    return {"choices": tuple(value for value in BY_KEY[option.setting].choices if value not in unwanted)}
