# SPDX-License-Identifier: GPL-2.0-or-later
"""Patch sites that are not like others: static keys and static calls that are set by the end of a boot, whose sites
take no patch any more at level text, and hooks for BPF programs.

Patterns name the symbol of the key; a pattern may end in `*`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mbecguard.values.errors import die


@dataclass(frozen=True, slots=True)
class FrozenKeys:
    """Keys that nothing switches after a boot; of hooks, functions."""

    id: str
    keys: tuple[str, ...]
    reason: str
    source: str


FROZEN: tuple[FrozenKeys, ...] = (
    FrozenKeys(
        "lsm",
        ("security_hook_active_*", "__SCK__lsm_static_call_*"),
        "no security module can be switched off, nor another function be put in the place of its hooks",
        "security/security.c lsm_static_call_init(): __init; 417c5643cd67 "
        '("lsm: replace indirect LSM hook calls with static calls"), 6.12',
    ),
    FrozenKeys(
        "mitigations",
        (
            "switch_mm_cond_ibpb",
            "switch_mm_always_ibpb",
            "switch_vcpu_ibpb",
            "mds_user_clear",
            "mmio_stale_data_clear",
            "cpu_buf_vm_clear",
            "cpu_buf_vm_clear_mmio_only",
        ),
        "no mitigation of the processor's faults can be switched off",
        "arch/x86/kernel/cpu/bugs.c cpu_select_mitigations(): __init. Keys that processors or prctl() switch later "
        "(mds_idle_clear, switch_to_cond_stibp, switch_mm_cond_l1d_flush) are not among them",
    ),
)
#: The other way round: functions whose entry a BPF program may be hung on again after the lock, as when systemd is
#: executed anew. Where that leads is code that is there at the lock, or room that is kept for it.
HOOKED = FrozenKeys(
    "bpf",
    ("bpf_lsm_*",),
    "systemd takes its BPF program off a hook of the security modules, and hangs it on again in a new trampoline",
    "src/core/bpf-restrict-fs.c of systemd; kernel/bpf/trampoline.c bpf_trampoline_update()",
)
BY_ID = {one.id: one for one in FROZEN}


def keys_of(ids: Iterable[str]) -> tuple[str, ...]:
    """The patterns of these groups. Dies of a group that there is not."""
    patterns: list[str] = []
    for id_ in ids:
        group = BY_ID.get(id_) or die(f"nobody knows patch sites of the kind {id_!r}", f"known: {', '.join(BY_ID)}")
        patterns += group.keys
    return tuple(patterns)
