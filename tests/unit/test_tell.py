# SPDX-License-Identifier: GPL-2.0-or-later
"""What terminals get that files do not: width, colours, and a line that says what takes so long."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest

from mbecguard.face import cli
from mbecguard.face.look import Look
from mbecguard.face.tell import WORKING, Working, on, say
from mbecguard.values.errors import Exit
from tests.guestmaker import SCATTERED


class Terminal(io.StringIO):
    """A stream that says that it is one; nobody knows its size but by COLUMNS."""

    def isatty(self) -> bool:
        return True

    @property
    def screen(self) -> str:
        """What is left to be seen: a line that is wiped out is gone."""
        return re.sub(r"\x1b\[[0-9]+m", "", re.sub(r"\r?[^\r\n]*\r\x1b\[K", "", self.getvalue()))


def sit_down(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """At stdout and stderr at once, as in real life. No fixture: pytest takes stdout back before the test."""
    both = Terminal()
    monkeypatch.setattr(sys, "stdout", both)
    monkeypatch.setattr(sys, "stderr", both)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return both


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("COLUMNS", "132", Look(True, 132)),
        ("COLUMNS", "", Look(True, 80)),
        ("COLUMNS", "0", Look(True, 80)),
        ("COLUMNS", "wide", Look(True, 80)),
        ("NO_COLOR", "1", Look(False, 80)),
        ("NO_COLOR", "", Look(True, 80)),
        ("TERM", "dumb", Look(False, 80)),
    ],
)
def test_a_terminal_is_asked_what_it_can(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: Look
) -> None:
    terminal = sit_down(monkeypatch)
    monkeypatch.setenv(variable, value)
    assert on(terminal) == expected


def test_a_file_gets_whole_lines_and_no_colours() -> None:
    assert on(io.StringIO()) == Look(False, 0)


def test_hints_on_a_terminal_are_broken_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = sit_down(monkeypatch)
    say("what went wrong " * 9, "what to do " * 9)
    lines = terminal.screen.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("mbecguard: what went wrong")
    assert " ".join(terminal.screen.split()) == f"mbecguard: {'what went wrong ' * 9}hint: {'what to do ' * 9}".strip()


def test_a_line_says_what_takes_long_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, clock = sit_down(monkeypatch), [5.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    working = Working()
    working.note("one")
    working.note("too soon to be read")
    clock[0] += 0.2
    working.note("x" * 200)
    shown = terminal.getvalue()
    assert re.findall(r"reading (\w+)", shown) == ["one", "x" * 71]
    assert "\n" not in shown
    working.gone()
    working.gone()
    assert terminal.getvalue() == shown + "\r\x1b[K"


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_no_line_where_it_could_not_go(term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal() if term == "dumb" else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", term)
    working = Working()
    working.note("one")
    working.gone()
    assert stream.getvalue() == ""


@pytest.mark.parametrize("command", ["check", "plan", "lock", "status", "explain", "report", "audit"])
def test_a_terminal_of_80_columns_is_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str) -> None:
    terminal = sit_down(monkeypatch)
    guest = SCATTERED.write(tmp_path / "guest")
    places = ["--guest", str(guest), "--state-dir", str(tmp_path / "state"), "--cache-dir", str(tmp_path / "cache")]
    assert cli.main(["lock", *places]) == Exit.OK
    terminal.seek(0)
    terminal.truncate()
    assert cli.main([command, *["_text"] * (command == "explain"), *places]) == Exit.OK
    assert terminal.screen
    assert max(map(len, terminal.screen.splitlines())) <= 80
    assert "reading" not in terminal.screen


def test_a_cold_survey_says_what_it_reads_and_a_file_gets_none_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    terminal = sit_down(monkeypatch)
    guest = SCATTERED.write(tmp_path / "guest")
    monkeypatch.setattr(WORKING, "_next", 0.0)
    plan = ["plan", "--guest", str(guest), "--cache-dir", str(tmp_path / "cache")]
    assert cli.main([*plan, "-o", str(tmp_path / "file")]) == Exit.OK
    assert "reading symbols ..." in terminal.getvalue()
    assert terminal.screen == ""
    assert "\x1b" not in (tmp_path / "file").read_text()
