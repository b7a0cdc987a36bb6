# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: from words to a session and one of the commands."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterable, Sequence
from functools import cache, partial
from itertools import pairwise
from pathlib import Path

from mbecguard import __version__
from mbecguard.face.options import BEFORE, EVERYWHERE, add_options, add_together
from mbecguard.face.output import Output, forget_stdout
from mbecguard.face.table import COMMANDS, Command, Needs
from mbecguard.face.tell import WORKING, complain, say, show_usage
from mbecguard.face.usage import COMMAND, Parser, UsageError, arguments, subcommands, value
from mbecguard.session import Places, Session, require_root
from mbecguard.settings.load import Settings
from mbecguard.settings.load import load as load_settings
from mbecguard.values.errors import Exit, Failure, UserError, die


def main(words: list[str] | None = None) -> int:
    """Run one command; returns the exit status. The one handler for user errors."""
    given = sys.argv[1:] if words is None else words
    try:
        return _run(given)
    except KeyboardInterrupt:
        say("interrupted")
        return 128 + signal.SIGINT  # as a shell has it
    except BrokenPipeError:
        forget_stdout()
        return Exit.ERROR


def _run(words: Sequence[str]) -> int:
    try:
        options = parse(words)
        options.settings = partial(_settings, options)
        if options.command.root and not options.guest:
            require_root()
        return int(options.run(options, _session(options)))
    except UserError as error:
        if isinstance(error, UsageError):
            show_usage(error.usage)
        complain(error)
        if _wants_json(words) and sys.stdout:
            Output(json=True).show(Failure.of(error), ())
        return error.status


def _wants_json(words: Sequence[str]) -> bool:
    """Whether the answer should be JSON: told by the words, as they may be too wrong to be parsed."""
    formats = {f"{one}={other}" for one, other in pairwise(words)} | set(words)
    return not {"--json", "--format=json"}.isdisjoint(formats)


def _session(options: argparse.Namespace) -> Session:
    command: Command = options.command
    default = Places.captured() if options.guest else Places.live()
    if options.state_dir and command.remembers:
        _require_folder(options.state_dir, default.state)
    settings = _settings(options)
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


def _settings(options: argparse.Namespace) -> Settings:
    if options.command.needs is Needs.NONE or getattr(options, "default", False):
        return load_settings()
    flags = {}
    for flag, key in _SHORTCUTS.items():
        if given := getattr(options, flag, None):
            flags[f"--{flag.replace('_', '-')}"] = f"{key}={'true' if given is True else given}"
    # A captured guest is planned alike everywhere: neither this machine's settings nor its command line are its own.
    root = None if options.guest else _ROOT
    return load_settings(options.config, options.set, root=root, flags=flags)


_ROOT = Path("/")

#: Options that are only short for a setting.
_SHORTCUTS = {
    "host": "lock.host",
    "mode": "lock.mode",
    "deny_unexplained": "policy.deny_unexplained",
    "tight": "policy.tight",
}


def parse(words: Sequence[str]) -> argparse.Namespace:
    """What a command line says; dies if it is wrong."""
    top = parser()
    parsers = subcommands(top)
    options, unknown = top.parse_known_args(_command_first(list(words), parsers.values()))
    if unknown:
        parsers[options.command.name].unknown(unknown, parsers)
    options.parsers = {"": top, **parsers}
    return options


def _command_first(words: list[str], parsers: Iterable[Parser]) -> list[str]:
    """Options that stand before the command are put behind it, where they are understood."""
    takes = {flag: action.nargs != 0 for p in parsers for action in p.every() for flag in action.option_strings}
    at = 0
    while at < len(words) and (flag := words[at].partition("=")[0]) in takes and flag not in ("-h", "--help"):
        at += 2 if takes[flag] and "=" not in words[at] else 1
    return [words[at], *words[:at], *words[at + 1 :]] if at < len(words) else words


@cache
def parser() -> Parser:
    """All commands and options; the manual and the completions are made from it too."""
    top = Parser(
        prog="mbecguard",
        usage="%(prog)s COMMAND [OPTIONS]",
        description="Hypervisor-enforced kernel code for stock Linux guests (MBEC).",
        examples=(
            ("mbecguard check", "what would stop a lock here"),
            ("mbecguard help lock", "what a command does and takes, with examples"),
        ),
    )
    top.add_argument("--version", action="version", version=f"mbecguard {__version__}")
    subparsers = top.add_subparsers(
        required=True, prog=top.prog, metavar=COMMAND, title="commands", parser_class=Parser
    )
    for command in COMMANDS:
        _add(subparsers, command)
    add_together(top, BEFORE, "before the command or after it")
    return top


def _add(subparsers: argparse._SubParsersAction[Parser], command: Command) -> None:
    made = subparsers.add_parser(
        command.name, help=command.summary, description=f"{command.summary}. {command.about}", examples=command.examples
    )
    command.own(made)
    shown = ["[OPTIONS]"] if command.options else []
    made.usage = " ".join(["%(prog)s", *shown, *map(value, arguments(made))])
    add_options(made, command.options, hidden=EVERYWHERE)
    made.set_defaults(command=command, run=command.run)
