# SPDX-License-Identifier: GPL-2.0-or-later
"""kvm-host/build.sh refuses what does not fit together, before it builds anything."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

BUILD = Path(__file__).parents[2] / "kvm-host/build.sh"
RELEASE = "7.2.12+deb14-cloud-amd64"


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

    def source(self, version: str = "7.2.12", makefile: str = "obj-y += x86.o\n") -> None:
        fields = zip(("VERSION", "PATCHLEVEL", "SUBLEVEL"), version.split("."), strict=True)
        files = {
            "Makefile": "".join(f"{name} = {value}\n" for name, value in fields),
            "arch/x86/kvm/Makefile": makefile,
            "virt/kvm/Makefile.kvm": "",
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

    def build(self, *more: str) -> subprocess.CompletedProcess[str]:
        at = self.folder
        command = [str(BUILD), "--headers", f"{at}/headers", "--source", f"{at}/source.tar.xz"]
        return subprocess.run(
            [*command, "--output", f"{at}/out", *more],
            env={**os.environ, "PATH": f"{at}/bin:{os.environ['PATH']}"},
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def refusal(self) -> str:
        done = self.build()
        assert done.returncode == 1
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
    assert f"is version 7.2.11, but the headers of {RELEASE} are 7.2.12" in machine.refusal()


def test_source_package_of_another_revision(machine: Machine) -> None:
    machine.dpkg("7.2.12-2")
    assert f"linux-source-7.2 is version 7.2.12-2, but the headers of {RELEASE} are 7.2.12-1" in machine.refusal()


def test_series_without_a_patch(machine: Machine) -> None:
    machine.headers(version="7.3.1")
    assert "no patch for kernel series 7.3; there are those of 6.12 7.2\n" in machine.refusal()


def test_what_the_series_lacks_is_patched_first(machine: Machine) -> None:
    machine.headers(version="6.12.117", revision="6.12.117-1")
    machine.source(version="6.12.117")
    assert "6.12-mbec.patch does not apply to" in machine.refusal()


def test_patch_that_does_not_apply(machine: Machine) -> None:
    machine.dpkg("7.2.12-1")
    assert "7.2.patch does not apply to" in machine.refusal()


def test_no_headers(machine: Machine) -> None:
    (machine.folder / "headers/include/config/kernel.release").unlink()
    assert "no headers" in machine.refusal()


def test_no_source(machine: Machine) -> None:
    (machine.folder / "source.tar.xz").unlink()
    assert "apt install linux-source-7.2" in machine.refusal()


def test_usage(machine: Machine) -> None:
    assert machine.build("--faster").returncode == 2
    assert "--jobs needs a value" in machine.build("--jobs").stderr
    assert machine.build("--help").stdout.startswith("usage: build.sh")
