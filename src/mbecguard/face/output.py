# SPDX-License-Identifier: GPL-2.0-or-later
"""Where an answer goes: stdout or a file, as text or as JSON."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from mbecguard.face.look import Look
from mbecguard.face.tell import PROGRAM, WORKING, complain, on, show_usage
from mbecguard.face.usage import UsageError
from mbecguard.values.codec import encode, laid_out
from mbecguard.values.errors import Exit, UserError, die

FAILURE_SCHEMA = "mbecguard.error/1"
_ADVICE = "give a file in a folder that you may write"


class Failure(NamedTuple):
    """A user error as an answer: for programs that asked for JSON."""

    message: str
    hint: str
    exit: Exit
    schema: str = FAILURE_SCHEMA

    @classmethod
    def of(cls, error: UserError) -> Failure:
        """Of an error that ended a command."""
        return cls(error.message, error.hint, error.status)


class Output(NamedTuple):
    """One answer's way out."""

    json: bool = False
    file: Path | None = None

    @classmethod
    def of(cls, options: argparse.Namespace) -> Output:
        """As the options of a command say."""
        as_json = bool(options.json) or getattr(options, "format", None) == "json"
        return cls(as_json, getattr(options, "output", None))

    @property
    def look(self) -> Look:
        """How text looks there."""
        return Look() if self.file else on(sys.stdout)

    def show(self, answer: object, lines: Iterable[str]) -> None:
        """Write an answer: a value for programs, lines for people. Dies if the file cannot be written."""
        self.write(laid_out(encode(answer)) + "\n" if self.json else "".join(f"{line}\n" for line in lines))

    def show_done(self, answer: object, lines: Iterable[str]) -> None:
        """The same, of what cannot be undone: that it is not shown is told, but does not make it untrue."""
        try:
            self.show(answer, lines)
        except BrokenPipeError:
            forget_stdout()
        except UserError as error:
            complain(error)

    def write(self, text: str, mode: int | None = None) -> None:
        """Write text as it is; names that are not UTF-8 are shown with escapes. `mode`: of the file."""
        WORKING.gone()
        if self.file:
            _replace(self.file, text, mode)
            return
        if not sys.stdout:
            die("the answer cannot be shown: stdout is closed", "give --output FILE")
        encoding = sys.stdout.encoding or "utf-8"
        try:
            sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            forget_stdout()
            die(f"the answer cannot be shown: {error.strerror}", "give --output FILE, where there is room")

    def prove(self) -> None:
        """Die if the file cannot be written, before something is done that cannot be undone."""
        if self.file and not os.access(self.file.parent, os.W_OK):
            die(f"{self.file} cannot be written", _ADVICE)


def refuse(error: UserError, *, as_json: bool, program: str = PROGRAM) -> None:
    """Show what ended a command: to people on stderr, and to programs that asked for JSON on stdout."""
    if isinstance(error, UsageError):
        show_usage(error.usage)
    complain(error, program)
    if as_json and sys.stdout:
        Output(json=True).show(Failure.of(error), ())


def forget_stdout() -> None:
    """Nobody reads it any more: what is left in its buffer must not make the interpreter complain at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _replace(file: Path, text: str, wanted: int | None) -> None:
    """Whoever reads the file sees the old or the new content, never half of it. What is no plain file is written to."""
    data = text.encode(errors="backslashreplace")
    try:
        if file.exists() and not file.is_file():
            file.write_bytes(data)
            return
        target = file.resolve()
        fresh = target.with_name(f".{target.name}.{os.getpid()}")
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o666
        try:
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as out:
                if wanted is not None:
                    os.fchmod(out.fileno(), wanted)
                out.write(data)
            fresh.replace(target)
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as error:
        die(f"{file} cannot be written: {error.strerror}", _ADVICE)
