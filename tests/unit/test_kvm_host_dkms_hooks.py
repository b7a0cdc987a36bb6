# SPDX-License-Identifier: GPL-2.0-or-later
"""kvm-host/dkms.sh: what becomes of a kernel for which KVM cannot be built. With DKMS: tests/test_kvm_host_dkms.py."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from mbecguard.readiness.findings import SKIPPED
from mbecguard.readiness.kvm import MODULES

KVM_HOST = Path(__file__).parents[2] / "kvm-host"
TOOL = KVM_HOST / "dkms.sh"
RELEASE = "6.12.120+deb13-amd64"
NOT_FOR_THIS_KERNEL = 77
ENDS = {3: "patch", 4: "build", 5: "source", 1: "other", 127: "other"}  #: of build.sh
OURS = f"lib/modules/{RELEASE}/updates/dkms"
STOCK = f"/lib/modules/{RELEASE}/kernel/arch/x86/kvm"
ORIGINALS = f"var/lib/dkms/mbecguard-kvm/original_module/{RELEASE}/x86_64"


@dataclass(frozen=True, slots=True)
class Machine:
    """A folder as DKMS's build folder and as the root of a machine; the build's status is told to a false build.sh."""

    folder: Path

    def run(self, *words: str, build: int = 0, free: int = 1 << 20) -> subprocess.CompletedProcess[str]:
        said = "build.sh: it does not work" if build else "fine"
        self.program("build.sh", f"echo '{said}'; exit {build}")
        self.program("bin/df", f"printf ' Avail\\n{free}\\n'")
        names = {"MBECGUARD_HOST_STATE": f"{self.folder}/state", "MBECGUARD_HOST_ROOT": str(self.folder)}
        environment = {**os.environ, **names, "PATH": f"{self.folder}/bin:{os.environ['PATH']}"}
        return subprocess.run(
            [TOOL, *words], cwd=self.folder, env=environment, check=False, capture_output=True, text=True, timeout=60
        )

    def program(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def has(self, *paths: str) -> None:
        for path in paths:
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_text(path)

    def state(self) -> dict[str, str]:
        text = (self.folder / f"state/{RELEASE}/state").read_text()
        return dict(re.findall(r"^(\w+) (.*)$", text, re.MULTILINE))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize(("status", "reason"), ENDS.items())
def test_a_build_that_fails_is_no_failure_of_dkms(machine: Machine, status: int, reason: str) -> None:
    done = machine.run("build", RELEASE, build=status)
    assert (done.returncode, machine.state()["reason"]) == (NOT_FOR_THIS_KERNEL, reason)
    assert machine.state()["problem"] == "it does not work"
    assert (machine.folder / f"state/{RELEASE}/log").read_text() == done.stdout == "build.sh: it does not work\n"


def test_every_reason_has_something_to_do() -> None:
    reasons = re.findall(r'skip "\$1" (\w+)', TOOL.read_text())
    assert set(reasons) == set(SKIPPED)


def test_a_build_that_succeeds_forgets_the_trouble(machine: Machine) -> None:
    machine.run("build", RELEASE, build=3)
    assert (machine.run("build", RELEASE).returncode, (machine.folder / f"state/{RELEASE}").exists()) == (0, False)


def test_without_room_nothing_is_begun(machine: Machine) -> None:
    assert machine.run("build", RELEASE, free=1000).returncode == NOT_FOR_THIS_KERNEL
    assert (machine.state()["reason"], "1000 KiB are free" in machine.state()["problem"]) == ("room", True)


def test_who_installs_a_kernel_is_told(machine: Machine) -> None:
    assert machine.run("tell", RELEASE).stderr == machine.run("tell").stderr == ""
    machine.run("build", RELEASE, build=3)
    told = machine.run("tell", RELEASE)
    assert (told.returncode, machine.run("tell").stderr) == (0, told.stderr)
    assert f"kernel {RELEASE} keeps its own KVM" in told.stderr
    assert "it does not work" in told.stderr
    assert machine.run("tell", "6.12.121+deb13-amd64").stderr == ""


def test_a_whole_kvm_is_left_alone(machine: Machine) -> None:
    assert set(re.findall(r"^modules='(.*)'$", TOOL.read_text(), re.MULTILINE)[0].split()) == MODULES
    machine.has(*(f"{OURS}/{name}.ko.xz" for name in MODULES))
    before = sorted(machine.folder.rglob("*.ko*"))
    assert (machine.run("mend", RELEASE).stderr, sorted(machine.folder.rglob("*.ko*"))) == ("", before)


def test_half_a_kvm_is_taken_away(machine: Machine) -> None:
    machine.has(f"{OURS}/kvm.ko.xz", f"{OURS}/other.ko.xz", f"{ORIGINALS}/kvm.ko.xz", f"{STOCK[1:]}/kvm-intel.ko.xz")
    (machine.folder / f"{ORIGINALS}/kvm.ko.xz.origin").write_text(f"{STOCK}/kvm.ko.xz\n")
    assert "the stock ones are put back" in machine.run("mend", RELEASE).stderr
    left = {str(path.relative_to(machine.folder)) for path in machine.folder.rglob("*.ko*")}
    assert left == {f"{OURS}/other.ko.xz", f"{STOCK[1:]}/kvm.ko.xz", f"{STOCK[1:]}/kvm-intel.ko.xz"}


def test_nothing_to_mend(machine: Machine) -> None:
    assert (machine.run("mend", RELEASE).returncode, machine.run("mend", RELEASE).stderr) == (0, "")


def test_what_was_missing_has_come(machine: Machine) -> None:
    """DKMS is asked again for the kernels that wait for it, as long as they are there."""
    machine.program("bin/dkms", 'echo "$@" >>asked')
    for release in (RELEASE, "6.12.90+gone-amd64"):
        machine.run("build", release, build=5)
    machine.has(f"{OURS}/other.ko.xz")
    assert machine.run("again", "patch").returncode == 0
    assert not (machine.folder / "asked").exists()
    assert machine.run("again", "source").returncode == 0
    assert (machine.folder / "asked").read_text() == f"autoinstall -k {RELEASE}\n"


def test_usage(machine: Machine) -> None:
    assert machine.run().returncode == machine.run("install").returncode == 2
    assert machine.run().stderr.startswith("usage: dkms.sh build RELEASE")


def test_dkms_calls_it() -> None:
    text = (KVM_HOST / "dkms.conf").read_text()
    assert re.findall(r'^PRE_\w+="dkms.sh (\w+) \$kernelver"$', text, re.MULTILINE) == ["build", "mend"]
