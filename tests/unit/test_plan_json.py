# SPDX-License-Identifier: GPL-2.0-or-later
"""A plan and a survey as JSON: they come back equal, and what was changed is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from mbecguard.guest.efi import Efi
from mbecguard.guest.kcore import MemoryFacts
from mbecguard.guest.survey import Survey
from mbecguard.plan.planner import build_plan
from mbecguard.plan.policy import Policy
from mbecguard.plan.value import plan_from_json
from mbecguard.values.codec import decode, digest, encode
from mbecguard.values.errors import UserError
from mbecguard.values.facts import Absent, Unknown
from mbecguard.values.pages import PageRange
from tests.unit.test_planner import FULL, KERNEL


def changed(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        data["keep"][0][name] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(digest="0" * 64),
        lambda d: d.update(digest=""),
        lambda d: d["keep"].pop(),
        lambda d: d["deny"].reverse(),
        lambda d: d["findings"].clear(),
        lambda d: d["totals"].update(mixed_2m=0),
        lambda d: d["kernel"].update(text_pa="0x0"),
        lambda d: d.update(extra=1),
        lambda d: d.pop("deny"),
        lambda d: d.update(keep=None),
        changed("kind", "bpf"),
        changed("kind", "nonsense"),
        changed("kind", []),
        changed("owner", "x"),
        changed("start", "0x9a"),
        changed("end", "0x9c"),
        changed("end", "0x0"),
        changed("start", "-0x1"),
        changed("start", -1),
        changed("va", "0x0"),
        changed("va", 0),
    ],
    ids=range(21),
)
def test_a_changed_plan_is_refused(change: Callable[[dict[str, Any]], None]) -> None:
    data = build_plan(FULL, Policy()).to_json()
    change(data)
    with pytest.raises(UserError, match="plan") as caught:
        plan_from_json(data)
    assert caught.value.hint


def as_jq_has_it(data: Any) -> Any:
    """Every number a double, printed with 17 digits (jq 1.6, jv_print.c)."""
    if isinstance(data, dict):
        return {key: as_jq_has_it(value) for key, value in data.items()}
    if isinstance(data, list):
        return [as_jq_has_it(value) for value in data]
    return int(Decimal(f"{float(data):.17g}")) if isinstance(data, int) else data


def test_no_digit_is_lost_where_every_number_is_a_double() -> None:
    plan = build_plan(FULL, Policy())
    data = json.loads(json.dumps(plan.to_json()))
    assert any(as_jq_has_it(k.va) != k.va for k in plan.keep)  # what would become of a number
    assert plan_from_json(as_jq_has_it(data)) == plan


def test_a_plan_that_does_not_tile_is_refused_whatever_its_digest() -> None:
    data = build_plan(FULL, Policy()).to_json()
    for index in (3, 0):
        data["deny"].pop(index)
        data["digest"] = digest({k: v for k, v in data.items() if k != "digest"})
        with pytest.raises(UserError, match="do not tile"):
            plan_from_json(data)


def test_surveys_survive_json() -> None:
    bare = replace(KERNEL, image=None, image_problem="none", code_iomem=None)
    for survey in (
        FULL,
        replace(FULL, kernel=bare, modules=(), mappings=(), memory=MemoryFacts(), symbols=(), areas=Absent()),
        replace(FULL, areas=Unknown("hidden", "show it"), efi=Efi(Unknown("no map"), (PageRange(1, 2),))),
    ):
        assert decode(Survey, json.loads(json.dumps(encode(survey)))) == survey
