# SPDX-License-Identifier: GPL-2.0-or-later
"""Switches and sysctls."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbecguard.errors import UserError
from mbecguard.freeze import SWITCHES, LiveSysctls, SimulatedSysctls, chosen
from mbecguard.settings import SETTINGS, load


@pytest.fixture
def live(tmp_path: Path) -> LiveSysctls:
    (tmp_path / "kernel").mkdir()
    (tmp_path / "kernel/modules_disabled").write_text("0\n")
    return LiveSysctls(tmp_path)


def test_every_switch_is_a_setting_and_one_way_ones_come_last() -> None:
    assert {s.setting for s in SWITCHES} == {s.key for s in SETTINGS if s.key.startswith("freeze.")}
    assert [s.one_way for s in SWITCHES] == sorted(s.one_way for s in SWITCHES)
    assert len({s.sysctl for s in SWITCHES}) == len(SWITCHES)
    assert SWITCHES[-1].setting == "freeze.modules"


def test_chosen_follows_the_settings() -> None:
    assert chosen(load()) == SWITCHES
    fewer = chosen(load(overrides=["freeze.kexec=false", "freeze.ftrace=false"]))
    assert [s.setting for s in fewer] == ["freeze.bpf_jit", "freeze.modules"]


def test_live_sysctls_read_and_write(live: LiveSysctls) -> None:
    assert live.get("kernel.modules_disabled") == "0"
    live.put("kernel.modules_disabled", "1")
    assert (live.root / "kernel/modules_disabled").read_text() == "1"
    assert live.get("kernel.none") is None
    assert live.get("none.at.all") is None


def test_a_sysctl_that_cannot_be_read_or_written_is_an_error(live: LiveSysctls) -> None:
    (live.root / "kernel/folder").mkdir()
    with pytest.raises(UserError, match=r"kernel\.folder cannot be read"):
        live.get("kernel.folder")
    with pytest.raises(UserError, match=r"kernel\.folder cannot be set to 1") as caught:
        live.put("kernel.folder", "1")
    assert "freeze" in caught.value.hint


def test_a_sysctl_that_keeps_another_value_is_an_error(live: LiveSysctls) -> None:
    (live.root / "kernel/deaf").symlink_to("/dev/null")
    with pytest.raises(UserError, match="did not take the value 1") as caught:
        live.put("kernel.deaf", "1")
    assert "freeze" in caught.value.hint


def test_simulated_sysctls_are_a_guest_where_nothing_is_frozen_yet() -> None:
    simulated = SimulatedSysctls()
    assert all(simulated.get(s.sysctl) not in (None, s.value) for s in SWITCHES)
    simulated.put("kernel.modules_disabled", "1")
    assert simulated.get("kernel.modules_disabled") == "1"
    assert SimulatedSysctls().get("kernel.modules_disabled") == ""
    assert simulated.get("kernel.none") is None
