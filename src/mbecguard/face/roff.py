# SPDX-License-Identifier: GPL-2.0-or-later
"""Parts of a man page, in roff."""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping

from mbecguard import __version__
from mbecguard.face.usage import COMMAND, Parser, arguments, options


def commands(commands: Mapping[str, argparse.ArgumentParser], shared: Collection[str]) -> Iterator[str]:
    """Each command: how it is called, what it is for, its own options, and the names of shared ones."""
    for name, parser in commands.items():
        taken = [action for action in options(parser) if action.dest != "help"]
        own = [action for action in taken if not is_among(action, shared)]
        yield from entries([(usage(name, parser, short=True), parser.description or "")])
        rows = [(flags(action), action.help) for action in (*arguments(parser), *own) if action.help]
        yield from (".RS", *entries(rows), ".RE") if rows else ()
        others = [bold(action.option_strings[-1]) for action in taken if action not in own]
        yield from (".RS", ".PP", f"Also: {', '.join(others)}", ".RE") if others else ()


def shared(parsers: Iterable[argparse.ArgumentParser]) -> dict[str, argparse.Action]:
    """Options that several of them have, by name."""
    found: dict[str, list[argparse.Action]] = {}
    for action in (action for parser in parsers for action in options(parser) if action.dest != "help"):
        found.setdefault(action.option_strings[-1], []).append(action)
    return {name: same[0] for name, same in found.items() if len(same) > 1 and len({a.help for a in same}) == 1}


def is_among(action: argparse.Action, shared: Collection[str]) -> bool:
    """Whether an option is one of those."""
    return action.option_strings[-1] in shared


def examples(parsers: Iterable[argparse.ArgumentParser]) -> Iterator[str]:
    """The examples of all commands."""
    rows = (example for parser in parsers if isinstance(parser, Parser) for example in parser.examples)
    return entries((bold(line), text) for line, text in rows)


def usage(name: str, parser: argparse.ArgumentParser, *, short: bool = False) -> str:
    """How a command is called; `short` leaves out the program and that there are options."""
    program = bold(name if short else parser.prog)
    optional = {"?": "[{}]", "*": "[{} ...]"}
    rest = [optional.get(str(action.nargs), "{}").format(value(action)) for action in arguments(parser)]
    takes = not short and len(options(parser)) > 1
    return " ".join([program, *([f"[{italic('OPTIONS')}]"] if takes else []), *rest])


def flags(action: argparse.Action) -> str:
    """An option with its value."""
    named = ", ".join(map(bold, action.option_strings))
    return f"{named} {value(action)}".strip() if action.nargs != 0 else named


def value(action: argparse.Action) -> str:
    """What stands for a value."""
    if action.choices and action.metavar != COMMAND:
        return "|".join(map(bold, action.choices))
    return italic(str(action.metavar or action.dest.upper()))


def title(name: str, section: int) -> str:
    """The first line of a page."""
    day = time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())))
    return f'.TH {name.upper()} {section} {time.strftime("%Y-%m-%d", day)} "mbecguard {__version__}"'


def section(name: str) -> tuple[str]:
    """A heading."""
    return (f".SH {name}",)


def entries(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A list of terms, each with its text."""
    for head, body in rows:
        yield from (".TP", head, plain(body))


def lines_between(line: str, lines: Iterable[str]) -> Iterator[str]:
    """Lines with one and the same between them."""
    for number, text in enumerate(lines):
        yield from (line, text) if number else (text,)


def lower(sentence: str) -> str:
    """A sentence as it goes on after a dash."""
    return (sentence[:1].lower() + sentence[1:]).rstrip(".")


def bold(text: str) -> str:
    """Bold."""
    return f"\\fB{plain(text)}\\fR"


def italic(text: str) -> str:
    """Italic."""
    return f"\\fI{plain(text)}\\fR"


def plain(text: str) -> str:
    """As roff shows it literally: no escapes, no requests, ASCII minus signs and quotes."""
    for char, escape in (("\\", "\\e"), ("-", "\\-"), ("'", "\\(aq"), ("`", "\\(ga"), ("^", "\\(ha"), ("~", "\\(ti")):
        text = text.replace(char, escape)
    return re.sub(r"^\.", r"\\&.", text, flags=re.MULTILINE)
