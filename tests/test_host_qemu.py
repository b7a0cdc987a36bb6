# SPDX-License-Identifier: GPL-2.0-or-later
"""How `mbecguard-host check` reads a command line of QEMU, judged by QEMU: the same words, and what it made of them."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mbecguard.readiness.qemu import OFF, Qemu, parse
from mbecguard.readiness.rules import WITH_VMX
from mbecguard.readiness.source import Source

PROGRAM = "qemu-system-x86_64"
STILL = "-S -display none -nodefaults -monitor none -qmp stdio -accel tcg"
#: A feature that TCG can show, in place of vmx: the rules are the same for all.
FEATURE = "smap"
WITH_FEATURE = frozenset({"Skylake-Client", "max"})


class Monitor:
    """QEMU's own monitor."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin
        assert process.stdout
        self._input, self._output = process.stdin, process.stdout
        self._output.readline()
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: Any) -> Any:
        """The answer; None for an error, as of a property that is not there."""
        self._input.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._input.flush()
        answer = next(one for one in map(json.loads, self._output) if {"return", "error"} & one.keys())
        return answer.get("return")

    def get(self, path: str, name: str) -> Any:
        """A property of an object."""
        return self.ask("qom-get", path=path, property=name)

    def devices(self) -> Iterator[str]:
        """The devices of the board, the processor first."""
        return (f"/machine/unattached/{one['name']}" for one in self.ask("qom-list", path="/machine/unattached"))


@contextmanager
def started(words: list[str]) -> Iterator[Monitor]:
    """A machine that does not run."""
    command = [PROGRAM, *STILL.split(), *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Monitor(process)
        finally:
            process.kill()


def judged(words: list[str]) -> dict[str, Any]:
    """What QEMU makes of a command line."""
    with started(words) as monitor:
        sleeping = [monitor.get(path, "disable_s3") for path in monitor.devices()]
        return {
            "name": monitor.ask("query-name").get("name", ""),
            "smm": monitor.get("/machine", "smm"),
            "acpi": monitor.get("/machine", "acpi"),
            "feature": monitor.get("/machine/unattached/device[0]", FEATURE),
            "no S3": [bool(value) for value in sleeping if value is not None],
        }


def read(qemu: Qemu) -> dict[str, Any]:
    """The same, as it is read."""
    board = "ICH9-LPC" if "q35" in qemu.machine.get("type", "") else "PIIX4_PM"
    no_power = qemu.machine.get("type") == "microvm" or qemu.machine.get("acpi") in OFF
    return {
        "name": qemu.name,
        "smm": qemu.machine.get("smm", "auto"),
        "acpi": "off" if qemu.machine.get("acpi") in OFF else "auto",
        "feature": qemu.feature(FEATURE, WITH_FEATURE),
        "no S3": [] if no_power else [qemu.has(f"{board}.disable_s3")],
    }


LINES = (
    "-M q35 -cpu Skylake-Client",
    "-M pc -cpu Skylake-Client,-smap -name web",
    "--machine type=q35,smm=off -cpu Skylake-Client,smap=off,smap=on -name guest=web,,1,debug-threads=on",
    "-machine q35,smm=off -machine smm=on -cpu Skylake-Client,smap=on,-smap",
    "-M q35 -cpu Skylake-Client,-smap,+smap -global ICH9-LPC.disable_s3=1",
    "-M q35 -cpu Nehalem,+smap -global driver=ICH9-LPC,property=disable_s3,value=1 -global PIIX4_PM.disable_s3=0",
    "-cpu Nehalem -cpu Nehalem,smap=on -global PIIX4_PM.disable_s3=1 -global PIIX4_PM.disable_s3=0",
    "-M pc-i440fx-7.2,acpi=off,smm=auto -cpu Nehalem,smap",
    "-M microvm,smm=off -cpu max",
    "-name first -name second -M q35 -readconfig CONFIG -cpu max",
    "-readconfig CONFIG -M q35,smm=on -cpu Nehalem",
)
CONFIG = """# of a test
[machine]
  smm = "off"

[global]
  driver = "ICH9-LPC"
  property = "disable_s3"
  value = "1"
"""


@pytest.mark.parametrize("line", LINES)
def test_a_command_line_means_what_qemu_makes_of_it(line: str, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(CONFIG)
    words = shlex.split(line.replace("CONFIG", str(config)))
    assert read(parse([PROGRAM, *words], Source())) == judged(words)


def test_no_named_model_has_vmx_by_itself() -> None:
    """But for `host` and `max`, which have what KVM lets them; TCG has none to show."""
    with started([]) as monitor:

        def vmx(name: str, **given: bool) -> Any:
            model = {"name": name, "props": given}
            return monitor.ask("query-cpu-model-expansion", type="full", model=model)["model"]["props"]["vmx"]

        names = {one["name"] for one in monitor.ask("query-cpu-definitions")}
        assert {"Skylake-Server", "EPYC", "qemu64", "kvm64"} <= names
        assert {name for name in names - WITH_VMX if vmx(name)} == set()
        assert vmx("Skylake-Server", vmx=True)
