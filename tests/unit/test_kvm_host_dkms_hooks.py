# SPDX-License-Identifier: GPL-2.0-or-later
"""kvm-host/dkms.sh: which kernels get our KVM, and what becomes of the others. With DKMS: test_kvm_host_dkms.py."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from mbecguard.readiness.findings import SKIPPED
from mbecguard.readiness.kvm import MODULES

KVM_HOST = Path(__file__).parents[2] / "kvm-host"
RELEASE, OLDER = "6.12.120+deb13-amd64", "6.12.115+deb13.1-cloud-amd64"
NOT_FOR_THIS_KERNEL = 77
ENDS = {3: "patch", 4: "build", 5: "source", 1: "other", 127: "other"}  #: of build.sh
OURS = f"lib/modules/{RELEASE}/updates/dkms"
STOCK = f"/lib/modules/{RELEASE}/kernel/arch/x86/kvm"
ORIGINALS = f"var/lib/dkms/mbecguard-kvm/original_module/{RELEASE}/x86_64"

#: As far as the tool uses it. What it is asked for stands in `asked`.
DKMS = """
cd "$MBECGUARD_HOST_ROOT"
action=$1
for release; do :; done
case $action in install | unbuild) ;; *) release= ;; esac
echo "$action $release" >>asked
modules=lib/modules/$release/updates/dkms
case $action in
install)
    rm -rf built && mkdir built && cd built && "$TOOL" build "$release" || exit
    [ ! -e ../refuses ] || exit 6
    mkdir -p "../$modules" && for module in out/*.ko; do mv "$module" "../$modules/${module#out/}.xz"; done ;;
unbuild) rm -f "$modules"/kvm*.ko.xz ;;
remove) rm -f lib/modules/*/updates/dkms/kvm*.ko.xz ;;
status) cat added 2>/dev/null || : ;;
add) echo added >added ;;
esac
"""
BUILD = """
fails=$MBECGUARD_HOST_ROOT/fails-$2
[ ! -e "$fails" ] || { echo 'build.sh: it does not work'; exit "$(cat "$fails")"; }
mkdir -p "$4" && cd "$4"
for module in kvm kvm-intel kvm-amd; do cat "$MBECGUARD_HOST_ROOT"/tool/src/* >$module.ko; done
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """A folder as the root of a machine, with the tool and what it calls: a false build.sh, DKMS, initramfs."""

    folder: Path

    def run(self, *words: str, free: int = 1 << 20, inside: str = "") -> subprocess.CompletedProcess[str]:
        self.program("bin/df", f"printf ' Avail\\n{free}\\n'")
        names = {
            "MBECGUARD_HOST_STATE": f"{self.folder}/state",
            "MBECGUARD_HOST_ROOT": str(self.folder),
            "TOOL": f"{self.folder}/tool/dkms.sh",
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
        }
        return subprocess.run(
            [names["TOOL"], *words],
            cwd=self.folder / inside,
            env=os.environ | names,
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def program(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def has(self, *paths: str, text: str | None = None) -> None:
        for path in paths:
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_text(path if text is None else text)

    def kernel(self, release: str, revision: str = "6.12.120-1", *, headers: bool = True) -> None:
        self.has(f"lib/modules/{release}/kernel/arch/x86/kvm/kvm.ko.xz")
        if headers:
            package = f'#define LINUX_PACKAGE_ID " Debian {revision}"\n'
            self.has(f"lib/modules/{release}/build/include/generated/package.h", text=package)

    def fails(self, release: str, status: int | None) -> None:
        """What build.sh comes to for a kernel."""
        (self.folder / f"fails-{release}").unlink(missing_ok=True)
        if status is not None:
            self.has(f"fails-{release}", text=str(status))

    def state(self, release: str = RELEASE) -> dict[str, str]:
        path = self.folder / f"state/{release}/state"
        return dict(re.findall(r"^(\w+) (.*)$", path.read_text(), re.MULTILINE)) if path.exists() else {}

    def ours(self, release: str = RELEASE) -> dict[str, str]:
        """Our modules that a kernel has, and what they are made of."""
        found = (self.folder / f"lib/modules/{release}/updates/dkms").glob("*.ko.xz")
        return {path.name.removesuffix(".ko.xz"): path.read_text() for path in found}

    def asked(self) -> list[str]:
        path = self.folder / "asked"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line for line in lines if not line.startswith("status")]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.has("tool/patches/6.12.patch", "tool/src/mbecg.c")
    shutil.copy(KVM_HOST / "dkms.sh", tmp_path / "tool")
    made.program("tool/build.sh", BUILD)
    made.program("bin/dkms", DKMS)
    made.kernel(RELEASE)
    return made


def test_every_kernel_gets_ours(machine: Machine) -> None:
    machine.kernel(OLDER)
    done = machine.run("renew")
    assert (done.returncode, frozenset(machine.ours()), frozenset(machine.ours(OLDER))) == (0, MODULES, MODULES)
    assert f"kernel {OLDER} has our KVM\nmbecguard: kernel {RELEASE} has our KVM" in done.stderr
    assert machine.asked() == [
        "add ",
        *(f"{word} {name}" for name in (OLDER, RELEASE) for word in ("unbuild", "install")),
    ]


def test_what_is_up_to_date_is_left_alone(machine: Machine) -> None:
    machine.run("renew")
    machine.asked()
    assert (machine.run("renew").stderr, machine.asked()) == ("", [])


@pytest.mark.parametrize("change", ["sources", "revision"])
def test_what_is_made_of_something_older_is_made_again(machine: Machine, change: str) -> None:
    machine.run("renew")
    machine.asked()
    if change == "sources":
        machine.has("tool/src/mbecg.c", text="newer")
    else:
        machine.kernel(RELEASE, "6.12.120-2")
    machine.run("renew")
    assert machine.asked() == [f"unbuild {RELEASE}", f"install {RELEASE}"]


@pytest.mark.parametrize(("status", "reason"), ENDS.items())
def test_a_kernel_without_ours_is_no_failure(machine: Machine, status: int, reason: str) -> None:
    """The one beside it gets ours."""
    machine.kernel(OLDER)
    machine.fails(OLDER, status)
    done = machine.run("renew")
    assert (done.returncode, machine.state(OLDER)["reason"], machine.ours(OLDER)) == (0, reason, {})
    assert (machine.state(OLDER)["problem"], frozenset(machine.ours())) == ("it does not work", MODULES)
    assert f"kernel {OLDER} keeps its own KVM" in done.stderr
    assert (machine.folder / f"state/{OLDER}/log").read_text() == "build.sh: it does not work\n"


@pytest.mark.parametrize("change", ["package", "revision", "headers", "room"])
def test_a_build_that_works_is_not_given_up(machine: Machine, change: str) -> None:
    """The package is newer, and the kernel older than the source; its headers are gone; there is no room."""
    machine.run("renew")
    before = machine.ours()
    machine.asked()
    machine.fails(RELEASE, 5)
    if change != "revision":
        machine.has("tool/src/mbecg.c", text="newer")
    if change == "revision":
        machine.kernel(RELEASE, "6.12.120-2")
    if change == "headers":
        shutil.rmtree(machine.folder / f"lib/modules/{RELEASE}/build")
    done = machine.run("renew", free=1000 if change == "room" else 1 << 20)
    assert (done.returncode, machine.ours(), machine.asked()) == (0, before, [])
    assert machine.state()["reason"] == (change if change in ("headers", "room") else "source")
    assert "keeps the KVM of ours that it has, and gets no newer one" in done.stderr


def test_headers_that_are_gone_are_no_trouble(machine: Machine) -> None:
    machine.run("renew")
    shutil.rmtree(machine.folder / f"lib/modules/{RELEASE}/build")
    assert (machine.run("renew").stderr, machine.state(), frozenset(machine.ours())) == ("", {}, MODULES)


def test_what_was_missing_has_come(machine: Machine) -> None:
    """Headers before their source: the next run builds, and the trouble is forgotten."""
    machine.fails(RELEASE, 5)
    machine.run("renew")
    machine.fails(RELEASE, None)
    assert "has our KVM" in machine.run("renew").stderr
    assert (machine.state(), frozenset(machine.ours())) == ({}, MODULES)


DEBIANS = (RELEASE, OLDER, "6.12.95+deb12-rt-amd64", "7.2.12+deb14-cloud-amd64", "7.2+deb14-amd64")
FOREIGN = (
    "6.17.2-1-pve",
    "6.12.0-12-generic",
    "6.12.30-1-liquorix-amd64",
    "6.12.30-x64v3-xanmod1",
    "6.12.30",
    "6.12.90-amd64",
    "7.2.3-1-pve",
)


@pytest.mark.parametrize("release", FOREIGN)
def test_a_kernel_of_others(machine: Machine, release: str) -> None:
    machine.kernel(release)
    done = machine.run("renew")
    assert (done.returncode, machine.state(release)["reason"]) == (0, "foreign")
    assert "it is not a kernel of Debian's" in done.stderr
    assert f"install {release}" not in machine.asked()


@pytest.mark.parametrize("release", [*FOREIGN, *DEBIANS])
def test_dkms_takes_the_same_kernels(release: str) -> None:
    (tool,) = re.findall(r"^debian='(.*?)'", (KVM_HOST / "dkms.sh").read_text(), re.MULTILINE)
    (dkms,) = re.findall(r'^BUILD_EXCLUSIVE_KERNEL="(.*)"$', (KVM_HOST / "dkms.conf").read_text(), re.MULTILINE)
    assert bool(re.fullmatch(tool, release)) == bool(re.search(dkms, release)) == (release not in FOREIGN)


@pytest.mark.parametrize(
    ("release", "reason", "words"),
    [
        ("6.12.120+deb13-amd64", "headers", "apt install linux-headers-amd64"),
        ("6.12.115+deb13.1-cloud-amd64", "headers", "apt install linux-headers-cloud-amd64"),
        ("6.12.115+deb13-rt-amd64", "headers", "apt install linux-headers-rt-amd64"),
        ("7.3.4+deb13-amd64", "series", "there is no patch for the kernels of 7.3"),
    ],
)
def test_a_kernel_that_has_to_wait(machine: Machine, release: str, reason: str, words: str) -> None:
    shutil.rmtree(machine.folder / "lib/modules")
    machine.kernel(release, headers=False)
    assert words in machine.run("renew").stderr
    assert machine.state(release)["reason"] == reason


def test_the_kernel_that_runs_is_named(machine: Machine) -> None:
    machine.program("bin/uname", f"echo {RELEASE}")
    machine.fails(RELEASE, 3)
    assert f"kernel {RELEASE}, which runs, keeps its own KVM" in machine.run("renew").stderr


def test_it_is_told_once(machine: Machine) -> None:
    machine.fails(RELEASE, 3)
    assert "keeps its own KVM" in machine.run("renew").stderr
    assert machine.run("renew").stderr == ""
    assert "keeps its own KVM" in machine.run("tell").stderr
    machine.fails(RELEASE, 4)
    assert "keeps its own KVM" in machine.run("renew").stderr


def test_a_kernel_that_is_gone_is_forgotten(machine: Machine) -> None:
    machine.kernel(OLDER)
    machine.run("renew")
    shutil.rmtree(machine.folder / f"lib/modules/{OLDER}")
    machine.run("renew")
    assert [path.name for path in (machine.folder / "state").iterdir() if path.is_dir()] == [RELEASE]


def test_dkms_that_refuses(machine: Machine) -> None:
    machine.has("refuses")
    assert (machine.run("renew").returncode, machine.state()["reason"]) == (0, "other")
    assert machine.state()["problem"] == "DKMS does not install what was built"


def test_every_reason_has_something_to_do() -> None:
    text = (KVM_HOST / "dkms.sh").read_text()
    reasons = re.findall(r'why=(\w+)|^\t\techo "(\w+) |keeps "\$1" (\w+)', text, re.MULTILINE)
    assert {reason for found in reasons for reason in found if reason} == set(SKIPPED)


def test_by_hand(machine: Machine) -> None:
    """`dkms install` alone builds as well, and its status says that this kernel is to be left out."""
    (machine.folder / "inside").mkdir()
    assert machine.run("build", RELEASE, inside="inside").returncode == 0
    assert sorted(path.name for path in (machine.folder / "inside/out").iterdir()) == sorted(f"{m}.ko" for m in MODULES)
    machine.fails(RELEASE, 3)
    done = machine.run("build", RELEASE, inside="inside")
    assert (done.returncode, machine.state()["reason"]) == (NOT_FOR_THIS_KERNEL, "patch")
    assert "build.sh: it does not work" in done.stdout


@pytest.fixture
def initramfs(machine: Machine) -> Machine:
    machine.program("bin/lsinitramfs", 'cat "$1"')
    machine.program("bin/update-initramfs", f'echo "$*" >>{machine.folder}/asked')
    return machine


def test_an_initramfs_that_holds_kvm_is_made_again(initramfs: Machine) -> None:
    """When ours comes, and when it goes."""
    initramfs.has(f"boot/initrd.img-{RELEASE}", text=f"usr{STOCK}/kvm.ko.xz\n")
    initramfs.run("renew")
    assert f"-u -k {RELEASE}" in initramfs.asked()
    initramfs.run("renew")
    assert initramfs.asked() == []
    initramfs.run("remove")
    assert initramfs.asked() == ["remove ", f"-u -k {RELEASE}"]


def test_an_initramfs_without_kvm_is_left_alone(initramfs: Machine) -> None:
    initramfs.has(f"boot/initrd.img-{RELEASE}", text=f"usr{STOCK}/kvmgt.ko.xz\n")
    initramfs.run("renew")
    assert f"-u -k {RELEASE}" not in initramfs.asked()


def test_dracut_s_initramfs(machine: Machine) -> None:
    machine.has(f"boot/initrd.img-{RELEASE}", text=f"usr{STOCK}/kvm.ko.xz\n")
    machine.program("bin/lsinitrd", 'cat "$1"')
    machine.program("bin/dracut", f'echo "$*" >>{machine.folder}/asked')
    if shutil.which("update-initramfs"):
        pytest.skip("this machine has initramfs-tools")
    machine.run("renew")
    assert f"--force {machine.folder}/boot/initrd.img-{RELEASE} {RELEASE}" in machine.asked()


def test_all_of_ours_goes(machine: Machine) -> None:
    machine.run("renew")
    assert (machine.run("remove").returncode, machine.ours()) == (0, {})


def test_a_whole_kvm_is_left_alone(machine: Machine) -> None:
    assert set(re.findall(r"^modules='(.*)'$", (KVM_HOST / "dkms.sh").read_text(), re.MULTILINE)[0].split()) == MODULES
    machine.has(*(f"{OURS}/{name}.ko.xz" for name in MODULES))
    before = sorted(machine.folder.rglob("*.ko*"))
    assert (machine.run("mend", RELEASE).stderr, sorted(machine.folder.rglob("*.ko*"))) == ("", before)


def test_half_a_kvm_is_taken_away(machine: Machine) -> None:
    machine.has(f"{OURS}/kvm.ko.xz", f"{OURS}/other.ko.xz", f"{ORIGINALS}/kvm.ko.xz", f"{STOCK[1:]}/kvm-intel.ko.xz")
    machine.has(f"{ORIGINALS}/kvm.ko.xz.origin", text=f"{STOCK}/kvm.ko.xz\n")
    assert "the stock ones are put back" in machine.run("mend", RELEASE).stderr
    left = {str(path.relative_to(machine.folder)) for path in machine.folder.rglob("*.ko*")}
    assert left == {f"{OURS}/other.ko.xz", f"{STOCK[1:]}/kvm.ko.xz", f"{STOCK[1:]}/kvm-intel.ko.xz"}


def test_stock_modules_whose_folder_dkms_took_away_are_put_back(machine: Machine) -> None:
    """`dkms kernel_preinst`, which a kernel's package calls, leaves no empty folder."""
    shutil.rmtree(machine.folder / f"{STOCK[1:]}")
    machine.has(f"{OURS}/kvm.ko.xz", f"{ORIGINALS}/kvm.ko.xz")
    machine.has(f"{ORIGINALS}/kvm.ko.xz.origin", text=f"{STOCK}/kvm.ko.xz\n")
    assert machine.run("mend", RELEASE).returncode == 0
    assert (machine.folder / f"{STOCK[1:]}/kvm.ko.xz").read_text() == f"{ORIGINALS}/kvm.ko.xz"


def test_stock_modules_of_a_package_that_came_again_stay(machine: Machine) -> None:
    """DKMS keeps those of before, and would put them back over the new ones."""
    machine.has(f"{ORIGINALS}/kvm.ko.xz", f"{ORIGINALS}/kvm-intel.ko.xz")
    for name in ("kvm", "kvm-intel"):
        machine.has(f"{ORIGINALS}/{name}.ko.xz.origin", text=f"{STOCK}/{name}.ko.xz\n")
    machine.run("renew")
    assert sorted(path.name for path in (machine.folder / ORIGINALS).iterdir()) == [
        "kvm-intel.ko.xz",
        "kvm-intel.ko.xz.origin",
    ]


def test_nothing_to_mend(machine: Machine) -> None:
    assert (machine.run("mend", RELEASE).returncode, machine.run("mend", RELEASE).stderr) == (0, "")


def test_usage(machine: Machine) -> None:
    assert machine.run().returncode == machine.run("install").returncode == 2
    assert machine.run().stderr.startswith("usage: dkms.sh renew | ")


def test_dkms_calls_it() -> None:
    text = (KVM_HOST / "dkms.conf").read_text()
    assert re.findall(r'^PRE_\w+="dkms.sh (\w+) \$kernelver"$', text, re.MULTILINE) == ["build", "mend"]
    assert re.findall(r"^AUTOINSTALL=(.*)$", text, re.MULTILINE) == ['""']
