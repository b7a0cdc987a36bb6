# SPDX-License-Identifier: GPL-2.0-or-later
"""What the verdict port said: JSON lines, and the judgement over them.

Lines are `{"scenario", "stage"}` when the guest takes a scenario, `{"scenario", "fact", "value"}`, `{"scenario",
"end"}`, `{"fact", "value"}` for the machine itself, and `{"lab": "finished"}`. Silence is never success.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

END_OK = "ok"
END_DIED = "died"
END_SILENT = "silent"
FINISHED = "finished"

Expected = Mapping[str, str | re.Pattern[str]]


class Outcome(Enum):
    """How a scenario ended."""

    PASSED = "passed"
    FAILED = "failed"
    DIED = "the guest died"
    SILENT = "the guest fell silent"
    NO_VERDICT = "no verdict"


#: What the host's agent says in the guest's place.
LOST = {END_DIED: Outcome.DIED, END_SILENT: Outcome.SILENT}


@dataclass(frozen=True, slots=True)
class Told:
    """Everything that the port said, in order of arrival."""

    machine: tuple[tuple[str, str], ...]  #: facts of the machine itself
    facts: Mapping[str, tuple[tuple[str, str], ...]]  #: scenario -> its facts
    ends: Mapping[str, str]  #: scenario -> its end, if it came
    finished: bool
    garbage: tuple[str, ...]  #: lines that are not ours

    def started(self, scenario: str) -> bool:
        """Whether the guest took the scenario."""
        return scenario in self.facts


@dataclass(frozen=True, slots=True)
class Judgement:
    """One scenario's outcome."""

    scenario: str
    outcome: Outcome
    facts: tuple[tuple[str, str], ...]
    problems: tuple[str, ...]


def read(text: str) -> Told:
    """Parse the port's text; an unfinished last line is not read."""
    machine: list[tuple[str, str]] = []
    facts: dict[str, list[tuple[str, str]]] = {}
    ends: dict[str, str] = {}
    garbage: list[str] = []
    finished = False
    for line in text.replace("\r", "").split("\n")[:-1]:
        match _parsed(line):
            case {"scenario": str(name), "stage": int()}:
                facts.setdefault(name, [])
            case {"scenario": str(name), "fact": str(fact), "value": str(value)}:
                facts.setdefault(name, []).append((fact, value))
            case {"scenario": str(name), "end": str(end)}:
                ends.setdefault(name, end)
            case {"fact": str(fact), "value": str(value)}:
                machine.append((fact, value))
            case {"lab": str(word)}:
                finished = finished or word == FINISHED
            case _:
                garbage.append(line)
    settled = {name: tuple(rows) for name, rows in facts.items()}
    return Told(tuple(machine), settled, ends, finished, tuple(garbage))


def judge(scenario: str, expected: Expected, told: Told) -> Judgement:
    """Passed only with the end token, each expected fact once and as expected."""
    facts = told.facts.get(scenario, ())
    end = told.ends.get(scenario)
    problems = [*differences(expected, facts)]
    if end is None:
        outcome = Outcome.NO_VERDICT
        problems.insert(0, "never ended" if told.started(scenario) else "never started")
    elif end in LOST:
        outcome = LOST[end]
    else:
        if end != END_OK:
            problems.insert(0, f"the script {end}")
        outcome = Outcome.FAILED if problems else Outcome.PASSED
    return Judgement(scenario, outcome, facts, tuple(problems))


def differences(expected: Expected, facts: tuple[tuple[str, str], ...]) -> list[str]:
    """What was told otherwise, more than once, or not at all."""
    problems = []
    for name, wanted in expected.items():
        seen = [value for fact, value in facts if fact == name]
        if not seen:
            problems.append(f"{name}: nothing seen")
        elif len(seen) > 1:
            problems.append(f"{name}: told {len(seen)} times")
        elif not _fits(wanted, seen[0]):
            problems.append(f"{name}: {seen[0]!r}, not {_shown(wanted)}")
    return problems


def _fits(wanted: str | re.Pattern[str], seen: str) -> bool:
    return seen == wanted if isinstance(wanted, str) else bool(wanted.fullmatch(seen))


def _shown(wanted: str | re.Pattern[str]) -> str:
    return repr(wanted) if isinstance(wanted, str) else f"/{wanted.pattern}/"


def _parsed(line: str) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None
