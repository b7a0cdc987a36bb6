# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of attacks against the code that plays them and the document that is made from it."""

from __future__ import annotations

import re
from pathlib import Path

from tests.lab import attacks
from tests.lab.scenarios import SCENARIOS

ROOT = Path(__file__).parents[2]


def test_the_document_is_the_table() -> None:
    assert (ROOT / "docs/ATTACKS.md").read_text() == attacks.document(), "python -m tests.lab attacks >docs/ATTACKS.md"


def test_each_spot_has_its_code_at_its_place() -> None:
    table = (ROOT / "tests/lab/module/spots.c").read_text().split("spots[] = {")[1].split("};")[0]
    code = re.findall(r"\{ (?:get_|\.run = mbectest_)(\w+)", table)
    named = {"per_cpu": "percpu", "page_cache": "pagecache", "re_pointed": "repoint"}
    names = [spot.name.replace("-", "_") for spot in attacks.SPOTS]
    assert code == [named.get(name, name) for name in names]


def test_each_attack_is_played_by_a_scenario() -> None:
    scripts = {row.name: row for row in SCENARIOS}
    assert {attack.scenario for attack in attacks.ATTACKS} <= scripts.keys()
    for name in ("lock", "serves", "service"):
        assert {f"{when}-{spot.name}" for when in ("before", "after") for spot in attacks.SPOTS} <= set(
            scripts[name].expect
        )


def test_what_is_not_stopped_is_said_so() -> None:
    assert [spot.name for spot in attacks.SPOTS if spot.after == attacks.RAN] == ["text"]
    assert attacks.document().count("not stopped") == 1
