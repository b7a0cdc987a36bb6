# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest makes use of now, of all that makes new kernel code or patches old: a freeze would take it away."""

from __future__ import annotations

from dataclasses import dataclass

from mbecguard.errors import UserError
from mbecguard.guest.procfs import Kallsyms
from mbecguard.guest.tree import Tree

KPROBES = "sys/kernel/debug/kprobes/list"
LIVEPATCHES = "sys/kernel/livepatch"


@dataclass(frozen=True, slots=True)
class Uses:
    """Facts of one moment. What may not be read, as debugfs under lockdown, counts as unused."""

    bpf_trampolines: int = 0  #: kernel functions that BPF programs hang on to: fentry, LSM, struct_ops
    kprobes: int = 0
    livepatches: tuple[str, ...] = ()
    bpf_interpreter: bool = True  #: the kernel can run BPF programs uncompiled


def uses(tree: Tree, symbols: Kallsyms) -> Uses:
    """Look at a guest's files and symbols."""
    trampolines = sum(symbol.name.startswith("bpf_trampoline_") for symbol in symbols.tagged("bpf"))
    return Uses(
        bpf_trampolines=trampolines,
        kprobes=len((_optional(tree, KPROBES) or "").splitlines()),
        livepatches=tuple(tree.names(LIVEPATCHES)),
        # kernel/bpf/core.c: absent with CONFIG_BPF_JIT_ALWAYS_ON.
        bpf_interpreter=symbols.address("___bpf_prog_run") is not None,
    )


def _optional(tree: Tree, path: str) -> str | None:
    try:
        return tree.text(path)
    except UserError:
        return None
