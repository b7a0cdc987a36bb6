# SPDX-License-Identifier: GPL-2.0-or-later
"""Healthy guests that were refused, and wrong plans without a word: each condition comes out right, also captured."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from mbecguard.guest.captured import capture
from mbecguard.values.errors import UserError
from mbecguard.values.findings import Finding, Severity
from tests import corpus
from tests.cases.conditions import CONDITIONS, make
from tests.looked import Looked, looked


def ranges(asked: Looked) -> tuple[Any, Any] | None:
    """What is kept and denied; None if the guest cannot be surveyed."""
    try:
        plan = asked.look().plan
    except UserError:
        return None
    return tuple((k.start, k.end, k.kind) for k in plan.keep), plan.deny


def told(findings: Sequence[Finding]) -> set[tuple[str, str]]:
    return {(f.id, f"{f.text} {f.hint}") for f in findings}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cases")


@cache
def whole(name: str, root: Path) -> Path:
    """An unpacked guest, which nobody changes."""
    return corpus.unpack(name, root)


@cache
def untouched(name: str, root: Path) -> tuple[tuple[Any, Any] | None, frozenset[tuple[str, str]]]:
    asked = looked(whole(name, root), root / "cache")
    return ranges(asked), frozenset(told(asked.check().findings))


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_condition_comes_out_right(name: str, root: Path, tmp_path: Path) -> None:
    folder = corpus.linked(whole(CONDITIONS[name].guest, root), tmp_path / "guest")
    wanted = make(name, folder)
    plan, before = untouched(wanted.guest, root)
    asked = looked(folder, root / "cache", *wanted.options)
    found = asked.check().findings
    blockers = [f.text for f in found if f.severity is Severity.BLOCKER]
    assert bool(blockers) != wanted.locks, blockers
    ids = {f.id for f in found}
    assert set(wanted.ids) <= ids
    assert not ids & set(wanted.never), [f.text for f in found if f.id in wanted.never]
    fresh = " ".join(text for _, text in told(found) - before)
    assert all(word in fresh for word in wanted.words), fresh
    if wanted.open:
        assert set(wanted.open) <= {d.switch.knob for d in asked.look().decisions if not d.on}
    assert all(f.hint for f in found)
    if wanted.same_plan:
        assert ranges(asked) == plan


@pytest.mark.parametrize("name", [name for name, row in CONDITIONS.items() if row.locks])
def test_a_capture_of_it_says_the_same(name: str, root: Path, tmp_path: Path) -> None:
    folder = corpus.linked(whole(CONDITIONS[name].guest, root), tmp_path / "guest")
    wanted = make(name, folder)
    asked = looked(folder, root / "cache", *wanted.options)
    capture(asked.guest, tmp_path / "again")
    again = looked(tmp_path / "again", root / "cache", *wanted.options)
    assert ranges(again) == ranges(asked)
    assert told(again.check().findings) == told(asked.check().findings)
    assert [d.on for d in again.look().decisions] == [d.on for d in asked.look().decisions]
