# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest can tell of why its host cannot guard it: the cause, in the words of whoever starts its machine."""

from __future__ import annotations

import json
from typing import NoReturn

import pytest

from mbecguard.host.base import HostErrno, HostRefusedError
from mbecguard.host.simulated.host import SimulatedHost
from mbecguard.plan.machine import offered, refused
from mbecguard.values.errors import Exit
from tests.guestmaker import SCATTERED
from tests.shell import Shell

FIT = "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu lm smep x2apic hypervisor\nvmx flags\t: ept\n"
MACHINES = {
    "fit": (FIT, []),
    "host-passthrough where nested is on": (FIT.replace("lm", "lm vmx"), ["guest-vmx-on"]),
    "kernel-irqchip=off": (FIT.replace(" x2apic", ""), ["guest-irqchip"]),
    "AMD": (FIT.replace("GenuineIntel", "AuthenticAMD"), ["guest-vendor"]),
    "both": (FIT.replace(" x2apic", " vmx"), ["guest-vmx-on", "guest-irqchip"]),
    "nothing is known": ("", []),
}


@pytest.mark.parametrize("name", MACHINES)
def test_the_cause_of_a_refusal(name: str) -> None:
    cpuinfo, expected = MACHINES[name]
    assert [one.id for one in refused(cpuinfo)] == expected
    assert [one.id for one in offered(cpuinfo)] == (["guest-vmx"] if "guest-vmx-on" in expected else [])


def refuses(_host: SimulatedHost) -> NoReturn:
    """As a host that knows the call, and cannot do it for this machine."""
    raise HostRefusedError(HostErrno.NOT_SUPPORTED, "query")


@pytest.mark.parametrize(
    ("cpuinfo", "id_", "words"),
    [
        (MACHINES["both"][0], "guest-vmx-on", ["`-vmx` in `-cpu`", "<feature policy='disable' name='vmx'/>"]),
        (MACHINES["both"][0], "guest-irqchip", ["kernel-irqchip=off", "libvirt"]),
        (FIT, "host-unusable", ["mbecguard-host check"]),
    ],
)
def test_check_names_it_and_not_a_number(
    shell: Shell, cpuinfo: str, id_: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SimulatedHost, "query", refuses)
    SCATTERED.write(shell.folder)
    path = shell.folder / "proc/cpuinfo"
    path.write_text(cpuinfo + path.read_text())
    status, out, _ = shell.run("check", "--json")
    found = {finding["id"]: finding for finding in json.loads(out)["findings"] if finding["severity"] == "blocker"}
    assert (status, id_ in found) == (Exit.REFUSED, True)
    assert all(word in found[id_]["hint"] for word in words)
    assert ("-95" in found[id_]["text"]) == (id_ == "host-unusable")


def test_vmx_that_is_offered_is_a_warning(shell: Shell) -> None:
    """The host refuses only once it is used, and a lock may well come before."""
    SCATTERED.write(shell.folder)
    path = shell.folder / "proc/cpuinfo"
    path.write_text(MACHINES["host-passthrough where nested is on"][0] + path.read_text())
    status, out, _ = shell.run("check", "--json")
    found = {finding["id"]: finding["severity"] for finding in json.loads(out)["findings"]}
    assert (status, found["guest-vmx"]) == (Exit.OK, "warning")
