# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that set what a lock freezes: known by what they leave on the disk, on a running and a captured guest."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbecguard.guest.captured import capture, captured_guest
from mbecguard.guest.setters import SETTERS, setters
from mbecguard.guest.tree import Tree
from mbecguard.guest.uses import SYSCTLS
from mbecguard.switches import SWITCHES
from tests.guestmaker import SCATTERED


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("etc/cni/net.d/05-cilium.conflist", ["Cilium"]),
        ("opt/cni/bin/cilium-cni", ["Cilium"]),
        ("usr/bin/trace-cmd", ["trace-cmd"]),
        ("etc/cni/net.d/10-calico.conflist", []),
        ("opt/cni/bin/bridge", []),
        ("usr/bin/trace-cmd-view", []),
    ],
)
def test_who_is_here(tmp_path: Path, file: str, names: list[str]) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).touch()
    assert [setter.name for setter in setters(Tree(tmp_path))] == names


def test_who_leaves_two_signs_is_told_once(tmp_path: Path) -> None:
    for file in ("etc/cni/net.d/05-cilium.conflist", "opt/cni/bin/cilium-cni"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    assert len(setters(Tree(tmp_path))) == 1


def test_the_table_is_about_switches() -> None:
    frozen = {switch.knob: switch.value for switch in SWITCHES}
    for setter in SETTERS:
        assert setter.sysctl in SYSCTLS
        assert setter.value != frozen[setter.sysctl]
        assert setter.source
        assert setter.signs


def test_a_captured_guest_has_the_signs_and_not_what_is_in_them(tmp_path: Path) -> None:
    guest = SCATTERED.write(tmp_path / "guest")
    (guest / "etc/cni/net.d").mkdir(parents=True)
    (guest / "etc/cni/net.d/05-cilium.conflist").write_text("a secret")
    capture(captured_guest(guest), tmp_path / "again")
    again = captured_guest(tmp_path / "again")
    assert [setter.name for setter in setters(again.tree)] == ["Cilium"]
    assert again.tree.data("etc/cni/net.d/05-cilium.conflist") == b""
