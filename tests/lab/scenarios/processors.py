# SPDX-License-Identifier: GPL-2.0-or-later
"""Processors that start in a sealed guest: they start without paging and without SMEP, and run no denied page so."""

from __future__ import annotations

import re

from .scenario import Scenario

#: CPU 1 by the kernel's own means; the words of the attacks on its start.
WORDS = """
    panic_on_oops 0
    online=/sys/devices/system/cpu/cpu1/online
    unplugged() {
        echo 0 >$online
        t "$@"
        echo 1 >$online || true
    }
    seal() { protect "$(t start_page 0)" $((RW | IMMUTABLE)); }
    """
UNPAGED = "ran, paging 0, SMEP 0"
PAGED = "ran, paging 1, SMEP 0"

SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        "start-page",
        "a start page that is overwritten runs, but leads to no denied page; the processor starts again afterwards",
        WORDS
        + """
        fact before "$(unplugged start_by_text 0)"
        fact seal "$(seal)"
        fact cycle "$(cycle) $(on 1 run 0)"
        fact denied "$(unplugged start_by_text 0)"
        fact violation "$(host run "tail -n 1 /sys/kernel/debug/kvm/*/mbecguard")"
        fact neighbour "$(unplugged start_by_text 1)"
        fact again "$(cycle) $(on 1 run 0)"
        panic_on_oops 1
        """,
        {
            "before": UNPAGED,
            "seal": "0",
            "cycle": "1 ran",
            "denied": "not",
            "violation": re.compile("violation vcpu 1 gpa [0-9a-f]+000 va [0-9a-f]+000 error [0-9a-f]+"),
            "neighbour": UNPAGED,
            "again": "1 ran",
        },
        cpus=2,
    ),
    Scenario(
        "start-smep",
        "user-mode addresses for a processor that starts, by page tables or by code: SMEP is on, and it is the end",
        WORDS
        + """
        case $stage in
        1) reset ;;
        2)
            fact before "$(unplugged start_by_data 0), $(unplugged start_by_code 0)"
            fact seal "$(seal)"
            fact cycle "$(cycle) $(on 1 run 0)"
            host resetting >/dev/null
            fact data "$(unplugged start_by_data 0)"
            sleep 60
            ;;
        3)
            fact between "$(($(query) >> 6 & 3)) $(unplugged start_by_data 0)"
            fact seal-again "$(seal)"
            host resetting >/dev/null
            fact code "$(unplugged start_by_code 0)"
            sleep 60
            ;;
        esac
        fact clean "$(($(query) >> 6 & 3)) $(unplugged start_by_code 0)"
        """,
        {
            "before": f"{PAGED}, {PAGED}",
            "seal": "0",
            "cycle": "1 ran",
            "between": f"0 {PAGED}",
            "seal-again": "0",
            "clean": f"0 {PAGED}",
        },
        cpus=2,
        slow=True,
    ),
    Scenario(
        "start-boot-cpu",
        "CPU 0 says that it is no boot processor: its INIT and SIPI run the start page, and end a sealed guest",
        WORDS
        + """
        log='INIT of the boot processor of a sealed guest'
        attack() {
            host resetting >/dev/null
            on 1 start_boot_cpu 0
            sleep 60
        }
        case $stage in
        1) reset ;;
        2)
            host run 'dmesg -c >/dev/null' >/dev/null
            fact forgets "$(($(query) >> 6 & 3)) $(on 0 forget_bsp)"
            attack
            ;;
        3)
            fact open "$(logged "$log")"
            fact seal "$(seal) $(on 0 forget_bsp)"
            attack
            ;;
        esac
        fact sealed "$(($(query) >> 6 & 3)) $(logged "$log")"
        """,
        {"forgets": "0 1 to 0", "open": "0", "seal": "0 1 to 0", "sealed": "0 1"},
        cpus=2,
        slow=True,
    ),
)
