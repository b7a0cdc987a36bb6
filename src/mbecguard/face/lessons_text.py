# SPDX-License-Identifier: GPL-2.0-or-later
"""The lessons for people: values in, lines out."""

from __future__ import annotations

from collections.abc import Iterator

from mbecguard.face.look import plural
from mbecguard.face.text import Text
from mbecguard.learn.files import reason
from mbecguard.learn.learner import Started, Written
from mbecguard.learn.lessons import Late, Lessons


def started(answer: Started) -> Iterator[str]:
    """That it is watched now."""
    yield "watching module requests" if answer.fresh else "module requests are watched already"


def written(answer: Written) -> Iterator[str]:
    """Which files were written; of a dry run what would be in them."""
    for path, text in answer.files.items():
        yield f"--> {path}" if answer.dry_run else f"wrote {path}"
        yield from text.splitlines() if answer.dry_run else ()


def view(text: Text, lessons: Lessons) -> Iterator[str]:
    """What was learnt, and why it may be incomplete."""
    yield f"{plural(lessons.boots, 'watched boot')}, for the {lessons.profile} lock"
    for remark in lessons.remarks:
        yield from text.fill("  ", f"incomplete: {remark}", 4)
    late = [late for late in lessons.late if not late.first.refused]
    refused = [late for late in lessons.late if late.first.refused]
    yield from _section(text, "modules that were loaded after the lock point", late, lessons.boots)
    yield from _section(text, "modules that were asked for after the lock, and refused", refused, lessons.boots)
    yield "settings:" if lessons.needs else "settings: the defaults serve"
    for need in lessons.needs:
        yield from text.fill("  ", f'{need.setting} = "{need.value}"  {need.reason}', 6)
        yield from text.fill("      ", f"risk: {need.risk}", 6)
    if lessons.late or lessons.needs:
        then = "`mbecguard learn write` makes the files that load and set this before the next lock"
        yield from text.fill("", then, 0)


def _section(text: Text, title: str, modules: list[Late], boots: int) -> Iterator[str]:
    yield f"{title}:{'' if modules else ' none'}"
    for late in modules:
        yield from text.fill(f"  {late.module:<24} ", reason(late, boots), 27)
