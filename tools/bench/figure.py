# SPDX-License-Identifier: GPL-2.0-or-later
"""One figure, and the table of all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

SLACK = 1.03  #: of what a saved run had: less of a difference is none


@dataclass(frozen=True, slots=True)
class Figure:
    """What something costs. Less is better, and less than `goal` is good."""

    name: str
    value: float
    unit: str = ""  #: "M instructions", "MiB"; empty: a ratio
    goal: float | None = None

    @property
    def reached(self) -> bool:
        """Whether the goal is; a figure without one is only told."""
        return self.goal is None or self.value < self.goal


def rows(figures: Iterable[Figure], before: Mapping[str, Figure]) -> Iterator[str]:
    """The table, one line for each figure as soon as it is known; `before`: those of a saved run, by name."""
    yield _row("figure", "now", "goal", "before" if before else "", "")
    for figure in figures:
        old = before.get(figure.name)
        goal = "" if figure.goal is None else f"< {_number(figure.goal)}"
        missed = "" if figure.reached else "not reached"
        yield _row(figure.name, _number(figure.value), goal, _number(old.value) if old else "", figure.unit, missed)


def worse(figures: Iterable[Figure], before: Mapping[str, Figure]) -> list[str]:
    """The names of what costs more than in a saved run."""
    return [one.name for one in figures if one.name in before and one.value > SLACK * before[one.name].value]


def saved(document: Mapping[str, Any]) -> dict[str, Figure]:
    """The figures of a run that was saved with --json, by name."""
    return {one["name"]: Figure(**one) for one in document["figures"]}


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"


def _row(name: str, now: str, goal: str, before: str, *more: str) -> str:
    return f"{name:<62} {now:>8} {goal:>8} {before:>8}  {'  '.join(filter(None, more))}".rstrip()
