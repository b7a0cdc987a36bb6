# SPDX-License-Identifier: GPL-2.0-or-later
"""A small guest for the tests of the simulated host: requests made by hand, probes, kinds of host."""

from __future__ import annotations

import struct
from dataclasses import replace

from mbecguard.host.base import HostMode, Permission, Protection
from mbecguard.host.simulated.ept import Ept, Mode
from mbecguard.host.simulated.hypervisor import Hypervisor, Options
from mbecguard.host.wire import Limits
from mbecguard.values.pages import PageRange

R, W, X, IMM = Permission.READ, Permission.WRITE, Permission.EXEC, Permission.IMMUTABLE
SUPERVISOR, USER = Mode.SUPERVISOR, Mode.USER
PFNS = 64
LIMITS = Limits(max_pfn=PFNS)
OPTIONS = Options(limits=LIMITS)
AUDIT = replace(OPTIONS, mode=HostMode.AUDIT)
OFF = replace(OPTIONS, mode=HostMode.OFF)
FAIL_OPEN = replace(OPTIONS, mbec=False)
HONEST = replace(OPTIONS, mbec=False, honest=True)
PIN, PROTECT, MAGIC = 13, 14, 0x59524551494B4548
CR0_PE, CR0_WP, CR0_PG = 1 << 0, 1 << 16, 1 << 31
CR4_VMXE, CR4_SMEP = 1 << 13, 1 << 20
LIST = 0x4000


def part(start: int, end: int, permissions: Permission) -> Protection:
    return Protection(PageRange(start, end), permissions)


def ask(host: Hypervisor, *request: Protection) -> int:
    """One request as a guest would send it, with list pages of at most 169 entries made by hand."""
    chunks = [request[at : at + 169] for at in range(0, len(request), 169)]
    for index, chunk in enumerate(chunks):
        body = b"".join(struct.pack("<3Q", p.pages.start << 12, p.pages.end << 12, p.permissions) for p in chunk)
        next_pa = LIST + (index + 1) * 4096 if index + 1 < len(chunks) else 0
        host.memory[LIST + index * 4096] = (struct.pack("<3Q", 0, next_pa, len(chunk)) + body).ljust(4096, b"\0")
    return host.hypercall(PROTECT, LIST, 0)


def runs(host: Hypervisor, gfn: int, mode: Mode = SUPERVISOR) -> bool:
    return host.fetch(gfn << 12, mode) is None


def running(host: Hypervisor) -> list[int]:
    return [gfn for gfn in range(PFNS) if host.ept.leaf(gfn) & Ept.XS]


DENY_ALL = part(0, PFNS, R | W)
