# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel text compared with its files by the guest itself, whatever patches it; and text that was overwritten."""

from __future__ import annotations

import re

from ..layers import Userland
from ..verdict import Expected
from .product import DONE, REFUSED
from .scenario import ALL_HOSTS, Scenario, same

SCRIPT = r"""
    text_claim() {
        agent audit --json --set audit.text=true >/dev/null
        PYTHONPATH=/lab/agent python3 /lab/helpers/text.py claim
    }
    mount_tracing

    # One after the other, and all of it stays on.
    flip_keys() {
        for key in sched_schedstats bpf_stats_enabled; do echo 1 >/proc/sys/kernel/$key; done
        echo 'file tcp*.c +p' >/sys/kernel/debug/dynamic_debug/control
        cd /sys/kernel/debug/sched
        for feature in $(cat features); do
            [ "${feature#NO_}" != LATENCY_WARN ] || continue
            case $feature in NO_*) echo "${feature#NO_}" ;; *) echo "NO_$feature" ;; esac >features
        done
        echo 1 >$tracing/events/enable
    }
    rules() {
        rule_set limit rate 10/second
        nft add chain ip more post '{ type nat hook postrouting priority 100; }'
        ip netns add lab && ip -n lab link set lo up
        limited_cgroup
    }
    probe() {
        cd $tracing
        echo 'p:lab/entry vfs_read' >kprobe_events
        echo 'p:lab/middle vfs_write+9' >>kprobe_events || echo 'p:lab/middle vfs_write+5' >>kprobe_events
        echo 1 >$tracing/events/lab/enable
    }
    trace() {
        echo "$1" >$tracing/current_tracer && sleep 1 && echo 0 >$tracing/tracing_on
    }

    modprobe -q ifb
    fact modules "$(wc -l </proc/modules)"
    fact untouched "$(text_claim)"
    fact compared "$(PYTHONPATH=/lab/agent python3 /lab/helpers/text.py size)"
    flip_keys && rules
    fact flipped "$(text_claim)"
    probe
    fact probed "$(text_claim)"
    echo 0 >$tracing/events/lab/enable; echo >$tracing/kprobe_events
    trace function
    fact traced "$(text_claim)"
    trace function_graph
    fact graphed "$(text_claim)"
    echo nop >$tracing/current_tracer
    workload
    fact worked "$(text_claim)"
    # Somebody else patches while the agent looks.
    while echo 0 >$tracing/events/sched/enable && echo 1 >$tracing/events/sched/enable; do :; done &
    fact patched "$(text_claim)"
    kill $!
    echo 0 >$tracing/events/enable
    fact after "$(text_claim)"

    eval "$(PYTHONPATH=/lab/agent python3 /lab/helpers/text.py spots)"
    for spot in CODE ENTRY LOADED; do
        eval "va=\$$spot was=\$${spot}_WAS bad=\$${spot}_BAD"
        t overwrite $va $bad 8
        fact byte-$spot "$(text_claim)"
        t overwrite $va $was 8
    done
    # mov cr4, rax; ret behind an int3, as nobody's patch has it; a jump to a function that traces nothing.
    t overwrite $ENTRY $((0xc3e0220fcc)) 5
    fact tail "$(text_claim)"
    t overwrite $ENTRY $((0xe8)) 5
    fact elsewhere "$(text_claim)"
    t overwrite $ENTRY $ENTRY_WAS 8
    fact restored "$(text_claim)"
"""
COLD = re.compile("fail; kernel native_machine_crash_shutdown.*")
ENTRY = re.compile(r"fail; kernel native_machine_crash_shutdown\+0x[04] function entry")
TELLS: Expected = {
    **same(DONE, "done"),
    **dict.fromkeys(("filesystems", "filesystems-again"), REFUSED),
    "reexec": re.compile("done|left out: .*"),
    "unload": "done",
    "kernel-log": re.compile("[0-9]+"),
    "modules": re.compile("[6-9][0-9]|1[0-9][0-9]"),
    "compared": re.compile(".*[0-9]{5} KiB and [0-9]{6} patch sites of the kernel and [0-9]+ modules"),
    **same("untouched flipped probed traced graphed worked patched after restored", "pass"),
    "byte-CODE": COLD,
    **same("byte-ENTRY tail elsewhere", ENTRY),
    "byte-LOADED": re.compile("fail; ifb ifb_xmit.*"),
}

SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        "text",
        "text passes whatever the kernel patches in it, and a byte that was overwritten is found by name",
        SCRIPT,
        TELLS,
        hosts=ALL_HOSTS,
        userland=Userland.SYSTEMD,
        cpus=2,
        slow=True,
    ),
)
