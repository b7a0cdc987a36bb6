# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's log as the journal has it: which entries are asked for, from where on, and what is made of odd ones."""

from __future__ import annotations

import sys
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest

from mbecguard.guest.kernellog import KERNEL, OURS, Journal
from mbecguard.guest.oops import Line


class Reader:
    """As that of systemd-python."""

    entries: tuple[dict[str, Any], ...] = ()
    asked: tuple[object, ...] = ()

    def __init__(self, flags: int) -> None:
        assert flags == 1
        self.at, self.matches = 0, list[object]()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        Reader.asked = tuple(self.matches)

    def this_boot(self) -> None:
        self.matches.append("boot")

    def add_conjunction(self) -> None:
        self.matches.append("and")

    def add_disjunction(self) -> None:
        self.matches.append("or")

    def add_match(self, **fields: str) -> None:
        self.matches.append(fields)

    def seek_head(self) -> None:
        self.at = 0

    def seek_cursor(self, cursor: str) -> None:
        self.at = int(cursor)

    def get_next(self) -> dict[str, Any]:
        self.at += 1
        return {**self.entries[self.at - 1], "__CURSOR": str(self.at - 1)} if self.at <= len(self.entries) else {}


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> Journal:
    systemd, module = ModuleType("systemd"), ModuleType("systemd.journal")
    module.Reader, module.LOCAL_ONLY = Reader, 1  # type: ignore[attr-defined]
    systemd.journal = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "systemd", systemd)
    monkeypatch.setitem(sys.modules, "systemd.journal", module)
    return Journal()


def entry(text: object, at: int, **more: object) -> dict[str, Any]:
    when = timedelta(microseconds=at)
    return {"MESSAGE": text, "_SOURCE_MONOTONIC_TIMESTAMP": when, "__MONOTONIC_TIMESTAMP": (when, None), **more}


def test_what_is_asked_for(journal: Journal) -> None:
    Reader.entries = ()
    assert list(journal.lines()) == []
    assert Reader.asked == ("boot", "and", KERNEL, "or", OURS)


def test_each_line_comes_once(journal: Journal) -> None:
    Reader.entries = (entry("one", 1), entry("two", 2))
    assert list(journal.lines()) == [Line(1, "one"), Line(2, "two")]
    assert list(journal.lines()) == []
    Reader.entries += (entry("three", 3, MBECGUARD_AT="2"),)
    assert list(journal.lines()) == [Line(3, "three", told=2)]


def test_odd_entries(journal: Journal) -> None:
    late = {"MESSAGE": "no time of its own", "__MONOTONIC_TIMESTAMP": (timedelta(microseconds=7), None)}
    Reader.entries = (entry(b"\xff\n", 1), late, entry("x", 3, MBECGUARD_AT="\u0663"), entry("", 4, MBECGUARD_AT=b"-1"))
    assert list(journal.lines()) == [Line(1, "\ufffd\n"), Line(7, "no time of its own"), Line(3, "x"), Line(4, "")]


def test_a_journal_that_cannot_be_read_tells_nothing(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_self: Reader) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Reader, "this_boot", broken)
    assert list(journal.lines()) == []
