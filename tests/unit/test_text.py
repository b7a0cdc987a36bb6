# SPDX-License-Identifier: GPL-2.0-or-later
"""The views for people: the facts that matter appear, colours only where asked for, simulations always marked."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbecguard.audit.report import Report
from mbecguard.face.look import NARROWEST
from mbecguard.face.text import LEVELS, SIMULATED, Text
from mbecguard.host.base import HostMode, Outcome
from mbecguard.plan.findings import check, finding
from mbecguard.plan.policy import CodeKind, Level
from mbecguard.plan.value import KeepRange
from mbecguard.records.chain import ORIGIN, Entry
from mbecguard.records.reasons import Reason
from mbecguard.records.record import EXPECTED, State, Step
from mbecguard.records.status import Details, Named, Status
from mbecguard.values.findings import Finding
from tests.plans import BLOCKER, TEXT_VA, make_evidence, make_plan, make_record

PLAIN, COLOUR = Text(), Text(colour=True)
NOTE = finding("efi-superset", pages=7)
WARNING = finding("crash-kernel-lost", pages=7)
PLAN = make_plan(findings=(BLOCKER, NOTE))
ENTRY = Entry(1, ORIGIN, make_record(), "ab" * 32)


def make_status(state: State = State.SEALED, simulated: bool = True) -> Status:
    return Status(
        state,
        (Reason("note", "why not", "do this"),),
        "simulator",
        simulated,
        HostMode.ENFORCE,
        1,
        Named.of(ENTRY),
        Step.SEAL,
        time="then",
    )


def views(text: Text) -> list[tuple[str, list[str]]]:
    made: list[tuple[str, Iterable[str]]] = [
        ("plan", text.plan(PLAN)),
        ("findings", text.findings(PLAN.findings)),
        *((f"status {state}", text.status(make_status(state))) for state in State),
        ("full status", text.status(make_status()._replace(details=Details(ENTRY.record, PLAN)))),
        ("damaged plan", text.record(ENTRY.record, None)),
        *((f"record {state}", text.record(make_record(state, pinned=False), PLAN)) for state in State),
        ("report", text.report(Report(False, ENTRY.digest, ENTRY.record, PLAN))),
    ]
    return [(name, list(lines)) for name, lines in made]


@pytest.mark.parametrize(("name", "lines"), views(PLAIN))
def test_plain_text_has_no_escapes_and_one_line_per_line(name: str, lines: list[str]) -> None:
    assert lines, name
    assert not any("\x1b" in line or "\n" in line or line != line.rstrip() for line in lines)


@pytest.mark.parametrize(("plain", "coloured"), [*zip(views(PLAIN), views(COLOUR), strict=True)])
def test_colours_change_nothing_but_colours(plain: tuple[str, list[str]], coloured: tuple[str, list[str]]) -> None:
    stripped = "\n".join(coloured[1])
    assert "\x1b[" in stripped
    for code in (0, 1, 2, 31, 32, 33, 34):
        stripped = stripped.replace(f"\x1b[{code}m", "")
    assert stripped == "\n".join(plain[1])


@pytest.mark.parametrize("width", [80, 100, 132])
@pytest.mark.parametrize("number", range(len(views(PLAIN))))
def test_nothing_is_wider_than_the_terminal_and_nothing_is_lost(number: int, width: int) -> None:
    plain, filled = views(PLAIN)[number][1], views(Text(width=width))[number][1]
    assert max(map(len, filled)) <= width
    assert " ".join(filled).split() == " ".join(plain).split()


WORDS = st.lists(st.text("ab-/=", min_size=1, max_size=30), min_size=1, max_size=30)


@given(
    WORDS, st.sampled_from(["", "  ", "hint: ", "\x1b[31m blocker\x1b[0m  "]), st.integers(0, 12), st.integers(1, 120)
)
def test_lines_are_broken_between_words_alone(words: list[str], first: str, indent: int, width: int) -> None:
    lines = list(Text(colour=True, width=width).fill(first, " ".join(words), indent, colour="dim", tail="[id]"))
    seen = [re.sub("\x1b\\[[0-9]*m", "", line) for line in lines]
    lead = re.sub("\x1b\\[[0-9]*m", "", first)
    assert seen[0].startswith(lead)
    assert [*words, "[id]"] == seen[0][len(lead) :].split() + [word for line in seen[1:] for word in line.split()]
    assert all(line.startswith(" " * indent) and line[indent] != " " for line in seen[1:])
    room = max(width, len(lead) + NARROWEST, indent + NARROWEST)
    assert all(len(line) <= room or len(line[indent if n else len(lead) :].split()) == 1 for n, line in enumerate(seen))
    assert len(seen) == 1 or len(seen[0]) + 1 + len(seen[1].split()[0]) > room, "no line is shorter than it must be"


def test_elsewhere_a_finding_is_one_line_and_its_hint_another() -> None:
    long = replace(NOTE, text="word " * 99 + "end", hint="do " * 99 + "it")
    text, hint = PLAIN.findings([long])
    assert text.endswith("end [efi-superset]")
    assert hint == f"          hint: {long.hint}"


@pytest.mark.parametrize(
    ("findings", "verdict"),
    [
        ([], "this guest can be locked: nothing stands in the way"),
        ([NOTE], "this guest can be locked: 1 note"),
        ([NOTE, NOTE, WARNING], "this guest can be locked: 1 warning, 2 notes"),
        ([NOTE, BLOCKER, WARNING, BLOCKER], "this guest would NOT be locked: 2 blockers, 1 warning, 1 note"),
    ],
)
def test_a_check_ends_with_its_verdict_and_the_totals_and_begins_with_the_worst(
    findings: list[Finding], verdict: str
) -> None:
    lines = list(PLAIN.check(check(findings)))
    assert lines[-1] == verdict
    marks = [line.split()[0] for line in lines[:-1] if "hint:" not in line]
    assert marks == sorted(marks, key=["blocker", "warning", "info"].index)
    assert len(marks) == len(findings)


def test_a_plan_shows_the_largest_owners() -> None:
    plan = PLAN._replace(
        keep=tuple(KeepRange(n * 16, n * 16 + n, CodeKind.MODULE_TEXT, f"m{n}", ".text", 0) for n in range(1, 15))
    )
    lines = list(PLAIN.plan(plan))
    start = lines.index("Owners, 14 in all")
    shown = [line.split()[:2] for line in lines[start + 1 : start + 11]]
    assert shown == [[f"m{n}", str(n)] for n in range(14, 4, -1)]
    assert lines[start + 11].split() == ["and", "4", "more", "10", "pages", "(--json", "has", "every", "range)"]


@pytest.mark.parametrize("state", State)
def test_a_simulation_is_always_marked_first(state: State) -> None:
    record, status = make_record(state), make_status(state)
    assert next(iter(PLAIN.record(record, PLAN))) == SIMULATED
    assert next(iter(PLAIN.status(status))) == SIMULATED
    assert SIMULATED not in [
        *PLAIN.record(record._replace(simulated=False), PLAN),
        *PLAIN.status(make_status(state, False)),
    ]


def test_a_plan_shows_kernel_pages_kinds_and_findings() -> None:
    text = "\n".join(PLAIN.plan(PLAN))
    assert "6.12.0-test" in text
    assert "ab" * 20 in text
    assert f"{TEXT_VA:#x} at physical 0x8000" in text
    assert "10 pages in 4 ranges" in text
    assert "54 pages in 5 ranges" in text
    assert PLAN.digest in text
    assert [line.split()[:2] for line in text.splitlines() if line.endswith("#")] == [
        ["kernel-text", "4"],
        ["execmem", "4"],
        ["trampoline", "1"],
        ["its-thunk", "1"],
    ]
    assert f"{BLOCKER.text} [module-busy]" in text
    assert f"hint: {BLOCKER.hint}" in text


def test_a_plan_that_keeps_nothing_can_be_shown() -> None:
    plan = make_plan([])
    plan = plan._replace(kernel=plan.kernel._replace(build_id=""))
    text = "\n".join(PLAIN.plan(plan))
    assert "0 pages in 0 ranges" in text
    assert "unknown" in text


def test_a_finding_without_a_hint_has_no_hint_line() -> None:
    assert len(list(PLAIN.findings([replace(NOTE, hint="")]))) == 1
    assert len(list(PLAIN.findings([NOTE]))) == 2


def test_a_record_shows_state_evidence_pins_and_freezes() -> None:
    lines = list(PLAIN.record(make_record(), PLAN))
    text = "\n".join(lines)
    assert lines[1] == "SEALED (simulated)  6.12.0-test, 2026-01-02T03:04:05+00:00"
    assert LEVELS[Level.EXEC] in text
    assert "CR0.WP CR0.PG CR4.SMEP" in text
    assert "kernel.modules_disabled" in text
    assert "mode enforce, generation 1" in text
    assert sum(line.startswith("  ok ") for line in lines) == len(EXPECTED)
    assert "BAD" not in text


def test_a_degraded_record_shows_what_is_bad_and_claims_no_protection() -> None:
    evidence = make_evidence(CANARY_AFTER=Outcome.RAN)
    record = make_record(
        State.DEGRADED, evidence=evidence, reasons=(Reason("note", "it ran"),), pinned=False, frozen=()
    )
    text = "\n".join(PLAIN.record(record, PLAN))
    assert "DEGRADED" in text
    assert "\n  - it ran\n" in text
    assert "CR pins      NONE" in text
    assert "frozen       nothing" in text
    assert LEVELS[Level.EXEC] not in text
    bad = [line.split() for line in text.splitlines() if line.startswith("  BAD")]
    assert bad == [["BAD", "canary", "after", "the", "lock", "ran", "pfn:0x2a"]]


def test_a_status_shows_state_reasons_and_the_record_only_if_it_is_of_that_state() -> None:
    lines = list(PLAIN.status(make_status()))
    assert lines[1:4] == ["SEALED (simulated)  (host simulator, mode enforce)", "  - why not", "    hint: do this"]
    assert "2026-01-02" in "\n".join(lines)
    assert lines[-1].split() == ["asked", make_status().time]
    assert "2026-01-02" not in "\n".join(PLAIN.status(make_status(State.DEGRADED)))
    assert "since" not in "\n".join(PLAIN.status(make_status()._replace(record=None)))
