# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may run when: one lock file for each machine that may run at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbecguard.values.errors import UserError
from tests.lab.locks import alone, one_of


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MBECGUARD_CACHE", str(tmp_path / "cache"))


def test_each_gets_another_lane_until_there_is_none() -> None:
    lanes = ["one", "two"]
    with one_of(lanes, 0) as first, one_of(lanes, 0) as second:
        assert [first, second] == lanes
        with pytest.raises(UserError) as caught, one_of(lanes, 0):
            pytest.fail("there are only two")
        assert "was held" in caught.value.message
    with one_of(lanes, 0) as again:
        assert again == "one"


def test_alone_is_one_lane() -> None:
    with alone("it", 0):
        with pytest.raises(UserError), alone("it", 0):
            pytest.fail("it is taken")
        with alone("other", 0):
            pass
