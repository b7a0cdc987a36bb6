# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's choices, locks and progress."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mbecguard.values.errors import Exit, UserError
from tests.lab import __main__ as cli
from tests.lab import bochs, hostimage, verdict
from tests.lab.layers import BOCHS_QUIRKS, HOST_SUITES, Host, Stack, Userland, kvm
from tests.lab.locks import alone
from tests.lab.run import Progress
from tests.lab.scenarios import SCENARIOS, Setting

OURS = Stack("6.12", Host.OURS, 1)
NO_DISK = {(Host.UNENFORCED, userland) for userland in Userland if userland is not Userland.MINIMAL}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MBECGUARD_CACHE", str(tmp_path))
    return tmp_path


def test_stock_kvm_needs_nothing_of_ours() -> None:
    assert kvm(Stack("6.12", Host.STOCK, 1), "7.2").files == {}


@pytest.mark.parametrize("ready", [None, "", "7.2-other\n", "7.2.12"])
def test_our_kvm_has_to_be_built_for_the_release(cache: Path, ready: str | None) -> None:
    (cache / "kvm-modules/7.2").mkdir(parents=True)
    if ready is not None:
        (cache / "kvm-modules/7.2/READY").write_text(ready)
    with pytest.raises(UserError) as caught:
        kvm(OURS, "7.2")
    assert "kvm-host" in caught.value.hint


def test_our_kvm(cache: Path) -> None:
    folder = cache / "kvm-modules/7.2"
    folder.mkdir(parents=True)
    (folder / "READY").write_text("7.2\n")
    found = kvm(OURS, "7.2")
    assert found.files == {"kvm": folder / "kvm.ko", "kvm_intel": folder / "kvm-intel.ko"}
    assert found.options["kvm_intel"] == BOCHS_QUIRKS
    assert found.options["kvm"].split() == ["mbecguard=enforce"]
    audit = kvm(replace(OURS, kvm_options="mbecguard=audit"), "7.2").options["kvm"]
    assert audit.split() == ["mbecguard=enforce", "mbecguard=audit"]
    assert kvm(replace(OURS, kvm_folder=cache), "7.3").files["kvm"] == cache / "kvm.ko"


@pytest.mark.parametrize("series", HOST_SUITES)
def test_each_host_kernel_has_a_kvm_of_its_own(cache: Path, series: str) -> None:
    folder = cache / "kvm-modules" / series
    folder.mkdir(parents=True)
    (folder / "READY").write_text(f"{series}.1\n")
    assert kvm(replace(OURS, host_kernel=series), f"{series}.1").files["kvm"] == folder / "kvm.ko"
    others = set(HOST_SUITES) - {series}
    for other in others:
        with pytest.raises(UserError):
            kvm(replace(OURS, host_kernel=other), f"{series}.1")


def test_stacks_of_two_host_kernels_do_not_share_their_logs() -> None:
    assert len({str(replace(OURS, host_kernel=series)) for series in HOST_SUITES}) == len(HOST_SUITES)


def test_a_host_that_enforces_nothing_has_the_other_vendors_kvm(cache: Path) -> None:
    found = kvm(replace(OURS, host=Host.UNENFORCED, kvm_folder=cache), "7.2")
    assert found.files == {"kvm": cache / "kvm.ko", "kvm_amd": cache / "kvm-amd.ko"}
    assert found.options == {"kvm": "mbecguard=enforce mbecg_unenforced=1 "}
    assert hostimage._load(Setting(), found).split("\n")[1].split() == ["kvm_amd"]


@pytest.mark.parametrize(
    ("told", "good"), [((), False), ((("complaints", "1"),), False), ((("complaints", "0"),), True)]
)
def test_a_host_has_to_say_that_its_kernel_complained_of_nothing(told: tuple[tuple[str, str], ...], good: bool) -> None:
    assert bool(verdict.differences(OURS.facts, told)) is not good
    assert replace(OURS, host=Host.PLAIN).facts == {}


def test_a_lock_is_held_by_one(cache: Path) -> None:
    with alone("x", 0), pytest.raises(UserError), alone("x", 0):
        pytest.fail("two hold the lock")
    with alone("x", 0):
        assert (cache / "x.lock").exists()


@pytest.mark.parametrize(("age", "kept"), [(0, True), (hostimage.UNUSED - 60, True), (hostimage.UNUSED + 60, False)])
def test_a_cd_is_kept_for_a_run_that_waits(cache: Path, age: float, kept: bool) -> None:
    cd, other = cache / "lab-cd-x-0", cache / "lab-root-x-0"
    for folder in (cd, other):
        folder.mkdir()
        (folder / "l1.iso").write_text("")
        os.utime(folder, (time.time() - age, time.time() - age))
    hostimage._forget_unused(cache)
    assert cd.exists() is kept
    assert other.exists()


@pytest.mark.parametrize("silence", [0, -1])
def test_a_guest_has_to_be_given_time(silence: int) -> None:
    with pytest.raises(UserError):
        replace(OURS, silence=silence)


def test_progress_says_each_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    for text in ("", "a\nb", "a\nb\n", "a\nb\nc\n"):
        progress(text)
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("log", "instructions"),
    [("", 0), ("00000000000i[] x\n11759000111e[CPU0  ] y\nno tick\n", 11759000111), ("123i[] x\n", 0)],
)
def test_instructions_are_bochs_last_tick(log: str, instructions: int) -> None:
    assert bochs.instructions(log) == instructions


def test_packages_are_for_the_kernel_of_their_suite() -> None:
    assert Stack("6.12", Host.OURS, 1, Userland.INSTALLED).systemd
    with pytest.raises(UserError, match="alone"):
        Stack("7.2", Host.OURS, 1, Userland.INSTALLED)


def test_names_of_stacks_differ() -> None:
    stacks = [Stack(kernel, host, cpus, userland) for kernel in ("6.12", "7.2") for host in Host for cpus in (1, 2)
              for userland in Userland if (kernel, userland) != ("7.2", Userland.INSTALLED)
              and (host, userland) not in NO_DISK]  # fmt: skip
    assert len({str(stack) for stack in stacks}) == len(stacks)


def test_help_explains(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["lab", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    text = capsys.readouterr().out
    assert all(word in text for word in ("Bochs", "TCG", "run", "list", "MBECGUARD_CACHE"))


def test_list_names_every_scenario(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["lab", "list"])
    assert cli.main() == Exit.OK
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [row.name for row in SCENARIOS]


def test_user_errors_have_a_hint(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["lab", "run", "nonsense"])
    assert cli.main() == Exit.ERROR
    assert "hint: python -m tests.lab list" in capsys.readouterr().err
