# SPDX-License-Identifier: GPL-2.0-or-later
"""Names that a guest can choose do no harm in any view: markup, escapes of terminals, no UTF-8, turns of direction."""

from __future__ import annotations

import json
import re
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mbecguard.face import cli
from mbecguard.values import events
from mbecguard.values.errors import Exit
from mbecguard.values.events import Event, to_journal
from tests.dossiers import NASTY
from tests.guestmaker import MODULE_ZONE, PACK, SCATTERED, Code, Description
from tests.shell import Shell
from tests.unit.test_page import Seen, valid

pytestmark = pytest.mark.usefixtures("fast_disk")

STRANGE = MODULE_ZONE + 0x700000
#: Markup, escapes that clear a terminal, a byte that is no UTF-8, a turn of the direction, and a C1 control.
SYMBOL = b"f\x1b[2J\x1b[31m<script>&'\"\xff\xe2\x80\xae\xc2\x9b{{7*7}}`x`"
SHOWN = "f\\x1b[2J\\x1b[31m<script>&'\"\ufffd\\u202e\\x9b{{7*7}}`x`"
#: What our own words have of it: colours.
COLOURS = re.compile(r"\x1b\[[0-9]*m")


def named(guest: Description) -> Description:
    """The same guest with symbols of a strange name: of a program, and of nobody."""
    lines = [b"%016x t %s\t[bpf]\n" % (PACK + 0x20000, SYMBOL), b"%016x t %s\n" % (STRANGE - 16, SYMBOL)]
    return guest.with_file("proc/kallsyms", guest.content()["proc/kallsyms"] + b"".join(lines))


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    """A guest that was locked, and has strange code since."""
    shell = Shell(tmp_path / "guest", capsys)
    named(SCATTERED).write(shell.folder)
    assert shell.run("lock")[0] == Exit.OK
    named(SCATTERED.with_code(Code(STRANGE, 0x14000000, writable=True))).write(shell.folder)
    return shell


COMMANDS = ("check", "status", "report", "audit", f"explain {PACK + 0x20010:#x}", f"explain {STRANGE:#x}")


@pytest.mark.parametrize("words", COMMANDS)
def test_no_line_of_text_changes_a_terminal(shell: Shell, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    command, *options = words.split()
    _, out, err = shell.run(command, *options)
    assert all(line.isprintable() for line in (out + err).splitlines())
    if command in ("audit", "explain"):
        assert SHOWN in out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    _, out, _ = shell.run(command, *options)
    assert all(COLOURS.sub("", line).isprintable() for line in out.splitlines())


@pytest.mark.parametrize("words", COMMANDS)
def test_json_is_plain_and_has_the_name_as_it_is(shell: Shell, words: str) -> None:
    command, *options = words.split()
    _, out, _ = shell.run(command, *options, "--json")
    assert out.isascii()
    assert all(line.isprintable() for line in out.splitlines())
    json.loads(out)
    if command == "audit":
        (code,) = json.loads(out)["unexplained"]
        assert code["symbol"] == SYMBOL.decode(errors="replace") + "+0x10"


def test_a_page_shows_it_as_text(shell: Shell) -> None:
    status, out, _ = shell.run("audit", "--format", "html")
    assert status == Exit.DRIFT
    assert "script" not in Seen(valid(out)).tags
    assert "&lt;script&gt;" in out
    assert all(line.isprintable() for line in out.splitlines())


@pytest.mark.parametrize("name", ["evil\x1b[31m", "<b>", "a\u202eb", "a\u200bb", "x\u00e4"])
def test_a_module_of_a_name_that_no_module_has_stops_a_lock(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    line = f"{name} 4096 0 - Live 0x{STRANGE:016x}\n"
    modules = SCATTERED.content()["proc/modules"].decode()
    shell = Shell(SCATTERED.with_file("proc/modules", modules + line).write(tmp_path / "guest"), capsys)
    status, out, err = shell.run("lock")
    assert (status, out) == (Exit.ERROR, "")
    assert "/proc/modules has a malformed line" in err
    assert all(line.isprintable() for line in err.splitlines())


def test_the_journal_gets_one_line_of_valid_utf_8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its native protocol takes anything; what reads it does not."""
    sent: list[dict[str, Any]] = []
    systemd, journal = ModuleType("systemd"), ModuleType("systemd.journal")
    journal.send = lambda text, **fields: sent.append({"MESSAGE": text, **fields})  # type: ignore[attr-defined]
    systemd.journal = journal  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "systemd", systemd)
    monkeypatch.setitem(sys.modules, "systemd.journal", journal)
    monkeypatch.setattr(events, "JOURNAL_SOCKET", tmp_path)
    to_journal(Event.DRIFT, {"reason": NASTY})
    (fields,) = sent
    for text in ("drift: ", ""):
        told = fields["MESSAGE" if text else "MBECGUARD_REASON"]
        assert told == text + NASTY.encode("unicode_escape").decode().replace("\\ufffd", "\ufffd")
        assert told.isprintable()
        told.encode()


def test_the_command_line_is_quoted_as_well(shell: Shell) -> None:
    for command in (["explain", NASTY], ["audit", "--format", NASTY], [NASTY]):
        with suppress(SystemExit):
            cli.main(command)
        _, err = shell.capture.readouterr()
        assert all(line.isprintable() for line in err.splitlines())
