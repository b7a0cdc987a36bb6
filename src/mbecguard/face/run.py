# SPDX-License-Identifier: GPL-2.0-or-later
"""From the options of a command to its session, and to the function that runs it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from mbecguard.face import commands
from mbecguard.face.options import BY_DEST, Option
from mbecguard.face.table import COMMANDS, Command, Needs
from mbecguard.face.tell import WORKING, say
from mbecguard.session import Places, Session, require_root
from mbecguard.settings.load import Settings
from mbecguard.settings.load import load as load_settings
from mbecguard.values.errors import die


def run(options: argparse.Namespace) -> int:
    """Run the command that the options name; returns the exit status."""
    act: Callable[[argparse.Namespace, Session], int] = getattr(commands, options.command.name)
    return int(act(options, session_of(options)))


def session_of(options: argparse.Namespace) -> Session:
    """The session that the options name; dies if the user may not have it, or what it needs is not there."""
    command: Command = options.command
    if command.root and not options.guest:
        require_root()
    default = Places.captured() if options.guest else Places.live()
    if options.state_dir and command.remembers:
        _require_folder(options.state_dir, default.state)
    settings = settings_of(options)
    if command.needs is Needs.CLEAN:
        settings.clean()
    elif command.needs is Needs.READABLE:
        for problem in settings.problems:
            say(f"warning: {problem.message}", problem.hint)
    return Session(
        settings=settings,
        places=Places(options.state_dir or default.state, options.cache_dir or default.cache),
        folder=options.guest,
        kernel_image=options.kernel_image,
        modules_dirs=tuple(options.modules_dir or ()),
        note=WORKING.note,
    )


def _require_folder(given: Path, default: Path) -> None:
    """A folder that is not there says nothing about a guest; without this it would look like one that is open."""
    try:
        found = given.is_dir()
    except OSError as error:
        die(f"the state folder {given} cannot be read: {error.strerror}", "run as root")
    if not found:
        hint = f"give the one that `mbecguard lock` was given; without --state-dir it is {default}"
        die(f"there is no state folder {given}", hint)


def settings_of(options: argparse.Namespace) -> Settings:
    """The settings that a command has: the system's, and those of its options."""
    if options.command.needs is Needs.NONE or getattr(options, "default", False):
        return load_settings()
    flags = {}
    for option in _SHORTCUTS:
        if given := getattr(options, option.dest, None):
            flags[option.flags[0]] = f"{option.setting}={given}"
    # A captured guest is planned alike everywhere: neither this machine's settings nor its command line are its own.
    root = None if options.guest else _ROOT
    return load_settings(options.config, options.set, root=root, flags=flags)


_ROOT = Path("/")

#: Options that are only short for a setting.
_SHORTCUTS: tuple[Option, ...] = tuple(
    option
    for option in (*BY_DEST.values(), *(option for command in COMMANDS for option in command.own))
    if option.setting
)
