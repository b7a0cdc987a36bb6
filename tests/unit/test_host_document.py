# SPDX-License-Identifier: GPL-2.0-or-later
"""The command lines of docs/HOST.md start machines that can be sealed. Its XML: tests/test_libvirt.py."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tests.hostdoc import DOMAINS, commands, told_of
from tests.hostmaker import Host
from tests.unit.test_readiness import PROXMOX, PVE

NEEDED = {"-vmx": "machine-vmx", ",smm=off": "machine-smm", "-global ICH9-LPC.disable_s3=1": "machine-s3"}


def test_plain_qemu(tmp_path: Path) -> None:
    (line,) = commands("qemu-system-x86_64")
    assert told_of(shlex.split(line), tmp_path / "as it is") == []
    for words, finding in NEEDED.items():
        assert words in line
        lacking = line.replace(words, "").replace("-cpu host,", "-cpu host")
        assert told_of(shlex.split(lacking), tmp_path / finding) == [finding]


def test_arguments_behind_those_of_proxmox(tmp_path: Path) -> None:
    (line,) = commands("qm")
    (added,) = re.findall(r"--args '(.*)'", line)
    host = Host().having(PVE)
    assert told_of(shlex.split(PROXMOX), tmp_path / "as it comes", host) == sorted(NEEDED.values())
    assert told_of(shlex.split(f"{PROXMOX} {added}"), tmp_path / "with them", host) == []


def test_the_page_has_machines_for_libvirt() -> None:
    assert [re.findall(r"<name>(.*)</name>", domain) for domain in DOMAINS] == [["guarded"], ["guarded-sb"]]
