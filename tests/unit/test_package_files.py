# SPDX-License-Identifier: GPL-2.0-or-later
"""What the packages' descriptions repeat: the one version, the units."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mbecguard import __version__
from tests.hostmaker import Host

PROJECT = Path(__file__).parents[2]
SPEC = "packaging/rpm/mbecguard.spec"


@pytest.mark.parametrize(
    ("file", "pattern"),
    [("packaging/debian/changelog", r"mbecguard \((\S+)\)"), (SPEC, r"^Version: (\S+)"), ("CHANGES.md", r"^## (\S+)")],
)
def test_newest_version(file: str, pattern: str) -> None:
    found = re.search(pattern, (PROJECT / file).read_text(), re.MULTILINE)
    assert found
    assert found[1] == __version__


def test_the_spec_names_all_units() -> None:
    lists = re.findall(r"^%global (?:once|again) (.*)", (PROJECT / SPEC).read_text(), re.MULTILINE)
    named = [unit for units in lists for unit in units.split()]
    units = [path.name for path in (PROJECT / "systemd").iterdir() if path.suffix in (".service", ".timer")]
    assert sorted(named) == sorted(units)


def test_the_shim_is_loaded_before_sysctls_may_shut_it_out() -> None:
    """Systemd-sysctl.service comes after systemd-modules-load.service. The file belongs to the module's package."""
    listed = (PROJECT / "packaging/mbecguard-shim.conf").read_text().splitlines()
    assert [line for line in listed if not line.startswith("#")] == ["mbecguard_shim"]
    assert "usr/lib/modules-load.d" in (PROJECT / "packaging/debian/mbecguard-shim-dkms.install").read_text()
    shim = (PROJECT / SPEC).read_text().partition("%files -n mbecguard-shim-dkms")[2]
    assert "/usr/lib/modules-load.d/mbecguard-shim.conf" in shim


@pytest.mark.parametrize("file", ["packaging/debian/control", "packaging/debian/changelog", SPEC])
def test_the_maintainer_is_nobody_in_particular(file: str) -> None:
    """Below .invalid (RFC 2606) nobody has an address: Debian wants one, and there is none to invent."""
    named = re.findall(r"\w+ \w+ <\S+@\S+>", (PROJECT / file).read_text())
    assert named == ["mbecguard developers <developers@mbecguard.invalid>"]


#: As /usr/bin/mbecguard-host starts it, but by its place below another root; -S: without what else is installed.
START = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from mbecguard.face.host_cli import main
status = main(sys.argv[1:])
print(*sorted(name for name in sys.modules if name.startswith("mbecguard.")))
sys.exit(status)
"""


def test_the_program_of_the_host_needs_nothing_but_python(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(["packaging/install.sh", tmp_path / "root"], cwd=PROJECT, env=environment, check=True, timeout=120)
    place = tmp_path / "root/usr/share/mbecguard-host"
    assert f'"{Path("/", place.relative_to(tmp_path / "root"))}"' in (PROJECT / "packaging/mbecguard-host").read_text()
    host = Host().write(tmp_path / "host")
    for command, answer in {
        "check": "this host can guard: nothing stands in the way",
        "witness": "this host: 0 of 0 machines sealed",
    }.items():
        words: list[str | Path] = [sys.executable, "-ISc", START, place, command, "--root", host]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        told, _, modules = done.stdout.rstrip().rpartition("\n")
        assert answer in told
        assert {name.split(".")[1] for name in modules.split()} == {"face", "host", "readiness", "values", "witness"}
