# SPDX-License-Identifier: GPL-2.0-or-later
"""The lessons for people: values in, lines out."""

from __future__ import annotations

from collections.abc import Iterator

from mbecguard.learn.files import reason
from mbecguard.learn.lessons import Late, Lessons


def view(lessons: Lessons) -> Iterator[str]:
    """What was learnt, and why it may be incomplete."""
    yield f"{lessons.boots} watched boots, for the {lessons.profile} lock"
    yield from (f"  incomplete: {remark}" for remark in lessons.remarks)
    late = [late for late in lessons.late if not late.first.refused]
    refused = [late for late in lessons.late if late.first.refused]
    yield from _section("modules that were loaded after the lock point", late, lessons.boots)
    yield from _section("modules that were asked for after the lock, and refused", refused, lessons.boots)
    yield "settings:" if lessons.needs else "settings: the defaults serve"
    for need in lessons.needs:
        yield f'  {need.setting} = "{need.value}"  {need.reason}'
        yield f"      risk: {need.risk}"
    if lessons.late or lessons.needs:
        yield "`mbecguard learn write` makes the files that load and set this before the next lock"


def _section(title: str, modules: list[Late], boots: int) -> Iterator[str]:
    yield f"{title}:{'' if modules else ' none'}"
    for late in modules:
        yield f"  {late.module:<24} {reason(late, boots)}"
