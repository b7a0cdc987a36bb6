# SPDX-License-Identifier: GPL-2.0-or-later
"""The views for people: the facts that matter appear, colours only where asked for, simulations always marked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from mbecguard.audit.record import State, Step
from mbecguard.audit.status import Drift, Status
from mbecguard.audit.text import LEVELS, SIMULATED, Text
from mbecguard.host.base import HostMode, Outcome
from mbecguard.plan.findings import finding
from tests.plans import BLOCKER, TEXT_VA, make_evidence, make_plan, make_record

PLAIN, COLOUR = Text(), Text(colour=True)
NOTE = finding("executable-padding", pages=7)
PLAN = make_plan(findings=(BLOCKER, NOTE))


def make_status(state: State = State.SEALED, simulated: bool = True) -> Status:
    record = make_record()
    return Status(state, ("why not",), "simulator", simulated, HostMode.ENFORCE, 1, record, Step.SEAL)


def views(text: Text) -> list[tuple[str, list[str]]]:
    every = Drift(new=PLAN.keep[:1], stale=PLAN.keep[1:2])
    made: list[tuple[str, Iterable[str]]] = [
        ("plan", text.plan(PLAN)),
        ("findings", text.findings(PLAN.findings)),
        *((f"status {state}", text.status(make_status(state))) for state in State),
        *((f"record {state}", text.record(make_record(state, plan=PLAN, pinned=False))) for state in State),
        ("kept", text.explain(9, PLAN.kept(9), "because", "schedule+0x10")),
        ("denied", text.explain(60, None, "", "")),
        ("drift", text.drift(every)),
        ("no drift", text.drift(Drift((), ()))),
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


@pytest.mark.parametrize("state", State)
def test_a_simulation_is_always_marked_first(state: State) -> None:
    record, status = make_record(state), make_status(state)
    assert next(iter(PLAIN.record(record))) == SIMULATED
    assert next(iter(PLAIN.status(status))) == SIMULATED
    assert SIMULATED not in [*PLAIN.record(replace(record, simulated=False)), *PLAIN.status(make_status(state, False))]


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
    plan = replace(plan, kernel=replace(plan.kernel, build_id=""))
    text = "\n".join(PLAIN.plan(plan))
    assert "0 pages in 0 ranges" in text
    assert "unknown" in text


def test_a_finding_without_a_hint_has_no_hint_line() -> None:
    assert len(list(PLAIN.findings([replace(NOTE, hint="")]))) == 1
    assert len(list(PLAIN.findings([NOTE]))) == 2


def test_a_record_shows_state_evidence_pins_and_freezes() -> None:
    lines = list(PLAIN.record(make_record()))
    text = "\n".join(lines)
    assert lines[1] == "SEALED (simulated)  6.12.0-test, 2026-01-02T03:04:05+00:00"
    assert LEVELS["exec"] in text
    assert "CR0.WP CR0.PG CR4.SMEP" in text
    assert "kernel.modules_disabled" in text
    assert "mode enforce, generation 1" in text
    assert sum(line.startswith("  ok ") for line in lines) == 6
    assert "BAD" not in text


def test_a_degraded_record_shows_what_is_bad_and_claims_no_protection() -> None:
    evidence = make_evidence(CANARY_AFTER=Outcome.RAN)
    record = make_record(State.DEGRADED, evidence=evidence, reasons=("it ran",), pinned=False, frozen=())
    text = "\n".join(PLAIN.record(record))
    assert "DEGRADED" in text
    assert "  it ran" in text
    assert "CR pins        NONE" in text
    assert "frozen         nothing" in text
    assert LEVELS["exec"] not in text
    bad = [line.split() for line in text.splitlines() if line.startswith("  BAD")]
    assert bad == [["BAD", "canary", "after", "the", "lock", "ran", "page", "frame", "0x2a"]]


def test_a_status_shows_state_reasons_and_the_record_only_if_it_is_of_that_state() -> None:
    lines = list(PLAIN.status(make_status()))
    assert lines[1:3] == ["SEALED (simulated)  (host simulator, mode enforce)", "  why not"]
    assert "2026-01-02" in "\n".join(lines)
    assert "2026-01-02" not in "\n".join(PLAIN.status(make_status(State.DEGRADED)))
    assert "since" not in "\n".join(PLAIN.status(replace(make_status(), record=None)))


def test_explain_shows_the_reason_and_the_address_of_that_very_page() -> None:
    text = "\n".join(PLAIN.explain(9, PLAN.kept(9), "because", "schedule+0x10"))
    assert "page frame 0x9 (physical 0x9000): kernel-execute KEPT" in text
    assert "kernel-text: because" in text
    assert "owner8 .text" in text
    assert f"{TEXT_VA + 9 * 4096:#x} schedule+0x10" in text
    assert "[0x8, 0xc), 4 pages" in text
    denied = "\n".join(PLAIN.explain(60, None, "", ""))
    assert "kernel-execute DENIED, user-execute stays" in denied


def test_drift_shows_new_and_stale_ranges() -> None:
    lines = list(PLAIN.drift(Drift(new=PLAN.keep[:1], stale=PLAN.keep[1:2])))
    assert lines[0].split()[:3] == ["new,", "will", "fault"]
    assert f"[0x2, 0x3) at {TEXT_VA + 0x2000:#x} trampoline owner2" in lines[0]
    assert "no code now  [0x8, 0xc)" in lines[1]
    assert len(lines) == 2
    assert "no executable page" in list(PLAIN.drift(Drift((), PLAN.keep[:1])))[-1]
    strange = finding("unexplained-more", count=3)
    assert list(PLAIN.drift(Drift((), (), (strange,)))) == [f"     unexplained  {strange.text}"]
