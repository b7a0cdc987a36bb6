# SPDX-License-Identifier: GPL-2.0-or-later
"""What the processors of a host can do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mbecguard.readiness.source import Source
from mbecguard.values.facts import Fact, Known, known

MBEC_FLAG = "ept_mode_based_exec"  #: as Linux calls secondary control 22 in "vmx flags" (asm/vmxfeatures.h)
EPT_VPID_CAP = 0x48C  #: IA32_VMX_EPT_VPID_CAP, SDM volume 3D, A.10
EXIT_INFORMATION = 1 << 22  #: advanced VM-exit information for EPT violations


@dataclass(frozen=True, slots=True)
class Processor:
    """All processors together: what one lacks they have not. None: nobody can tell."""

    vendor: str
    model: str
    vmx: bool  #: may run virtual machines; firmware can switch it off
    mbec: bool  #: mode-based execute control
    exit_information: bool | None  #: an EPT violation tells the mode of the address
    virtual: bool  #: this host is a virtual machine itself


def look(source: Source) -> Processor | None:
    """The processors of a host; None if nothing tells."""
    blocks = list(_blocks(known(source.text("proc/cpuinfo"), "")))
    if not blocks:
        return None
    first = blocks[0]
    return Processor(
        first.get("vendor_id", ""),
        first.get("model name", ""),
        all("vmx" in block.get("flags", "").split() for block in blocks),
        all(MBEC_FLAG in block.get("vmx flags", "").split() for block in blocks),
        _exit_information(source.msr(EPT_VPID_CAP)),
        "hypervisor" in first.get("flags", "").split(),
    )


def _exit_information(msr: Fact[int]) -> bool | None:
    return bool(msr.value & EXIT_INFORMATION) if isinstance(msr, Known) else None


def _blocks(cpuinfo: str) -> Iterator[dict[str, str]]:
    for block in filter(None, cpuinfo.split("\n\n")):
        yield dict(re.findall(r"^(\w[\w ]*?)\s*: ?(.*)$", block, re.MULTILINE))
