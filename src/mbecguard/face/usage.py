# SPDX-License-Identifier: GPL-2.0-or-later
"""A parser of the command line that complains in two lines, and says what was probably meant."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

from mbecguard.values.errors import Exit, UserError

MARGIN = 2  #: columns that stay free on the right
NARROW = 80  #: columns where nobody tells
WIDEST = 100  #: columns; longer lines are hard to read
COMMAND = "COMMAND"  #: metavar of what is a command


AnyParser = TypeVar("AnyParser", bound=argparse.ArgumentParser)


class UsageError(UserError):
    """A wrong command line; `usage` is how it should look."""

    def __init__(self, usage: str, message: str, hint: str) -> None:
        super().__init__(message, hint, Exit.USAGE)
        self.usage = usage


class Formatter(argparse.HelpFormatter):
    """Fills what is written in one line, leaves examples as they are, and names the value of an option once."""

    def __init__(self, prog: str) -> None:
        width = min(_columns() - MARGIN, WIDEST)
        super().__init__(prog, max_help_position=30, width=width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        flags = ", ".join(action.option_strings)
        return flags if action.nargs == 0 else f"{flags} {value(action)}".strip()


class Parser(argparse.ArgumentParser):
    """Options are given in full: an abbreviation of today may mean two things tomorrow.

    `examples` are command lines with what they are for. `advice` has hints for values that people try.
    """

    def __init__(self, *, examples: Sequence[tuple[str, str]] = (), **more: Any) -> None:
        super().__init__(formatter_class=Formatter, allow_abbrev=False, epilog=_epilog(examples), **more)
        self._positionals.title = "arguments"
        self.examples = tuple(examples)
        self.advice: dict[str, str] = {}

    def every(self) -> list[argparse.Action]:
        """All that it takes."""
        return list(self._actions)

    def error(self, message: str) -> NoReturn:
        """Die of a wrong command line."""
        missing = [wanted(action) for action in self._actions if not action.option_strings and action.nargs != "?"]
        if missing and "required" in message:
            self._die(f"{self.command} needs {missing[0]}" if self.command else f"{missing[0]} is missing")
        self._die(message.removeprefix("argument "))

    def unknown(self, words: Sequence[str], parsers: Mapping[str, Parser]) -> NoReturn:
        """Die of words that this command does not take, perhaps as another one does."""
        word = words[0].partition("=")[0]
        if not word.startswith("-"):
            self._die(f"{self.command} takes no {words[0]!r}")
        if others := [name for name, other in parsers.items() if word in names(other)]:
            self._die(f"{self.command} takes no {word}; it is for {', '.join(others)}")
        self._die(f"{self.command} has no option {word}", _meant(word, names(self)))

    @property
    def command(self) -> str:
        """Its name; empty for the program itself."""
        return self.prog.partition(" ")[2]

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        words = [str(choice) for choice in action.choices]
        meant = self.advice.get(value) or _meant(str(value), words)
        if action.metavar == COMMAND:
            self._die(f"there is no command {value!r}", meant)
        self._die(f"{'/'.join(action.option_strings) or self.command} wants {_one_of(words)}, not {value!r}", meant)

    def _die(self, message: str, hint: str = "") -> NoReturn:
        program = self.prog.partition(" ")[0]
        told = f"`{program} help {self.command}` tells more" if self.command else f"`{program} help` lists the commands"
        raise UsageError(self.format_usage().strip(), message, hint or told)


def subcommands(parser: AnyParser) -> dict[str, AnyParser]:
    """The commands of a parser, in order."""
    choices = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(choices[0]) if choices else {}


def summaries(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Each command in one line."""
    described = {name: of.description or "" for name, of in subcommands(parser).items()}
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return described | {one.dest: one.help for group in groups for one in group._choices_actions if one.help}


def options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The options that its help shows, `--help` among them."""
    return [action for action in parser._actions if action.option_strings and action.help is not argparse.SUPPRESS]


def arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Its positional arguments, without a command."""
    return [a for a in parser._actions if not a.option_strings and not isinstance(a, argparse._SubParsersAction)]


def names(parser: argparse.ArgumentParser) -> list[str]:
    """All spellings of its options."""
    return [name for action in options(parser) for name in action.option_strings]


def value(action: argparse.Action) -> str:
    """What stands for an argument, or for the value of an option, in a usage line."""
    text = str(action.metavar) if action.metavar else "|".join(map(str, action.choices or [action.dest.upper()]))
    return f"[{text}]" if action.nargs == "?" else text


def wanted(action: argparse.Action) -> str:
    """What a missing argument has to be."""
    if action.metavar == COMMAND:
        return "a command"
    return f"one of {', '.join(map(str, action.choices))}" if action.choices else value(action)


def _columns() -> int:
    """Those of the terminal, as shutil.get_terminal_size() tells them; that module would bring all archivers along."""
    wanted = os.environ.get("COLUMNS", "")
    if wanted.isdecimal() and int(wanted):
        return int(wanted)
    with suppress(AttributeError, ValueError, OSError):  # stdout is closed, or no terminal
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or NARROW  # type: ignore[union-attr]
    return NARROW


def _one_of(words: Sequence[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def _meant(word: str, known: Sequence[str]) -> str:
    """A guess at what somebody wanted to write; empty if nothing is like it."""
    import difflib  # for mistakes alone

    bare = {name.lstrip("-"): name for name in known}
    begun = [name for name in bare if len(word.strip("-")) > 1 and name.startswith(word.lstrip("-"))]
    close = begun or difflib.get_close_matches(word.lstrip("-"), bare, n=2, cutoff=0.7)
    return f"did you mean {_one_of([bare[name] for name in close])}?" if close else ""


def _epilog(examples: Sequence[tuple[str, str]]) -> str | None:
    if not examples:
        return None
    width = max(len(line) for line, _ in examples)
    beside = all(2 + width + 2 + len(text) < 80 for _, text in examples)
    rows = [f"  {line:<{width}}  {text}" if beside else f"  {line}\n      {text}" for line, text in examples]
    return "\n".join(["examples:", *rows])
