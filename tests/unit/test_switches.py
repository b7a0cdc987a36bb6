# SPDX-License-Identifier: GPL-2.0-or-later
"""Switches: which are set, what they would take away, and how they are read and written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mbecguard.guest.setters import SETTERS
from mbecguard.guest.sysctlfiles import Assignment
from mbecguard.guest.tree import Tree
from mbecguard.guest.uses import KPROBES_ENABLED, SYSCTLS, Uses
from mbecguard.settings.declared import SETTINGS
from mbecguard.settings.load import load
from mbecguard.switches import SWITCHES, LiveKnobs, SimulatedKnobs, undone
from mbecguard.switches.decisions import decide, findings
from mbecguard.values.errors import UserError
from mbecguard.values.facts import Known, Unknown
from mbecguard.values.findings import Severity

HOOKED = Uses(bpf_trampolines=Known(2))
PATCHED = Uses(livepatches=Known(("fix1", "fix2")), bpf_trampolines=Known(1))
PROBED = Uses(kprobes=Known(3))
TRACED = Uses(traced=Known(4))
ON_FTRACE = Uses(kprobes=Known(2), ftrace_kprobes=Known(2), traced=Known(2))
HIDDEN = Unknown("nobody may look", "look as root")
UNSEEN = Uses(HIDDEN, HIDDEN, HIDDEN, HIDDEN, HIDDEN)
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
        (TRACED, (), {"ftrace"}),
        (ON_FTRACE, (), {"ftrace", "kprobes"}),
        (UNSEEN, (), {"ftrace", "kprobes"}),
        (UNSEEN, ("freeze.ftrace=on",), {"kprobes"}),
        (replace(UNSEEN, traced=Known(0)), (), {"kprobes"}),  # that list has everybody
        (Uses(traced=HIDDEN), (), {"ftrace"}),
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
        (Uses(traced=HIDDEN), "freeze.ftrace=auto", ("freeze-unknown", Severity.WARNING)),
        (Uses(traced=HIDDEN), "freeze.ftrace=on", None),
        (TRACED, "freeze.ftrace=auto", ("freeze-left-open", Severity.WARNING)),
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


def test_what_cannot_be_known_is_told_with_what_helps() -> None:
    (found,) = findings(decide(load(), Uses(kprobes=HIDDEN)), SimulatedKnobs())
    assert "nobody may look" in found.text
    assert "look as root" in found.hint
    hidden = Uses(bpf_trampolines=Unknown("net.core.bpf_jit_harden = 2 hides them"), traced=Known(1))
    assert "bpf_jit_harden" in findings(decide(load(), hidden), SimulatedKnobs())[0].text


def test_all_switches_are_captured() -> None:
    captured = {*SYSCTLS, f"/{KPROBES_ENABLED}"}
    assert {switch.knob for switch in SWITCHES} <= captured


def test_a_captured_guest_has_its_own_switches(tmp_path: Path) -> None:
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/ftrace_enabled").write_text("0\n")
    knobs = SimulatedKnobs.of(Tree(tmp_path, captured=True, unread={f"{KPROBES_ENABLED}": HIDDEN}))
    assert knobs.values == {"kernel.ftrace_enabled": "0", f"/{KPROBES_ENABLED}": ""}
    old = SimulatedKnobs.of(Tree(tmp_path, captured=True))
    assert old.values == SimulatedKnobs().values | {"kernel.ftrace_enabled": "0"}


def test_what_is_frozen_already_is_no_finding() -> None:
    knobs = SimulatedKnobs()
    knobs.put("kernel.ftrace_enabled", "0")
    assert not findings(decide(load(), HOOKED), knobs)


def test_a_switch_that_is_not_there_is_told(live: LiveKnobs) -> None:
    found = findings(decide(load(overrides=["freeze.kexec=off"]), Uses()), live)
    assert [f.id for f in found] == ["freeze-missing"] * 2
    assert ["kernel.ftrace_enabled" in found[0].text, "net.core.bpf_jit_enable" in found[1].text] == [True, True]


@pytest.mark.parametrize(
    ("knob", "value", "override", "told"),
    [
        ("net.core.bpf_jit_enable", "1", "freeze.bpf_jit=auto", ["freeze-undone"]),
        ("net.core.bpf_jit_enable", "0", "freeze.bpf_jit=auto", []),
        ("net.core.bpf_jit_enable", "1", "freeze.bpf_jit=off", []),
        ("kernel.ftrace_enabled", "1", "freeze.ftrace=on", ["freeze-undone"]),
        ("kernel.modules_disabled", "0", "freeze.modules=on", ["freeze-contested"]),  # the kernel takes nothing back
        ("kernel.kexec_load_disabled", "0", "freeze.kexec=auto", ["freeze-contested"]),
        ("kernel.kexec_load_disabled", "1", "freeze.kexec=auto", []),
        ("kernel.kexec_load_disabled", "0", "freeze.kexec=off", []),
    ],
)
@pytest.mark.parametrize("frozen", [False, True])
def test_who_takes_a_freeze_back_is_told(knob: str, value: str, override: str, told: list[str], frozen: bool) -> None:
    assigned = {knob: Assignment(value, "etc/sysctl.d/99-speed.conf", 7)}
    knobs = SimulatedKnobs({switch.knob: switch.value if frozen else "" for switch in SWITCHES})
    found = findings(decide(load(overrides=[override]), Uses(), assigned), knobs)
    assert [f.id for f in found] == told
    assert all(f"/etc/sysctl.d/99-speed.conf:7 sets {knob} to {value}:" in f.text for f in found)


@pytest.mark.parametrize(("override", "told"), [("freeze.bpf_jit=auto", True), ("freeze.bpf_jit=off", False)])
def test_a_program_that_is_known_to_take_a_freeze_back_is_told(override: str, told: bool) -> None:
    decisions = decide(load(overrides=[override, "freeze.ftrace=off"]), Uses(), setters=SETTERS)
    found = findings(decisions, SimulatedKnobs())
    assert [f.id for f in found] == ["freeze-setter"] * told
    assert all("Cilium is installed here, which sets net.core.bpf_jit_enable to 1" in f.text for f in found)
    assert all('freeze.bpf_jit = "off"' in f.hint for f in found)


def test_only_auto_leaves_a_remark() -> None:
    remarks = [d.remark for d in decide(load(), HOOKED) if d.remark]
    assert [remark.id for remark in remarks] == ["freeze-left-open"]
    assert "RestrictFileSystems" in remarks[0].text
    for override in ("freeze.ftrace=on", "freeze.ftrace=off"):
        assert not any(d.remark for d in decide(load(overrides=[override]), HOOKED))


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ({}, []),
        ({"net.core.bpf_jit_enable": "1"}, ["switch-undone"]),
        ({"net.core.bpf_jit_enable": "1", "kernel.modules_disabled": "0"}, ["switch-undone"] * 2),
        ({"kernel.ftrace_enabled": "1"}, []),  # was left open
        ({"/sys/kernel/debug/kprobes/enabled": None}, ["switch-unseen"]),
    ],
)
def test_switches_of_a_seal_are_watched(now: dict[str, str | None], told: list[str]) -> None:
    values = {s.knob: now.get(s.knob, s.value) for s in SWITCHES}
    knobs = SimulatedKnobs({knob: value for knob, value in values.items() if value is not None})
    found = undone(knobs, [s.knob for s in SWITCHES if s.setting != "freeze.ftrace"])
    assert [r.id for r in found] == told
    assert all(r.text.startswith(tuple(now)) for r in found)
    assert not undone(knobs, [])


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
