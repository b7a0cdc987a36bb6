# SPDX-License-Identifier: GPL-2.0-or-later
"""What keeps a guest from level text: whatever patches kernel text where, or how, no host would accept it.

A refused patch ends the task that made it, and leaves the kernel's lock for patches taken for good.
"""

from __future__ import annotations

from collections.abc import Iterator

from mbecguard.guest.processors import Processors
from mbecguard.guest.uses import Uses
from mbecguard.plan.findings import finding
from mbecguard.values.facts import Fact, Known, Unknown, known
from mbecguard.values.findings import Finding


def obstacles(uses: Uses, processors: Fact[Processors]) -> Iterator[Finding]:
    """Each of them; what nobody can see is a warning, as the comparison of text finds most of it."""
    if patches := known(uses.livepatches, ()):
        yield finding("text-livepatch", names=", ".join(patches))
    if probes := known(uses.kprobes, 0):
        yield finding("text-kprobes", count=probes)
    traced = known(uses.traced, 0) - known(uses.bpf_trampolines, 0)
    if traced > 0:
        yield finding("text-traced", count=traced)
    # arch/x86/kernel/alternative.c alternatives_enable_smp(): puts the `lock` prefixes back
    if isinstance(processors, Known) and processors.value.online == 1 < processors.value.possible:
        yield finding("text-processors", possible=processors.value.possible)
    if isinstance(hidden := uses.bpf_trampolines, Unknown):
        yield finding("text-dispatcher", problem=hidden.reason, remedy=hidden.remedy or "nothing here can tell")
    for fact in (uses.livepatches, uses.kprobes, uses.traced):
        if isinstance(fact, Unknown):
            yield finding("text-unknown", problem=fact.reason, remedy=fact.remedy or "nothing here can tell")
            return
