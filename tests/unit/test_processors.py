# SPDX-License-Identifier: GPL-2.0-or-later
"""Which processors a guest has and could have, and what becomes of the page in which they start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mbecguard.guest.captured import captured_guest
from mbecguard.guest.processors import NOT_LOOKED, ONLINE, POSSIBLE, Processors, processors
from mbecguard.guest.survey import survey
from mbecguard.guest.tree import Tree
from mbecguard.plan.planner import attribute, build_plan
from mbecguard.plan.policy import CodeKind, Policy
from mbecguard.values.facts import Fact, Known, Unknown
from mbecguard.values.findings import Severity
from tests.guestmaker import SCATTERED
from tests.unit.test_planner import FULL, kept

AUTO = Policy(open=(CodeKind.TRAMPOLINE,))
PAGES = {0x99, 0x9A}


def tree(folder: Path, possible: str, online: str) -> Tree:
    (folder / "sys/devices/system/cpu").mkdir(parents=True)
    (folder / POSSIBLE).write_text(possible)
    (folder / ONLINE).write_text(online)
    return Tree(folder)


@pytest.mark.parametrize(
    ("possible", "online", "found"),
    [
        ("0\n", "0\n", Processors(1, 1)),
        ("0-7\n", "0-3\n", Processors(8, 4)),
        ("0-127\n", "0,2-3,64\n", Processors(128, 4)),
    ],
)
def test_they_are_counted(tmp_path: Path, possible: str, online: str, found: Processors) -> None:
    assert processors(tree(tmp_path, possible, online)) == Known(found)


@pytest.mark.parametrize("text", ["", "\n", "all", "1-0", "0-", "-1", "0,,1", "0-9999999999", "٣"])
def test_what_is_no_list_is_unknown(tmp_path: Path, text: str) -> None:
    fact = processors(tree(tmp_path, "0-3\n", text))
    assert isinstance(fact, Unknown)
    assert ONLINE in fact.reason


def test_a_capture_that_does_not_tell_is_unknown(tmp_path: Path) -> None:
    facts, _ = survey(captured_guest(SCATTERED.write(tmp_path)), None)
    assert isinstance(facts.processors, Unknown)
    guest = SCATTERED.with_file(POSSIBLE, "0-3\n").with_file(ONLINE, "0-1\n")
    facts, _ = survey(captured_guest(guest.write(tmp_path / "told")), None)
    assert facts.processors == Known(Processors(4, 2))


@pytest.mark.parametrize(
    ("fact", "stays", "id_", "severity"),
    [
        (Known(Processors(4, 2)), True, "start-page-kept", Severity.WARNING),
        (NOT_LOOKED, True, "start-page-kept", Severity.WARNING),
        (Known(Processors(2, 2)), False, "start-page-dropped", Severity.INFO),
        (Known(Processors(1, 1)), False, "start-page-dropped", Severity.INFO),
    ],
)
def test_the_start_page_stays_only_if_processors_can_come(
    fact: Fact[Processors], stays: bool, id_: str, severity: Severity
) -> None:
    found = attribute(replace(FULL, processors=fact), AUTO, lambda _va: "")
    assert (kept(found.plan).keys() >= PAGES) == stays
    assert bool(PAGES & kept(found.plan).keys()) == stays
    told = [f for f in found.plan.findings if f.id.startswith("start-page")]
    assert [(f.id, f.severity, f.facts["pages"]) for f in told] == [(id_, severity, 2)]
    assert found.policy.open == ()
    assert found.policy.keeps(CodeKind.TRAMPOLINE) == stays


def test_the_seal_decides_not_the_processors_of_later() -> None:
    """One that goes offline after the lock must not make the page look like drift."""
    sealed = attribute(replace(FULL, processors=Known(Processors(2, 2))), AUTO, lambda _va: "")
    later = build_plan(replace(FULL, processors=Known(Processors(2, 1))), sealed.policy)
    assert later.keep == sealed.plan.keep


@pytest.mark.parametrize("dropped", [(), (CodeKind.TRAMPOLINE,)])
def test_who_says_what_he_wants_gets_it(dropped: tuple[CodeKind, ...]) -> None:
    for fact in (Known(Processors(2, 2)), Known(Processors(4, 2)), NOT_LOOKED):
        plan = build_plan(replace(FULL, processors=fact), Policy(dropped=dropped))
        assert (kept(plan).keys() >= PAGES) == (not dropped)
