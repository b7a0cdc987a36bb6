# SPDX-License-Identifier: GPL-2.0-or-later
"""Records and evidence: what counts as a proof, and that records come back from JSON exactly."""

from __future__ import annotations

import json
from itertools import product

import pytest

from mbecguard.host.base import Outcome
from mbecguard.plan.policy import Level
from mbecguard.records.reasons import Reason
from mbecguard.records.record import (
    EXPECTED,
    PROOF,
    TEXT_PROOF,
    Evidence,
    Journal,
    Probe,
    Record,
    State,
    Step,
    is_proof,
    proves_text,
)
from mbecguard.values.codec import decode, encode
from tests.plans import make_evidence, make_plan, make_record


def test_every_probe_expects_a_verdict() -> None:
    assert EXPECTED.keys() == set(Probe)
    assert Outcome.NO_VERDICT not in EXPECTED.values()
    assert {EXPECTED[probe] for probe in PROOF} == {Outcome.RAN, Outcome.DENIED}


@pytest.mark.parametrize(("probe", "outcome"), [*product(Probe, Outcome)])
def test_evidence_holds_only_as_expected(probe: Probe, outcome: Outcome) -> None:
    ran = {Probe.CANARY_BEFORE, Probe.USER_ON_DENIED, Probe.KEPT_TEXT}
    ran |= {Probe.STORE_BEFORE, Probe.STORE_COUNTED, Probe.PATCH}
    expected = Outcome.RAN if probe in ran else Outcome.DENIED
    assert Evidence(probe, outcome, 1).holds == (outcome is expected)


def test_a_proof_needs_all_kinds_and_none_against() -> None:
    assert is_proof(make_evidence())
    assert is_proof(make_evidence(*PROOF))
    assert not is_proof(())
    for probe in PROOF:
        assert not is_proof(make_evidence(*PROOF - {probe}))
    for probe in Probe:
        assert not is_proof(make_evidence(**{probe.name: Outcome.NO_VERDICT}))


@pytest.mark.parametrize("level", Level)
def test_what_a_level_of_text_needs_besides(level: Level) -> None:
    evidence = make_evidence(*PROOF, *TEXT_PROOF[level])
    assert proves_text(evidence, level)
    assert is_proof(evidence)
    for probe in TEXT_PROOF[level]:
        assert not proves_text(tuple(e for e in evidence if e.probe is not probe), level)
        worse = tuple(e._replace(outcome=Outcome.NO_VERDICT) if e.probe is probe else e for e in evidence)
        assert not proves_text(worse, level)
    assert bool(TEXT_PROOF[level]) == (level is not Level.EXEC)


def test_records_and_journals_come_back_exactly() -> None:
    record = make_record(State.DEGRADED, reasons=(Reason("a", "one"), Reason("b", "two", "do")))
    assert decode(Record, json.loads(json.dumps(encode(record)))) == record
    for journal in (
        Journal("b", Step.CHECK),
        Journal("b", Step.SEAL, make_evidence(), {"a.b": "1"}, make_plan().digest),
    ):
        assert decode(Journal, json.loads(json.dumps(encode(journal)))) == journal


def test_states_and_steps_are_those_of_the_contract() -> None:
    assert [*State] == ["open", "applied", "proven", "sealed", "degraded"]
    assert " -> ".join(Step) == (
        "check -> hold -> reserve -> survey -> apply -> resurvey -> prove -> freeze -> settle -> last-survey -> "
        "tighten -> text -> pin -> seal -> modules -> one-way -> record"
    )
    assert encode(make_record())["schema"] == "mbecguard.record/2"
    assert encode(make_record())["level"] == "exec"
