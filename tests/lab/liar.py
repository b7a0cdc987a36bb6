# SPDX-License-Identifier: GPL-2.0-or-later
"""A host that lies: our KVM with `liar.patch`. What it says has to be found out by agent and shim."""

from __future__ import annotations

from . import kvmsource
from .layers import Stack
from .parts import HERE, stripped

PATCH = HERE / "liar.patch"


def modules(stack: Stack) -> dict[str, bytes]:
    """Kernel names of the KVM modules -> their files."""
    folder = kvmsource.modules(PATCH, stack.host_kernel, stack.debug_suite)
    return {"kvm": stripped(folder / "kvm.ko"), "kvm_intel": stripped(folder / "kvm-intel.ko")}
