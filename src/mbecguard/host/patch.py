# SPDX-License-Identifier: GPL-2.0-or-later
"""Have the kernel patch its own text: switch a static key, and switch it back."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

#: Sysctls behind a static key each: kernel/sched/core.c sysctl_schedstats(), kernel/sysctl.c bpf_stats_handler().
#: Both only count, and for a moment.
SWITCHES = (Path("/proc/sys/kernel/sched_schedstats"), Path("/proc/sys/kernel/bpf_stats_enabled"))


def patch(switches: Sequence[Path] = SWITCHES) -> bool:
    """Switch the first of them that there is; whether that was done, and undone. The kernel may kill who asks."""
    for switch in switches:
        with suppress(OSError):
            before = switch.read_text()
            if before.strip() in ("0", "1"):
                switch.write_text("10"[int(before)])
                switch.write_text(before)
                return True
    return False
