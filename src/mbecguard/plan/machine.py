# SPDX-License-Identifier: GPL-2.0-or-later
"""What the guest's processors say of its machine: why a host that knows the call cannot guard it.

The host tells one number for all causes (NOT_SUPPORTED). Whoever can mend them runs the host, and knows QEMU's options
or libvirt's elements.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mbecguard.plan.findings import finding
from mbecguard.values.findings import Finding

INTEL = "GenuineIntel"


def refused(cpuinfo: str) -> Iterator[Finding]:
    """What explains that the host refuses; nothing if this guest shows no cause."""
    flags, vendor = _field(cpuinfo, "flags").split(), _field(cpuinfo, "vendor_id")
    if vendor not in ("", INTEL):
        yield finding("guest-vendor", vendor=vendor)
    if "vmx" in flags:
        yield finding("guest-vmx-on")
    # KVM shows it to every machine whose local APICs are its own, whatever the processor's model.
    if flags and "x2apic" not in flags:
        yield finding("guest-irqchip")


def offered(cpuinfo: str) -> Iterator[Finding]:
    """What will have the host refuse once this guest uses it."""
    if "vmx" in _field(cpuinfo, "flags").split():
        yield finding("guest-vmx")


def _field(cpuinfo: str, name: str) -> str:
    found = re.search(rf"^{name}\s*: ?(.*)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else ""
