# SPDX-License-Identifier: GPL-2.0-or-later
"""What keeps a guest from level text, and how the agent has the kernel patch itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mbecguard.guest.processors import Processors
from mbecguard.guest.uses import Uses
from mbecguard.host.patch import patch
from mbecguard.plan.level import obstacles
from mbecguard.plan.policy import Level, from_settings
from mbecguard.settings.load import load
from mbecguard.values.facts import Fact, Known, Unknown
from mbecguard.values.findings import Severity

TWO = Known(Processors(possible=2, online=2))
HIDDEN = Unknown("may not be read", "mount it")
SYSTEMD = Uses(bpf_trampolines=Known(1), traced=Known(1))


def found(uses: Uses, processors: Fact[Processors] = TWO) -> list[tuple[str, Severity]]:
    return [(one.id, one.severity) for one in obstacles(uses, processors)]


def test_a_guest_as_systemd_leaves_it_is_fit() -> None:
    assert found(Uses()) == found(SYSTEMD) == []


@pytest.mark.parametrize(
    ("uses", "id_"),
    [
        (replace(SYSTEMD, livepatches=Known(("fix",))), "text-livepatch"),
        (replace(SYSTEMD, kprobes=Known(1)), "text-kprobes"),
        (replace(SYSTEMD, traced=Known(2)), "text-traced"),
        (Uses(traced=Known(1)), "text-traced"),
    ],
)
def test_whatever_patches_otherwise_stands_in_the_way(uses: Uses, id_: str) -> None:
    assert found(uses) == [(id_, Severity.BLOCKER)]


@pytest.mark.parametrize(
    ("possible", "online", "ids"), [(1, 1, []), (2, 1, ["text-processors"]), (8, 1, ["text-processors"]), (8, 2, [])]
)
def test_a_second_processor_has_all_lock_prefixes_patched(possible: int, online: int, ids: list[str]) -> None:
    assert [id_ for id_, _ in found(Uses(), Known(Processors(possible, online)))] == ids


@pytest.mark.parametrize("name", ["livepatches", "kprobes", "traced"])
def test_what_nobody_can_see_is_said(name: str) -> None:
    assert found(replace(Uses(), **{name: HIDDEN})) == [("text-unknown", Severity.WARNING)]  # type: ignore[arg-type]


def test_a_dispatcher_of_xdp_programs_that_cannot_be_seen_is_said() -> None:
    assert found(Uses(bpf_trampolines=HIDDEN)) == [("text-dispatcher", Severity.WARNING)]


def test_levels_come_from_the_settings() -> None:
    assert from_settings(load()).level is Level.EXEC
    assert from_settings(load()).frozen_keys == ()
    text = from_settings(load(overrides=["policy.level=text"]))
    assert (text.level, text.frozen_keys) == (Level.TEXT, ("lsm", "mitigations"))
    assert text.exec_only == from_settings(load())
    some = from_settings(load(overrides=["policy.level=text-log", "policy.frozen_keys=lsm"]))
    assert (some.level, some.frozen_keys) == (Level.TEXT_LOG, ("lsm",))


def test_a_key_is_switched_and_switched_back(tmp_path: Path) -> None:
    written: list[str] = []

    class Knob(type(tmp_path)):  # type: ignore[misc]
        def write_text(self, text: str, *_: object, **__: object) -> int:
            written.append(text)
            return len(text)

    (tmp_path / "knob").write_text("1\n")
    assert patch([tmp_path / "none", Knob(tmp_path / "knob")])
    assert written == ["0", "1\n"]


@pytest.mark.parametrize("content", ["2\n", "", "on\n"])
def test_no_key_to_switch(tmp_path: Path, content: str) -> None:
    (tmp_path / "knob").write_text(content)
    assert not patch([tmp_path / "knob", tmp_path / "none"])
    assert (tmp_path / "knob").read_text() == content
