# SPDX-License-Identifier: GPL-2.0-or-later
"""What is tried through the shim's device: pins, the canary, kept text, and user code that really runs."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from errno import EINVAL, EIO, ENOMEM
from pathlib import Path
from typing import Any, NoReturn

import pytest

from mbecguard.device import Seen, Sight
from mbecguard.host import shim
from mbecguard.host.base import Outcome
from tests.fakeshim import (
    CANARY_VA,
    DENY_ALL,
    FAULTS,
    GP,
    HANGS,
    ILLEGAL,
    LOOPED,
    PF,
    RAN,
    RETURNS,
    RETURNS_7,
    TEXT_VA,
    UNCHANGED,
    UNSUITABLE,
    Cpus,
    FakeShim,
    R,
    X,
    fails,
    host_of,
    part,
)
from tests.plans import CANARY

pytestmark = pytest.mark.usefixtures("cpus")


@pytest.mark.parametrize(
    ("sights", "pinned"),
    [([GP, GP], True), ([GP, RAN], False), ([RAN, GP], False), ([GP, UNCHANGED], False), ([GP, PF], False)],
    ids=range(5),
)
def test_pinned_is_pinned_everywhere(fake: FakeShim, sights: list[Sight], pinned: bool) -> None:
    assert host_of(replace(fake, sights=sights)).pinned() is pinned


@pytest.mark.parametrize(
    ("sights", "outcome"),
    [
        ([RAN, RAN], Outcome.RAN),
        ([PF, PF], Outcome.DENIED),
        ([GP, GP], Outcome.DENIED),
        ([PF, GP], Outcome.DENIED),
        ([PF, RAN], Outcome.NO_VERDICT),
        ([RAN, PF], Outcome.NO_VERDICT),
        ([LOOPED, LOOPED], Outcome.NO_VERDICT),
        ([PF, LOOPED], Outcome.NO_VERDICT),
        ([PF, PF._replace(cr2=CANARY_VA + 1)], Outcome.NO_VERDICT),  # something else faulted
        ([PF._replace(trap=6)] * 2, Outcome.NO_VERDICT),
        ([PF._replace(seen=Seen.LOOPED)] * 2, Outcome.NO_VERDICT),
    ],
    ids=range(11),
)
def test_the_canary_on_every_cpu(fake: FakeShim, cpus: Cpus, sights: Sequence[Sight], outcome: Outcome) -> None:
    assert host_of(replace(fake, sights=list(sights))).run_canary() is outcome
    assert cpus.visited == [0, 5]
    assert cpus.mask == {0, 5}


def test_the_canary_is_denied_and_its_neighbour_runs(fake: FakeShim) -> None:
    host = host_of(fake)
    frames = (8, 9, 10, 11, 20)
    assert [host.run_canary(), *map(host.run_kept, frames)] == [Outcome.RAN] * 6
    host.protect([DENY_ALL, part(8, 12, X), part(10, 11, R)])
    assert host.run_canary() is Outcome.DENIED
    assert [pfn for pfn in frames if host.run_kept(pfn) is Outcome.RAN] == [8, 9, 11]
    assert [pfn for pfn in frames if host.run_kept(pfn) is Outcome.DENIED] == [10, 20]


def test_cpus_that_cannot_be_tried(fake: FakeShim, cpus: Cpus, monkeypatch: pytest.MonkeyPatch) -> None:
    host = host_of(fake)
    cpus.online = [0]
    error = fails(host.run_canary)
    assert "CPU 5" in error.message
    assert cpus.mask == {0, 5}
    fake.errors.append(ENOMEM)
    fails(host.run_canary)
    assert cpus.mask == {0, 5}  # given back also when the probe fails
    monkeypatch.setattr(shim, "ONLINE", Path("/dev/null/online"))
    assert "cannot be read" in fails(host.pinned).message


def test_a_cpu_that_goes_offline_meanwhile_is_left_out(fake: FakeShim, cpus: Cpus) -> None:
    host = host_of(fake)
    cpus.online = [0]

    def goes(pid: int, mask: set[int], move: Callable[[int, set[int]], None] = cpus.move) -> None:
        if mask == {5}:
            shim.ONLINE.write_text("0\n")
        move(pid, mask)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_setaffinity", goes)
        assert host.run_canary() is Outcome.RAN
    assert cpus.visited == [0]


def test_an_affinity_that_cannot_be_given_back_decides_nothing(fake: FakeShim, cpus: Cpus) -> None:
    host = host_of(fake)

    def move(pid: int, mask: set[int]) -> None:
        if len(mask) > 1:
            raise OSError(EINVAL, "Invalid argument")
        Cpus.move(cpus, pid, mask)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_setaffinity", move)
        assert host.run_canary() is Outcome.RAN


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", [0]), ("0-3", [0, 1, 2, 3]), ("0,2-3,17\n", [0, 2, 3, 17]), ("4-4", [4])],
)
def test_lists_of_cpus(text: str, expected: list[int]) -> None:
    shim.ONLINE.write_text(text)
    assert shim.online_cpus() == expected


@pytest.mark.parametrize("text", ["", "0-", "a", "0,,1", "1-2-3", "-1", "999999"])
def test_what_is_no_list_of_cpus(text: str) -> None:
    shim.ONLINE.write_text(text)
    assert "no list of CPUs" in fails(shim.online_cpus).message


def test_this_machine_has_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert len(shim.online_cpus()) == os.sysconf("SC_NPROCESSORS_ONLN")


def test_kept_frames_are_found_by_their_addresses(fake: FakeShim) -> None:
    host = host_of(fake)
    fake.table += [(TEXT_VA + 0x100000, 2 << 12, 4096, 0)]
    # 2: an alias of the direct map, where the shim tries nothing, and then text. 8: a user-mode address comes first.
    assert [host.run_kept(pfn) for pfn in (2, 8, 11, 20)] == [Outcome.RAN] * 4
    assert [host.run_kept(pfn) for pfn in (7, 12, 21)] == [Outcome.NO_VERDICT] * 3
    assert fake.calls.count("probe") == 5


@pytest.mark.parametrize(
    ("sight", "outcome"),
    [
        (UNSUITABLE, Outcome.NO_VERDICT),
        (LOOPED, Outcome.NO_VERDICT),
        (Sight(Seen.TRAPPED, 14, TEXT_VA + 0xFFF), Outcome.DENIED),
        (Sight(Seen.TRAPPED, 14, TEXT_VA + 0x1000), Outcome.NO_VERDICT),
        (Sight(Seen.TRAPPED, 3, TEXT_VA), Outcome.NO_VERDICT),
    ],
    ids=range(5),
)
def test_fetches_without_a_clear_verdict(fake: FakeShim, sight: Sight, outcome: Outcome) -> None:
    fake.sights.append(sight)
    assert host_of(fake).run_kept(8) is outcome
    assert host_of(fake).run_kept(8) is Outcome.RAN


def test_a_fetch_that_fails_otherwise_is_an_error(fake: FakeShim) -> None:
    host = host_of(fake)
    fake.errors += [0, 0, EIO]  # the second page of mappings brings kernel text
    assert "probe" in fails(lambda: host.run_kept(8)).message


def test_user_code_runs(fake: FakeShim, page: Callable[[bytes], int]) -> None:
    host = host_of(fake, page(RETURNS))
    assert [host.run_user(CANARY), host.run_user(CANARY)] == [Outcome.RAN] * 2
    assert [host.run_user(CANARY + 1), host.run_user(8)] == [Outcome.NO_VERDICT] * 2


@pytest.mark.parametrize(
    ("code", "outcome"),
    [(FAULTS, Outcome.DENIED), (RETURNS_7, Outcome.NO_VERDICT), (ILLEGAL, Outcome.NO_VERDICT)],
    ids=["faults", "another value", "illegal"],
)
def test_user_code_that_does_not_return_well(
    fake: FakeShim, page: Callable[[bytes], int], code: bytes, outcome: Outcome
) -> None:
    assert host_of(fake, page(code)).run_user(CANARY) is outcome


def test_user_code_that_hangs_is_ended(
    fake: FakeShim, page: Callable[[bytes], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shim, "USER_SECONDS", 0.3)
    assert host_of(fake, page(HANGS)).run_user(CANARY) is Outcome.NO_VERDICT
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)  # nothing is left behind


def test_user_code_that_cannot_be_mapped(fake: FakeShim) -> None:
    reading, writing = os.pipe()
    try:
        error = fails(lambda: host_of(fake, reading).run_user(CANARY))
    finally:
        os.close(reading)
        os.close(writing)
    assert "noexec" in error.hint


@pytest.mark.parametrize(("code", "status"), [(RETURNS, 0), (RETURNS_7, 1), (None, 2)], ids=["good", "bad", "none"])
def test_the_child_tells_how_it_went(
    fake: FakeShim, page: Callable[[bytes], int], monkeypatch: pytest.MonkeyPatch, code: bytes | None, status: int
) -> None:
    """The child's part of `run_user`, in this process."""

    def leave(given: int) -> NoReturn:
        raise SystemExit(given)

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(faulthandler, "disable", lambda: None)
    host: Any = host_of(fake, page(code) if code else None)
    with pytest.raises(SystemExit) as left:
        host._child()
    assert left.value.code == status
