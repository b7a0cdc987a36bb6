# SPDX-License-Identifier: GPL-2.0-or-later
"""Switches: which are set, what they would take away, and how they are read and written."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbecguard.errors import UserError
from mbecguard.freeze import SWITCHES, LiveKnobs, SimulatedKnobs, decide, findings
from mbecguard.guest.uses import Uses
from mbecguard.plan.findings import Severity
from mbecguard.settings import SETTINGS, load

HOOKED = Uses(bpf_trampolines=2)
PATCHED = Uses(livepatches=("fix1", "fix2"), bpf_trampolines=1)
PROBED = Uses(kprobes=3)
NO_INTERPRETER = Uses(bpf_interpreter=False)


@pytest.fixture
def live(tmp_path: Path) -> LiveKnobs:
    for path in ("proc/sys/kernel/modules_disabled", "sys/kernel/debug/kprobes/enabled"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text("0\n")
    return LiveKnobs(tmp_path)


def test_every_switch_is_a_setting_and_one_way_ones_come_last() -> None:
    assert {s.setting for s in SWITCHES} == {s.key for s in SETTINGS if s.key.startswith("freeze.")}
    assert [s.one_way for s in SWITCHES] == sorted(s.one_way for s in SWITCHES)
    assert len({s.knob for s in SWITCHES}) == len(SWITCHES)
    assert SWITCHES[-1].setting == "freeze.modules"


def chosen(uses: Uses, *overrides: str) -> set[str]:
    return {d.switch.setting.removeprefix("freeze.") for d in decide(load(overrides=overrides), uses) if d.on}


@pytest.mark.parametrize(
    ("uses", "overrides", "left_out"),
    [
        (Uses(), (), set()),
        (Uses(), ("freeze.kexec=off", "freeze.ftrace=off"), {"kexec", "ftrace"}),
        (HOOKED, (), {"ftrace"}),
        (HOOKED, ("freeze.ftrace=on",), set()),
        (HOOKED, ("freeze.ftrace=off",), {"ftrace"}),
        (PATCHED, (), {"ftrace"}),
        (PROBED, (), {"kprobes"}),
        (NO_INTERPRETER, (), {"bpf_jit"}),
    ],
)
def test_auto_leaves_open_what_the_guest_uses(uses: Uses, overrides: tuple[str, ...], left_out: set[str]) -> None:
    assert chosen(uses, *overrides) == {"ftrace", "kprobes", "bpf_jit", "kexec", "modules"} - left_out


@pytest.mark.parametrize(
    ("uses", "override", "expected"),
    [
        (Uses(), "freeze.ftrace=auto", None),
        (HOOKED, "freeze.ftrace=auto", ("freeze-left-open", Severity.WARNING)),
        (HOOKED, "freeze.ftrace=on", ("freeze-loss", Severity.WARNING)),
        (HOOKED, "freeze.ftrace=off", None),
        (PATCHED, "freeze.ftrace=auto", ("freeze-left-open", Severity.WARNING)),
        (PATCHED, "freeze.ftrace=on", ("freeze-impossible", Severity.BLOCKER)),
        (NO_INTERPRETER, "freeze.bpf_jit=on", ("freeze-impossible", Severity.BLOCKER)),
        (PROBED, "freeze.kprobes=on", ("freeze-loss", Severity.WARNING)),
    ],
)
def test_what_is_found_before_the_freeze(uses: Uses, override: str, expected: tuple[str, Severity] | None) -> None:
    found = findings(decide(load(overrides=[override]), uses), SimulatedKnobs())
    assert [(f.id, f.severity) for f in found] == ([expected] if expected else [])


def test_a_finding_names_the_users_and_the_risk() -> None:
    (found,) = findings(decide(load(), PATCHED), SimulatedKnobs())
    assert "fix1, fix2" in found.text
    assert "kernel.ftrace_enabled" in found.text
    assert "crashes the guest" in found.hint
    assert 'freeze.ftrace = "on"' in found.hint


def test_what_is_frozen_already_is_no_finding() -> None:
    knobs = SimulatedKnobs()
    knobs.put("kernel.ftrace_enabled", "0")
    assert not findings(decide(load(), HOOKED), knobs)


def test_a_switch_that_is_not_there_is_told(live: LiveKnobs) -> None:
    found = findings(decide(load(overrides=["freeze.kexec=off"]), Uses()), live)
    assert [f.id for f in found] == ["freeze-missing"] * 2
    assert ["kernel.ftrace_enabled" in found[0].text, "net.core.bpf_jit_enable" in found[1].text] == [True, True]


def test_only_auto_leaves_a_remark() -> None:
    remarks = [d.remark for d in decide(load(), HOOKED) if d.remark]
    assert len(remarks) == 1
    assert "RestrictFileSystems" in remarks[0]
    for override in ("freeze.ftrace=on", "freeze.ftrace=off"):
        assert not any(d.remark for d in decide(load(overrides=[override]), HOOKED))


def test_live_knobs_read_and_write(live: LiveKnobs) -> None:
    assert live.get("kernel.modules_disabled") == "0"
    live.put("kernel.modules_disabled", "1")
    assert (live.root / "proc/sys/kernel/modules_disabled").read_text() == "1"
    live.put("/sys/kernel/debug/kprobes/enabled", "1")
    assert (live.root / "sys/kernel/debug/kprobes/enabled").read_text() == "1"
    assert live.get("kernel.none") is None
    assert live.get("none.at.all") is None


def test_a_knob_that_cannot_be_read_or_written_is_an_error(live: LiveKnobs) -> None:
    (live.root / "proc/sys/kernel/folder").mkdir()
    with pytest.raises(UserError, match=r"kernel\.folder cannot be read"):
        live.get("kernel.folder")
    with pytest.raises(UserError, match=r"kernel\.folder cannot be set to 1") as caught:
        live.put("kernel.folder", "1")
    assert "freeze" in caught.value.hint


def test_a_knob_that_nobody_may_touch_counts_as_absent(live: LiveKnobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(_path: Path) -> str:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "read_text", forbidden)
    assert live.get("/sys/kernel/debug/kprobes/enabled") is None


def test_a_knob_that_keeps_another_value_is_an_error(live: LiveKnobs) -> None:
    (live.root / "proc/sys/kernel/deaf").symlink_to("/dev/null")
    with pytest.raises(UserError, match="did not take the value 1") as caught:
        live.put("kernel.deaf", "1")
    assert "freeze" in caught.value.hint


def test_simulated_knobs_are_a_guest_where_nothing_is_frozen_yet() -> None:
    simulated = SimulatedKnobs()
    assert all(simulated.get(s.knob) not in (None, s.value) for s in SWITCHES)
    simulated.put("kernel.modules_disabled", "1")
    assert simulated.get("kernel.modules_disabled") == "1"
    assert SimulatedKnobs().get("kernel.modules_disabled") == ""
    assert simulated.get("kernel.none") is None
