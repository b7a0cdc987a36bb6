# SPDX-License-Identifier: GPL-2.0-or-later
"""kvm-host/build.sh refuses what does not fit together, before it builds anything."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

BUILD = Path(__file__).parents[2] / "kvm-host/build.sh"
RELEASE = "7.2.12+deb14-cloud-amd64"
UNFIT, BROKEN, SOURCE = 3, 4, 5  #: its statuses


@dataclass(frozen=True, slots=True)
class Machine:
    """Fake headers, a fake source package, and a dpkg that knows the latter."""

    folder: Path

    def headers(self, version: str = "7.2.12", revision: str = "7.2.12-1") -> None:
        files = {
            "include/config/kernel.release": f"{RELEASE}\n",
            "include/generated/package.h": f'#define LINUX_PACKAGE_ID " Debian {revision}"\n',
            "Makefile": f"kernelversion:\n\t@echo {version}\nmodules:\n\t@echo built\n",
        }
        for name, text in files.items():
            path = self.folder / "headers" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def source(self, version: str = "7.2.12", more: Mapping[str, str] | None = None) -> None:
        fields = zip(("VERSION", "PATCHLEVEL", "SUBLEVEL"), version.split("."), strict=True)
        files = {
            "Makefile": "".join(f"{name} = {value}\n" for name, value in fields),
            "arch/x86/kvm/Makefile": "obj-y += x86.o\n",
            "virt/kvm/Makefile.kvm": "",
            **(more or {}),
        }
        with tarfile.open(self.folder / "source.tar.xz", "w:xz") as archive:
            for name, text in files.items():
                member = tarfile.TarInfo(f"linux-source-7.2/{name}")
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text.encode()))

    def dpkg(self, revision: str) -> None:
        tool = self.folder / "bin/dpkg-query"
        tool.parent.mkdir()
        tool.write_text(f'#!/bin/sh\n[ "$1" = -S ] && echo "linux-source-7.2: $2" || printf %s {revision}\n')
        tool.chmod(0o755)

    def tree(self) -> Path:
        """The source as a folder."""
        with tarfile.open(self.folder / "source.tar.xz") as archive:
            archive.extractall(self.folder)
        return self.folder / "linux-source-7.2"

    def build(self, *more: str) -> subprocess.CompletedProcess[str]:
        at = self.folder
        return self.run("--headers", f"{at}/headers", "--source", f"{at}/source.tar.xz", "--output", f"{at}/out", *more)

    def run(self, *words: str, build: Path = BUILD) -> subprocess.CompletedProcess[str]:
        at = self.folder
        return subprocess.run(
            [str(build), *words],
            env={**os.environ, "PATH": f"{at}/bin:{os.environ['PATH']}"},
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def refusal(self, status: int = 1) -> str:
        done = self.build()
        assert done.returncode == status
        assert not list(self.folder.glob("out/*.ko"))
        return done.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.headers()
    made.source()
    return made


def test_source_of_another_version(machine: Machine) -> None:
    machine.source(version="7.2.11")
    assert f"is version 7.2.11, but the headers of {RELEASE} are 7.2.12" in machine.refusal(SOURCE)


def test_source_package_of_another_revision(machine: Machine) -> None:
    machine.dpkg("7.2.12-2")
    assert f"linux-source-7.2 is version 7.2.12-2, but the headers of {RELEASE} are 7.2.12-1" in machine.refusal(SOURCE)


def test_series_without_a_patch(machine: Machine) -> None:
    machine.headers(version="7.3.1")
    assert "no patch for kernel series 7.3; there are those of 6.12 7.2\n" in machine.refusal()


def test_what_the_series_lacks_is_patched_first(machine: Machine) -> None:
    machine.headers(version="6.12.117", revision="6.12.117-1")
    machine.source(version="6.12.117")
    assert "6.12-mbec.patch does not apply to" in machine.refusal(UNFIT)


def test_patch_that_does_not_apply(machine: Machine) -> None:
    machine.dpkg("7.2.12-1")
    assert "7.2.patch does not apply to" in machine.refusal(UNFIT)


def test_no_headers(machine: Machine) -> None:
    (machine.folder / "headers/include/config/kernel.release").unlink()
    assert "no headers" in machine.refusal()


def test_no_source(machine: Machine) -> None:
    (machine.folder / "source.tar.xz").unlink()
    assert "apt install linux-source-7.2" in machine.refusal(SOURCE)


PLACE = "arch/x86/kvm/x86.c"


def patch(line: str, *, before: str = "one", file: str = PLACE) -> str:
    """Puts a line behind `before`."""
    return f"--- a/{file}\n+++ b/{file}\n@@ -1,2 +1,3 @@\n {before}\n+{line}\n two\n"


@pytest.fixture
def series(machine: Machine) -> Machine:
    """Patches of a series 7.2 of which one place differs between revisions, and a source in which both are lines."""
    machine.source(more={PLACE: "one\ntwo\n", "arch/x86/kvm/regs.c": "eins\ntwo\n"})
    folder = machine.folder / "kvm-host"
    (folder / "patches/7.2-sregs").mkdir(parents=True)
    shutil.copy(BUILD, folder)
    (folder / "patches/7.2.patch").write_text(patch("hook"))
    (folder / "patches/7.2-sregs/regs.patch").write_text(patch("sregs", before="eins", file="arch/x86/kvm/regs.c"))
    (folder / "patches/7.2-sregs/x86.patch").write_text(patch("sregs", before="hook"))
    return machine


def dry_run(machine: Machine, *words: str) -> subprocess.CompletedProcess[str]:
    build = machine.folder / "kvm-host/build.sh"
    return machine.run("--dry-run", "--source", f"{machine.folder}/source.tar.xz", *words, build=build)


def test_a_dry_run_needs_no_headers_and_leaves_nothing(series: Machine) -> None:
    before = sorted(series.folder.rglob("*"))
    done = dry_run(series)
    assert (done.returncode, done.stdout.split(" apply to ")[0]) == (0, "build.sh: the patches of 7.2")
    assert sorted(series.folder.rglob("*")) == before


def test_a_place_may_look_in_several_ways(series: Machine) -> None:
    series.source(more={PLACE: "one\ntwo\n"})  # no regs.c
    assert dry_run(series).returncode == 0
    series.source(more={PLACE: "one\ntwo\n", "arch/x86/kvm/regs.c": "zwei\n"})
    (series.folder / "kvm-host/patches/7.2-sregs/x86.patch").unlink()
    done = dry_run(series)
    assert (done.returncode, "7.2-sregs does not apply to" in done.stderr) == (UNFIT, True)


def test_a_dry_run_tells_all_that_does_not_fit(series: Machine) -> None:
    series.source(more={PLACE: "zero\nthree\n"})
    done = dry_run(series)
    assert done.returncode == UNFIT
    assert "Hunk #1 FAILED" in done.stderr
    assert "7.2.patch 7.2-sregs does not apply to" in done.stderr


def test_another_series_is_tried_with_the_patches_that_are_named(series: Machine) -> None:
    series.source(version="7.3.4", more={PLACE: "one\ntwo\n"})
    assert "no patch for kernel series 7.3" in dry_run(series).stderr
    assert dry_run(series, "--patches", "7.2").returncode == 0
    assert "goes with --dry-run alone" in series.build("--patches", "7.2").stderr


def test_a_dry_run_for_a_kernel_asks_for_its_version(series: Machine) -> None:
    series.headers(version="7.2.11")
    done = dry_run(series, "--headers", f"{series.folder}/headers")
    assert (done.returncode, "is version 7.2.12, but the headers" in done.stderr) == (SOURCE, True)


def test_a_folder_is_a_source_too(series: Machine) -> None:
    tree = series.tree()
    done = series.run("--dry-run", "--source", str(tree), build=series.folder / "kvm-host/build.sh")
    assert (done.returncode, (tree / PLACE).read_text()) == (0, "one\ntwo\n")


def test_kvm_that_does_not_build(series: Machine) -> None:
    (series.folder / "kvm-host/src").mkdir()
    (series.folder / "kvm-host/src/own.c").write_text("")
    makefile = series.folder / "headers/Makefile"
    makefile.write_text(makefile.read_text().replace("echo built", "false"))
    words = (
        "--headers",
        f"{series.folder}/headers",
        "--source",
        f"{series.folder}/source.tar.xz",
        "--output",
        f"{series.folder}/out",
    )
    done = series.run(*words, build=series.folder / "kvm-host/build.sh")
    assert (done.returncode, "does not build with the patches of 7.2" in done.stderr) == (BROKEN, True)


def test_usage(machine: Machine) -> None:
    assert machine.build("--faster").returncode == 2
    assert "--jobs needs a value" in machine.build("--jobs").stderr
    assert machine.build("--help").stdout.startswith("usage: build.sh")
