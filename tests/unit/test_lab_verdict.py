# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's verdict port: silence, garbage and half a line are never success."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.lab.verdict import Expected, Outcome, judge, read

TAKEN = '{"scenario":"a","stage":1}'
ENDED = '{"scenario":"a","end":"ok"}'
FINISHED = '{"lab":"finished"}'


def fact(name: str, value: str) -> str:
    return json.dumps({"scenario": "a", "fact": name, "value": value})


def text(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)


@pytest.mark.parametrize(
    ("lines", "outcome"),
    [
        ((TAKEN, fact("x", "1"), ENDED), Outcome.PASSED),
        ((), Outcome.NO_VERDICT),
        ((TAKEN,), Outcome.NO_VERDICT),
        ((TAKEN, fact("x", "1")), Outcome.NO_VERDICT),
        ((TAKEN, fact("x", "1"), FINISHED), Outcome.NO_VERDICT),
        ((fact("x", "1"), '{"scenario":"b","end":"ok"}'), Outcome.NO_VERDICT),
        ((TAKEN, ENDED), Outcome.FAILED),
        ((TAKEN, fact("x", "2"), ENDED), Outcome.FAILED),
        ((TAKEN, fact("x", "11"), ENDED), Outcome.FAILED),
        ((TAKEN, fact("x", "1"), fact("x", "1"), ENDED), Outcome.FAILED),
        ((TAKEN, fact("x", "1"), '{"scenario":"a","end":"failed with status 1"}'), Outcome.FAILED),
        ((TAKEN, fact("x", "1"), '{"scenario":"a","end":"OK"}'), Outcome.FAILED),
        ((TAKEN, fact("x", "1"), '{"scenario":"a","end":"died"}'), Outcome.DIED),
        ((TAKEN, fact("x", "1"), '{"scenario":"a","end":"died"}', ENDED), Outcome.DIED),
        ((TAKEN, fact("x", "1"), '{"scenario":"a","end":"silent"}'), Outcome.SILENT),
        ((TAKEN, fact("x", "1"), '{"scenario":"a","end":"silent"}', ENDED), Outcome.SILENT),
    ],
)
@pytest.mark.parametrize("expected", [{"x": "1"}, {"x": re.compile("[01]")}])
def test_outcomes(lines: tuple[str, ...], outcome: Outcome, expected: Expected) -> None:
    assert judge("a", expected, read(text(*lines))).outcome is outcome


def test_an_unfinished_line_is_not_read() -> None:
    told = read(text(TAKEN, fact("x", "1")) + ENDED)
    assert judge("a", {"x": "1"}, told).outcome is Outcome.NO_VERDICT


def test_facts_that_nobody_expects_are_kept() -> None:
    judgement = judge("a", {}, read(text(TAKEN, fact("cost", "7"), ENDED)))
    assert (judgement.outcome, judgement.facts) == (Outcome.PASSED, (("cost", "7"),))


def test_problems_name_the_fact() -> None:
    told = read(text(TAKEN, fact("x", "2"), ENDED))
    assert judge("a", {"x": "1", "y": "1"}, told).problems == ("x: '2', not '1'", "y: nothing seen")


def test_machine_facts_and_the_end_of_the_lab() -> None:
    told = read(text('{"fact":"mbec","value":"Y"}\r', FINISHED))
    assert (told.machine, told.finished, told.garbage) == ((("mbec", "Y"),), True, ())
    assert not read(text('{"lab":"guest gone","status":"1"}')).finished


@pytest.mark.parametrize(
    "line", ["", "ok", "{", "[]", "1", '{"scenario":1,"end":"ok"}', '{"scenario":"a"}', '{"end":"ok"}', '"ok"', "null"]
)
def test_garbage_is_told(line: str) -> None:
    assert read(text(line)).garbage == (line,)


@given(st.lists(st.text(), max_size=6))
def test_no_text_passes_without_the_token(lines: list[str]) -> None:
    assert judge("a", {}, read(text(*lines))).outcome is Outcome.NO_VERDICT
