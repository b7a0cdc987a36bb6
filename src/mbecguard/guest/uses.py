# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest makes use of now, of all that makes new kernel code or patches old: a freeze would take it away."""

from __future__ import annotations

from dataclasses import dataclass

from mbecguard.guest.procfs import Kallsyms
from mbecguard.guest.tree import Tree
from mbecguard.values.facts import Absent, Fact, Known, Unknown

KPROBES = "sys/kernel/debug/kprobes/list"
KPROBES_ENABLED = "sys/kernel/debug/kprobes/enabled"
TRACED = "sys/kernel/tracing/enabled_functions"
LIVEPATCHES = "sys/kernel/livepatch"
MOUNTS = {KPROBES: "sys/kernel/debug", TRACED: "sys/kernel/tracing"}

#: Those that are read: what hides facts, and what the freeze sets.
SYSCTLS = (
    "kernel.kptr_restrict",
    "kernel.ftrace_enabled",
    "kernel.modules_disabled",
    "kernel.kexec_load_disabled",
    "net.core.bpf_jit_enable",
    "net.core.bpf_jit_harden",
    "net.core.bpf_jit_kallsyms",
)
# kernel/bpf/core.c: ___bpf_prog_run() and its callers for each stack size, absent with CONFIG_BPF_JIT_ALWAYS_ON.
_INTERPRETER = rb"___?bpf_prog_run\d*"


_NONE: Known[int] = Known(0)
_NOBODY: Known[tuple[str, ...]] = Known(())


@dataclass(frozen=True, slots=True)
class Uses:
    """Facts of one moment. What may not be read, as debugfs under lockdown, is unknown."""

    bpf_trampolines: Fact[int] = _NONE  #: kernel functions that BPF programs hang on to: fentry, LSM, struct_ops
    traced: Fact[int] = _NONE  #: kernel functions that anybody has hooked through ftrace, BPF programs included
    kprobes: Fact[int] = _NONE
    ftrace_kprobes: Fact[int] = _NONE  #: those among them that need ftrace
    livepatches: Fact[tuple[str, ...]] = _NOBODY
    bpf_interpreter: bool = True  #: the kernel can run BPF programs uncompiled


def sysctl(tree: Tree, name: str) -> Fact[str]:
    """The value of a sysctl, without white space around it."""
    fact = tree.fact(f"proc/sys/{name.replace('.', '/')}")
    return Known(fact.value.strip()) if isinstance(fact, Known) else fact


def uses(tree: Tree, symbols: Kallsyms) -> Uses:
    """Look at a guest's files and symbols."""
    probes = _lines(tree, KPROBES)
    on_ftrace = Known([line for line in probes.value if "[FTRACE]" in line]) if isinstance(probes, Known) else probes
    return Uses(
        bpf_trampolines=_bpf_trampolines(tree, symbols),
        traced=_count(_functions(_lines(tree, TRACED))),
        kprobes=_count(probes),
        ftrace_kprobes=_count(on_ftrace),
        livepatches=tree.fact_of_names(LIVEPATCHES),
        bpf_interpreter=symbols.matching(_INTERPRETER),
    )


def _bpf_trampolines(tree: Tree, symbols: Kallsyms) -> Fact[int]:
    named = symbols.tagged("bpf")
    hidden = None if named else hides_bpf(tree)
    return hidden or Known(sum(symbol.name.startswith("bpf_trampoline_") for symbol in named))


def hides_bpf(tree: Tree) -> Unknown | None:
    """Why no BPF program may have a symbol: bpf_jit_kallsyms_enabled() in include/linux/filter.h. None if they have."""
    for name, shows in (("net.core.bpf_jit_harden", "0"), ("net.core.bpf_jit_kallsyms", "1")):
        fact = sysctl(tree, name)
        if isinstance(fact, Unknown):
            return Unknown(f"/proc/kallsyms names no BPF program, and {fact.reason}", fact.remedy)
        if isinstance(fact, Known) and fact.value != shows:
            hidden = f"{name} = {fact.value} hides BPF programs from /proc/kallsyms"
            return Unknown(hidden, f"{name} = {shows} shows them")
    return None


def _lines(tree: Tree, path: str) -> Fact[list[str]]:
    fact = tree.fact(path, MOUNTS[path])
    return Known(fact.value.splitlines()) if isinstance(fact, Known) else fact


def _functions(lines: Fact[list[str]]) -> Fact[list[str]]:
    """Without the lines that say more of the function before: kernel/trace/ftrace.c t_show()."""
    if not isinstance(lines, Known):
        return lines
    return Known([line for line in lines.value if not line[:1].isspace()])


def _count(fact: Fact[list[str]]) -> Fact[int]:
    """How many there are; where the kernel cannot have any, none."""
    if isinstance(fact, Absent):
        return Known(0)
    return Known(len(fact.value)) if isinstance(fact, Known) else fact
