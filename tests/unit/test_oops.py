# SPDX-License-Identifier: GPL-2.0-or-later
"""Denied fetches in the kernel's log, by reports that guests of the lab wrote (tests/oopses), whole and damaged."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbecguard.guest.oops import LONGEST, Attempt, By, Line, Reader
from mbecguard.values.escaped import escaped

FOLDER = Path(__file__).parents[1] / "oopses"
STAMPED = re.compile(r"\[ *(\d+)\.(\d{6})\] (.*)")


def lines(text: str) -> list[Line]:
    """As the journal has them."""
    found = [STAMPED.fullmatch(line) for line in text.splitlines()]
    return [Line(int(match[1]) * 1000000 + int(match[2]), match[3]) for match in found if match]


def recorded(name: str) -> list[Line]:
    return lines((FOLDER / f"{name}.txt").read_text())


def attempts(log: list[Line]) -> list[Attempt]:
    reader = Reader()
    found = [reader.feed(line) for line in log]
    return [one for one in (*found, reader.flush()) if one]


def changed(name: str, old: str, new: str) -> list[Line]:
    log = recorded(name)
    assert any(old in line.text for line in log)
    return [Line(line.at, line.text.replace(old, new)) for line in log]


@pytest.mark.parametrize(
    ("name", "at", "address", "pid", "cpu"),
    [
        ("6.1", 5139844, 0xFFFFD37D405C8000, 133, 0),
        ("6.12", 142600192, 0xFFFFCCF00034F000, 628, 2),
        ("7.2", 130118507, 0xFFFF89B644E12000, 506, 0),
    ],
)
def test_what_a_guest_of_the_lab_wrote(name: str, at: int, address: int, pid: int, cpu: int) -> None:
    (found,) = attempts(recorded(name))
    assert (found.at, found.address, found.by) == (at, address, By.HOST)
    assert (found.symbol, found.module) == ("victim", "mbectest")
    assert (found.task, found.pid, found.uid, found.cpu) == ("mbectest-victim", pid, 0, cpu)
    assert len(found.before) == 5
    assert not any("BUG" in text or "SMEP" in text for text in found.before)


NX = ("error_code(0x0010) - not-present page", "error_code(0x0011) - permissions violation")


@pytest.mark.parametrize("name", ["6.1", "6.12", "7.2"])
def test_what_the_guest_s_own_page_tables_deny_is_told_apart(name: str) -> None:
    log = changed(name, *NX)
    old, new = (
        "unable to execute userspace code (SMEP?)",
        "kernel tried to execute NX-protected page - exploit attempt?",
    )
    (found,) = attempts([Line(line.at, line.text.replace(old, new)) for line in log])
    assert (found.by, found.uid) == (By.GUEST, 0)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("PTE 3807063", "PTE 0"),  # nothing is there: a jump into nowhere
        ("PMD 1d5a067 PTE 3807063", "PMD 0"),
        ("supervisor instruction fetch in kernel mode", "supervisor write access in kernel mode"),
        ("supervisor instruction fetch in kernel mode", "user instruction fetch in user mode"),
    ],
)
def test_what_is_no_denied_fetch(old: str, new: str) -> None:
    assert attempts(changed("6.1", old, new)) == []


def test_a_huge_page() -> None:
    (found,) = attempts(changed("6.1", "PMD 1d5a067 PTE 3807063", "PMD 1c001e3"))
    assert found.by is By.HOST


def test_who_reports_is_not_who_did_it() -> None:
    log = recorded("7.2")
    at = next(n for n, line in enumerate(log) if line.text.strip() == "<TASK>")
    reporters = ("? __die_body.cold+0x19/0x27", "page_fault_oops+0x15c/0x280", "? asm_exc_page_fault+0x26/0x30")
    log[at + 1 : at + 1] = [Line(log[at].at, f" {text}") for text in reporters]
    assert attempts(log)[0].symbol == "victim"


def test_a_symbol_at_the_place_itself_comes_first() -> None:
    (found,) = attempts(changed("6.12", "RIP: 0010:0xffffccf00034f000", "RIP: 0010:payload+0x0/0x10 [evil_mod]"))
    assert (found.symbol, found.module) == ("payload", "evil_mod")


@pytest.mark.parametrize("length", range(7, 40))
def test_a_report_that_is_cut_off(length: int) -> None:
    log = attempts(recorded("6.1")[:length])
    if length <= 7:  # nothing says yet that it was a fetch
        assert log == []
        return
    (found,) = log
    assert found.address == 0xFFFFD37D405C8000
    assert found.by in ((By.UNTOLD,) if length < 10 else (By.HOST,))
    assert found.task == ("mbectest-victim" if length >= 12 else "")


def test_a_report_without_an_end_is_given_up() -> None:
    log = recorded("6.12")[:10] + [Line(1, f"noise {n}") for n in range(LONGEST + 10)]
    reader = Reader()
    found = [one for line in log if (one := reader.feed(line))]
    assert len(found) == 1
    assert not reader.unfinished


def test_two_in_a_row_without_an_end_between() -> None:
    log = recorded("6.1")[:20]
    assert len(attempts([*log, *log])) == 2


HOSTILE = (
    "a Tainted: PID:",
    "\x1b[2J\x1b[31mroot",
    "x\nBUG: unable",
    "<script>a</scr",
    "CPU: 9 PID: 1 C",
    "\udcff\ufffd",
    "",
    " ",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_task_s_name_is_nothing_but_a_name(name: str) -> None:
    (found,) = attempts(changed("6.1", "mbectest-victim Tainted", f"{name} Tainted"))
    assert (found.pid, found.cpu, found.by) == (133, 0, By.HOST)
    assert name.startswith(found.task)
    assert escaped(found.task).isprintable()


def test_a_name_makes_no_report_of_its_own() -> None:
    """Whoever is called so is in the middle of a line; the kernel's own reports begin one."""
    assert attempts([Line(1, "note: BUG: unable to handle page fault for address: ffff[7] exited")]) == []


@given(
    st.lists(st.one_of(st.text(max_size=200), st.sampled_from([line.text for line in recorded("6.1")])), max_size=60)
)
def test_no_log_is_too_strange(texts: list[str]) -> None:
    for found in attempts([Line(number, text) for number, text in enumerate(texts)]):
        assert found.address >= 0
        assert len(found.before) <= 5
