# SPDX-License-Identifier: GPL-2.0-or-later
"""What a locked guest refused to modprobe itself: found in the journal, and in nobody else's words."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from mbecguard.guest.source import Guest
from mbecguard.guest.tree import Tree
from mbecguard.learn import files as files_room
from mbecguard.learn.boots import Watched
from mbecguard.learn.files import MODULES, write
from mbecguard.learn.lessons import lessons
from mbecguard.learn.refusals import journal, refusals
from mbecguard.learn.trace import INSTANCE, Traced, TraceEvent
from mbecguard.values.errors import UserError
from tests.unit.test_learn import SHOWN, TABLES, boot

REFUSED = "modprobe: ERROR: could not insert 'xfs': Operation not permitted"
DOCKERD = (
    'time="2026-11-27T18:00:00.1Z" level=warning msg="Running modprobe bridge br_netfilter failed with message: '
    "modprobe: ERROR: could not insert 'br_netfilter': Operation not permitted\\n, error: exit status 1\""
)


def row(message: object, **fields: str) -> str:
    known = {"__MONOTONIC_TIMESTAMP": "25500000", "_PID": "900", "_SYSTEMD_UNIT": "vpn.service", "MESSAGE": message}
    return json.dumps({**known, **fields})


def found(line: str) -> list[tuple[str, str]]:
    return [(event.name, event.comm) for event in refusals(line)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (row(REFUSED), [("xfs", "vpn.service")]),
        (row("could not insert 'snd-pcm': Operation not permitted"), [("snd_pcm", "vpn.service")]),
        (row(DOCKERD, _COMM="dockerd", _SYSTEMD_UNIT="docker.service"), [("br_netfilter", "docker.service")]),
        (row("modprobe: ERROR: could not insert 'xfs': Exec format error"), []),
        (row("modprobe: ERROR: could not insert '../x': Operation not permitted"), []),
        # Words of strangers, which a daemon of root's repeats.
        (row(f"Invalid user {REFUSED} from 192.0.2.1", _COMM="sshd"), []),
        (row(DOCKERD, _COMM="sshd"), []),
        (row(f"GET /{DOCKERD}", _COMM="dockerd"), []),
        (row([1, 2, 3]), []),
        (row(None), []),
        (row(REFUSED, __MONOTONIC_TIMESTAMP="odd"), []),
        ("[]", []),
        ("no JSON", []),
    ],
)
def test_a_line_of_the_journal(line: str, expected: list[tuple[str, str]]) -> None:
    assert found(line) == expected


def test_who_wanted_it_and_when() -> None:
    (event,) = refusals(row(REFUSED))
    assert event == Traced(25.5, TraceEvent.REFUSED, "xfs", "vpn.service", 900)
    locked = boot(1, event, replace(event, name="nf_tables"), locked=True, loaded=("nf_tables",))
    (late,) = lessons((locked,), TABLES, "late").late
    assert (late.module, late.loadable, late.first.refused, late.first.after) == ("xfs", True, True, 5.5)
    assert late.first.asker == "vpn.service by modprobe (pid 900)"


def test_what_no_locked_boot_can_tell_is_said_with_a_way_to_learn_it() -> None:
    (remark,) = lessons((boot(1, locked=True), boot(2, locked=True)), TABLES, "late").remarks
    assert "mbecguard=off" in remark
    assert not lessons((boot(1, locked=True), boot(2)), TABLES, "late").remarks  # an open one shows all


@pytest.mark.parametrize(("disabled", "names"), [("1", ["xfs"]), ("0", [])])
def test_the_journal_is_asked_in_a_locked_boot_alone(tmp_path: Path, disabled: str, names: list[str]) -> None:
    texts = {
        f"{INSTANCE}/trace": "",
        "proc/sys/kernel/modules_disabled": f"{disabled}\n",
        "proc/sys/kernel/random/boot_id": "11111111-2222-3333-4444-555555555555\n",
        "proc/version": "Linux version 6.12.0 (a@b)\n",
        "proc/kallsyms": "ffffffff81000000 T _text\n",
    }
    for path, text in texts.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    watched = Watched(tmp_path / "learn")
    guest = Guest(Tree(tmp_path), None, (), (), live=True)  # type: ignore[arg-type]
    for _ in range(2):  # the same line again is the same event
        watched.look(guest, lambda: SHOWN, lambda: row(REFUSED))
    assert [event.name for event in watched.all()[0].events] == names


def test_journalctl_is_asked_for_roots_words_of_this_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "journalctl"
    program.write_text('#!/bin/sh\necho "$@"\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    asked = journal().split()
    assert {"-qb", "_UID=0", "-ojson"} <= set(asked)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert journal() == ""


@pytest.mark.parametrize(("number", "word"), [(errno.EROFS, "--dry-run --json"), (errno.EACCES, "run as root")])
def test_where_else_is_said_if_etc_is_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, word: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files_room, "replace_file", refuse)
    with pytest.raises(UserError, match="cannot be written") as caught:
        write(tmp_path, {MODULES: "xfs\n"})
    assert word in caught.value.hint
