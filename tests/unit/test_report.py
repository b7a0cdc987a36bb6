# SPDX-License-Identifier: GPL-2.0-or-later
"""The newest lock: of this boot, or plainly said to be of another."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbecguard.audit.report import report
from mbecguard.face.text import Text
from mbecguard.records.record import State
from mbecguard.records.store import Store
from mbecguard.values.errors import Exit, UserError
from tests.plans import PLAN, keep, make_record


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to report") as caught:
        report(Store(tmp_path), "boot")
    assert caught.value.status is Exit.NOTHING


@pytest.mark.parametrize(
    ("state", "mode", "status"),
    [
        (State.SEALED, "enforce", Exit.OK),
        (State.DEGRADED, "enforce", Exit.NOT_ENFORCED),
        (State.APPLIED, "audit", Exit.AUDIT_MODE),
    ],
)
def test_a_lock_of_this_boot_ends_as_its_state(tmp_path: Path, state: State, mode: str, status: Exit) -> None:
    store = Store(tmp_path)
    keep(store, make_record(state, mode=mode))
    keep(store, make_record(State.SEALED, boot_id="another"))
    found = report(store, "boot")
    assert (found.this_boot, found.record.state, found.exit) == (True, state, status)


def test_a_seal_of_an_earlier_boot_is_none_of_this_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    keep(store, make_record(boot_id="one"))
    keep(store, make_record(boot_id="two"))
    found = report(store, "boot")
    assert (found.this_boot, found.record.boot_id, found.exit) == (False, "two", Exit.NOTHING)
    assert found.plan == PLAN
    assert next(Text().report(found)) == "of an earlier boot, two; of this boot there is no record"
