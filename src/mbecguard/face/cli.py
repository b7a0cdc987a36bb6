# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: from words to one of the commands. What help does not need is imported when a command runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import cache
from itertools import pairwise

from mbecguard import __version__
from mbecguard.face.options import BEFORE, BY_DEST, EVERYWHERE, add, add_options, add_together
from mbecguard.face.table import COMMANDS, HELP, NAMES, Command
from mbecguard.face.usage import COMMAND, Parser, arguments, subcommands, value
from mbecguard.values.errors import Exit, UserError


def main(words: list[str] | None = None) -> int:
    """Run one command; returns the exit status. The one handler for user errors."""
    given = sys.argv[1:] if words is None else words
    try:
        return _run(given)
    except KeyboardInterrupt:
        import signal

        from mbecguard.face.tell import say

        say("interrupted")
        return 128 + signal.SIGINT  # as a shell has it
    except BrokenPipeError:
        from mbecguard.face.output import forget_stdout

        forget_stdout()
        return Exit.ERROR


def _run(words: Sequence[str]) -> int:
    try:
        options = parse(words)
        if options.command is HELP:
            (subcommands(parser(options.topic))[options.topic] if options.topic else parser("")).print_help()
            return Exit.OK
        if options.command.stays:
            from mbecguard.face.stay import stay

            return stay(options)
        from mbecguard.face.run import run

        return run(options)
    except UserError as error:
        from mbecguard.face.output import refuse

        refuse(error, as_json=_wants_json(words))
        return error.status


def _wants_json(words: Sequence[str]) -> bool:
    """Whether the answer should be JSON: told by the words, as they may be too wrong to be parsed."""
    formats = {f"{one}={other}" for one, other in pairwise(words)} | set(words)
    return not {"--json", "--format=json"}.isdisjoint(formats)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """What a command line says; dies if it is wrong."""
    ordered = _command_first(list(words))
    wanted: str | None = next((word for word in ordered if word in NAMES), "")
    if wanted and wanted != ordered[0]:
        wanted = None  # something is wrong: who explains it has to know all
    options, unknown = parser(wanted).parse_known_args(ordered)
    if unknown:
        parsers = subcommands(parser())
        parsers[options.command.name].unknown(unknown, parsers)
    return options


def _command_first(words: list[str]) -> list[str]:
    """Options that stand before the command are put behind it, where they are understood."""
    known = [*BY_DEST.values(), *(option for command in COMMANDS for option in command.own)]
    takes = {flag: option.takes_value for option in known for flag in option.flags if flag.startswith("-")}
    at = 0
    while at < len(words) and (flag := words[at].partition("=")[0]) in takes:
        at += 2 if takes[flag] and "=" not in words[at] else 1
    return [words[at], *words[:at], *words[at + 1 :]] if at < len(words) else words


@cache
def parser(only: str | None = None) -> Parser:
    """All commands and options; the manual and the completions are made from it too.

    `only`: this command alone, which is all that its command line needs; empty: all are listed, for help.
    """
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
    for command in (command for command in COMMANDS if not only or command.name == only):
        whole = only != ""
        made = subparsers.add_parser(
            command.name,
            help=command.summary,
            description=f"{command.summary}. {command.about}",
            examples=command.examples,
            add_help=whole,
        )
        if whole:
            _fill(made, command)
    add_together(top, BEFORE, "before the command or after it")
    return top


def _fill(made: Parser, command: Command) -> None:
    made.advice.update(command.advice)
    add(made.add_mutually_exclusive_group() if command.one_of_own else made, command.own, command.advice)
    shown = ["[OPTIONS]"] if command.options else []
    made.usage = " ".join(["%(prog)s", *shown, *map(value, arguments(made))])
    add_options(made, command.options, hidden=EVERYWHERE)
    made.set_defaults(command=command)
