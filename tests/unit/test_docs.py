# SPDX-License-Identifier: GPL-2.0-or-later
"""The documents say what the tables say."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from mbecguard.audit.record import State, Step
from mbecguard.cli import parser
from mbecguard.errors import Exit
from mbecguard.freeze import SWITCHES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CONCEPTS = (ROOT / "docs/CONCEPTS.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def commands() -> set[str]:
    (action,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return set(action.choices)


def test_readme_lists_every_command() -> None:
    assert set(re.findall(r"^\| `mbecguard (\w+)", README, re.MULTILINE)) == commands()


def test_readme_lists_every_exit_status() -> None:
    text = README.partition("Exit status:")[2].partition("\n\n")[0]
    assert {int(number) for number in re.findall(r"(?:^|; ?|\s)(\d) \w", text)} == set(map(int, Exit))


def test_readme_lists_the_steps_in_order() -> None:
    text = README.partition("the transaction: ")[2].partition(" |")[0]
    steps = [step.value for step in Step]
    assert text.replace("survey again", "resurvey").split(", ") == steps


def test_concepts_explains_every_state() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", CONCEPTS, re.MULTILINE)) == {state.value for state in State}


def test_documented_make_targets_exist() -> None:
    text = README + (ROOT / "HACKING.md").read_text()
    assert set(re.findall(r"\bmake (\w+)", text)) <= set(re.findall(r"^(\w+):", MAKEFILE, re.MULTILINE))


def test_concepts_explains_every_switch() -> None:
    assert set(re.findall(r"^\| `(freeze\.\w+)` \|", CONCEPTS, re.MULTILINE)) == {s.setting for s in SWITCHES}
