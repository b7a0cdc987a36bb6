# SPDX-License-Identifier: GPL-2.0-or-later
"""What is said beside the answer: events to the journal and to whoever watches, complaints to stderr."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

from mbecguard.face.look import Look
from mbecguard.values.errors import UserError
from mbecguard.values.events import Event, Tell, message, stderr_is_journal, to_journal

if TYPE_CHECKING:  # what runs on a host has no guest
    from mbecguard.session import Session

PROGRAM = "mbecguard"  #: who says it
WIDTH = 80  #: columns of a terminal that does not tell


def teller(session: Session) -> Tell:
    """Where the events of a session go: a simulated lock, or that of a captured guest, is no news for the journal."""

    return lambda event, facts: tell(event, facts, journal=session.guest.live and not session.simulated)


def tell(event: Event, facts: dict[str, str], *, journal: bool) -> None:
    """Say an event, in the journal as well if it is news for it; a step is told only to those who watch."""
    if not (journal and stderr_is_journal()) and (event is not Event.STEP or on(sys.stderr).width):
        say(message(event, facts))
    if journal:
        to_journal(event, facts)


def on(stream: TextIO | None) -> Look:
    """How text looks on a stream: filled to the width of a terminal, in colours unless NO_COLOR says no."""
    if not stream or not stream.isatty():
        return Look()
    wanted = os.environ.get("COLUMNS", "")
    with suppress(OSError, ValueError):
        width = int(wanted) if wanted.isdecimal() else os.get_terminal_size(stream.fileno()).columns
        return Look(_coloured(), width or WIDTH)
    return Look(_coloured(), WIDTH)


def _coloured() -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class Working:
    """One line on a terminal that names what takes so long, and is gone as soon as anything else is said."""

    def __init__(self) -> None:
        self._next = 0.0  #: before this time nobody could read another one
        self._shown = False

    def note(self, what: str) -> None:
        """Something is read that may take a while."""
        now, width = time.monotonic(), on(sys.stderr).width
        if width and now >= self._next and os.environ.get("TERM") != "dumb":
            self._next, self._shown = now + 0.1, True
            self._put(f"reading {what} ..."[: width - 1])

    def gone(self) -> None:
        """Wipe the line out."""
        if self._shown:
            self._shown = False
            self._put("")

    def _put(self, text: str) -> None:
        with suppress(OSError):
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


WORKING = Working()


def complain(error: UserError, program: str = PROGRAM) -> None:
    """Say what went wrong, and what to do about it."""
    say(error.message, error.hint, program)


def say(text: str, hint: str = "", program: str = PROGRAM) -> None:
    """A line on stderr, and a hint below it."""
    WORKING.gone()
    look = on(sys.stderr)
    for line in (*look.fill(f"{program}: ", text, 2), *look.hint(hint, 2)):
        _write(line)


def show_usage(text: str) -> None:
    """How a command line should look."""
    _write(text)


def _write(line: str) -> None:
    """Where nobody listens a line is lost, which decides nothing."""
    if sys.stderr:  # it is None where it was closed, and then print() would take stdout
        with suppress(OSError):
            print(line, file=sys.stderr, flush=True)
