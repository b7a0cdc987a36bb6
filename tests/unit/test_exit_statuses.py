# SPDX-License-Identifier: GPL-2.0-or-later
"""Which state ends with which status, and that the documents have the same table."""

from __future__ import annotations

import pytest

from mbecguard.host.base import HostMode
from mbecguard.records.record import State, exit_of
from mbecguard.records.status import Status
from mbecguard.values.errors import Exit
from tests.plans import make_record

TABLE = [
    (State.OPEN, False, 6),
    (State.OPEN, True, 6),  # the host would only log, but it was not even asked
    (State.APPLIED, False, 6),  # on the way to a seal, or left by a killed agent: nothing keeps it
    (State.APPLIED, True, 8),
    (State.PROVEN, False, 6),
    (State.PROVEN, True, 8),
    (State.SEALED, False, 0),
    (State.SEALED, True, 0),
    (State.DEGRADED, False, 4),
    (State.DEGRADED, True, 4),
]


@pytest.mark.parametrize(("state", "audit", "status"), TABLE)
def test_a_state_has_one_exit_status(state: State, audit: bool, status: int) -> None:
    assert exit_of(state, audit=audit) == status
    assert make_record(state, mode="audit" if audit else "enforce").exit == status
    mode = HostMode.AUDIT if audit else HostMode.ENFORCE
    assert Status(state, (), "simulator", True, mode, 1, None, None).exit == status


def test_only_a_seal_ends_with_zero() -> None:
    assert {state for state, _, status in TABLE if status == Exit.OK} == {State.SEALED}
