# SPDX-License-Identifier: GPL-2.0-or-later
"""The catalogue of reasons: closed, and each of them is given somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import mbecguard
from mbecguard.records.reasons import CATALOGUE, reason

SOURCE = Path(mbecguard.__file__).parent
FACTS = (
    *("problem", "advice", "reason", "knob", "use", "mode", "step", "evidence", "ranges", "origin", "denied"),
    *(
        "remedy",
        "what",
        "folder",
        "text",
        "why",
        "state",
        "pages",
        "kind",
        "found",
        "wanted",
        "risk",
        "value",
        "frozen",
        "count",
        "level",
        "names",
    ),
)


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_reason_is_a_sentence_and_is_given_somewhere(name: str) -> None:
    said = reason(name, **{fact: f"<{fact}>" for fact in FACTS})
    assert (said.id, str(said)) == (name, said.text)
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name)
    assert said.text
    assert "{" not in said.text + said.hint
    assert any(f'"{name}"' in file.read_text() for file in SOURCE.rglob("*.py") if file.name != "reasons.py")


def test_unknown_reasons_and_facts_are_bugs() -> None:
    with pytest.raises(KeyError):
        reason("nonsense")
    with pytest.raises(KeyError):
        reason("interrupted")
