# SPDX-License-Identifier: GPL-2.0-or-later
"""What an attacker with a kernel write does to run new code: each way runs before the denial, and not after it."""

from __future__ import annotations

import re

from .scenario import Scenario, same

SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        "payload",
        "code in heap and vmalloc pages, NX cleared in their entries, runs until the page is denied",
        """
        panic_on_oops 0
        fact before "$(t payload_run 0) $(t payload_run 2)"
        fact deny "$(protect "$(t payload 0)" $RW) $(protect "$(t payload 2)" $RW)"
        fact denied "$(t payload_run 0) $(t payload_run 2)"
        fact neighbours "$(t payload_run 1) $(t payload_run 3)"
        fact grant "$(protect "$(t payload 0)" $RWX) $(protect "$(t payload 2)" $RWX)"
        fact granted "$(t payload_run 0) $(t payload_run 2)"
        panic_on_oops 1
        """,
        same("before neighbours granted", "ran ran") | same("deny grant", "0 0") | {"denied": "died died"},
    ),
    Scenario(
        "user-bit",
        "a process's page whose U bit is cleared at any level runs in ring 0 until denied; with SMEP off, always",
        """
        panic_on_oops 0
        for level in 1 2 3 4; do
            fact supervisor-$level "$(usertool attack "call_supervisor $level")"
        done
        fact smep-off "$(usertool attack call_user)"
        panic_on_oops 1
        """,
        {
            **same("supervisor-1 supervisor-2 supervisor-3 supervisor-4", "ran, 0 died, neighbour ran, 0 ran"),
            "smep-off": "ran, 0 ran, neighbour ran, 0 ran",
        },
    ),
    Scenario(
        "sipi",
        "no processor starts in a denied page",
        """
        fact before "$(cycle) $(on 1 run 0)"
        fact deny "$(protect 0 $RW 256)"
        fact denied "$(cycle)"
        fact dropped "$(host run "grep -c 'vcpu 1 gpa [0-9a-f][0-9a-f]000 va' /sys/kernel/debug/kvm/*/mbecguard")"
        fact neighbour "$(on 0 run 0)"
        fact grant "$(protect 0 $RWX 256)"
        fact granted "$(cycle) $(on 1 run 0)"
        """,
        {
            "before": "1 ran",
            "deny": "0",
            "denied": "0",
            "dropped": re.compile("[1-9]"),
            "neighbour": "ran",
            "grant": "0",
            "granted": "1 ran",
        },
        cpus=2,
    ),
)
