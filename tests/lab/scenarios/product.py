# SPDX-License-Identifier: GPL-2.0-or-later
"""The product on a real guest: agent and shim lock it, and it goes on working."""

from __future__ import annotations

import re

from ..attacks import STOPPED, expected, tried
from ..layers import Userland
from ..verdict import Expected
from .scenario import ALL_HOSTS, OURS, Scenario, Setting, alone, same

DONE = "processes service unrestricted journald mount network timer user-jit hotplug"
NUMBER = re.compile(r"[0-9]+\.[0-9]+")
REFUSED = re.compile("refused: .*([Pp]ermission denied|not permitted).*")
UNHARMED: Expected = {
    **same(DONE, "done"),
    **dict.fromkeys(("filesystems", "filesystems-again"), REFUSED),
    "reexec": re.compile("done|left out: .*"),  # finding hooks-alone
    "kernel-log": "0",
}

#: Locks the guest unless an earlier scenario of this boot has.
LOCKED = """
    [ "$(agent status)" = 0 ] || agent lock >/dev/null
"""

FREE_SPACE = """
    panic_on_oops 0
    fact free-before "$(free_space)"
    fact text-before "$(t frame "$(place kernel-init)") $(t frame "$(place unloaded)")"
    fact late-before "$(modprobe tcp_bbr && rmmod tcp_bbr && echo loaded)"
    fact lock "$(agent lock --json --set policy.tight={tight}) $(field state)"
    fact free-after "$(free_space)"
    fact text-after "$(t frame "$(place kernel-init)") $(t frame "$(place unloaded)")"
    fact late-after "$(load_by_data tcp_bbr)"
    fact neighbour "$(t run 0) $(usertool run 0) $(works sh -c 'for i in $(seq 20); do /bin/true || exit 1; done')"
    fact sealed "$(guarded sealed)"
"""
FREE_SPACE_TELLS: Expected = {
    "free-before": re.compile("ran (ran|none)"),  # from 6.13 on modules lie in blocks
    "text-before": "ran ran",
    "late-before": "loaded",
    "lock": "0 sealed",
    "neighbour": "ran ran done",
    "sealed": "1",
}

SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        "lock",
        "a stock guest locks its kernel's code; it is proven by faults, sealed, and found so by every face",
        f"""
        panic_on_oops 0
        fact modules "$(wc -l </proc/modules)"
        fact attack-before "$(t payload_run 0) $(t payload_run 2)"
        {tried("before")}
        fact open "$(agent status) $(guarded sealed)"
        fact check "$(agent check --json) $(blockers)"
        fact lock "$(agent lock --json) $(field state)"
        fact kept "$(field totals keep_pages) pages in $(field totals keep_ranges) ranges"
        fact frozen "$(field frozen)"
        fact left-open "$(field reasons)"
        fact sealed "$(agent status --json) $(field state) $(field mode) $(guarded sealed)"
        fact canaries "$(guarded violations)"
        fact again "$(agent lock --json) $(field state)"
        fact audit "$(agent audit)"
        before=$(guarded violations)
        fact attack-after "$(t payload_run 1) $(t payload_run 3)"
        {tried("after")}
        fact counted $(($(guarded violations) - before))
        fact found "$(t payload_plant 0) $(agent audit --json) $(field reasons 0 id)"
        fact neighbour "$(t run 0) $(usertool run 0)"
        fact smep "$(everywhere clear_cr 4 $SMEP)"
        fact unlock "$(protect "$(t payload 1)" $RWX)"
        fact report "$(mbecguard report | gzip | base64 -w0)"
        panic_on_oops 1
        """,
        {
            "modules": re.compile("[6-9][0-9]|1[0-9][0-9]"),
            "attack-before": "ran ran",
            "open": "6 0",
            "check": "0 0",
            "lock": "0 sealed",
            "kept": re.compile("[1-9][0-9]{3} pages in [1-9][0-9]* ranges"),
            "sealed": "0 sealed enforce 1",
            "canaries": re.compile("[1-9][0-9]*"),
            "again": "0 sealed",
            "audit": "0",
            "attack-after": "died died",
            **expected("before"),
            **expected("after"),
            "counted": str(2 + STOPPED),
            "found": "planted 5 audit-unexplained",
            "neighbour": "ran ran",
            "smep": "trap 13",
            "unlock": "-1",
        },
        userland=Userland.SYSTEMD,
    ),
    alone(
        "free-space",
        "code in space that nobody uses, and a module whose switches are taken back by data writes, die after the lock",
        FREE_SPACE.format(tight="auto"),
        {
            **FREE_SPACE_TELLS,
            "free-after": re.compile("died (died|none)"),
            "text-after": "died died",
            "late-after": "died",
        },
        Userland.SYSTEMD,
    ),
    alone(
        "free-space-kept",
        "a lock that keeps free space: it takes code, and on kernels that keep modules in blocks a module",
        FREE_SPACE.format(tight="off"),
        {
            **FREE_SPACE_TELLS,
            "free-after": re.compile("ran (ran|none)"),
            "text-after": re.compile("died (ran|died)"),
            "late-after": re.compile("loaded|died"),
        },
        Userland.SYSTEMD,
    ),
    Scenario(
        "costs",
        "what the agent, the shim and the host's part of a lock cost, in millions of instructions",
        LOCKED
        + """
        PYTHONPATH=/lab/agent python3 /lab/helpers/costs.py >/run/costs
        while read -r name value; do
            fact "$name" "$value"
        done </run/costs
        """,
        {"agent-survey-and-plan": NUMBER, "shim-walk": NUMBER, "shim-and-host-query": NUMBER},
        userland=Userland.SYSTEMD,
        slow=True,
    ),
    Scenario(
        "workload",
        "a sealed guest does what it did before, and the host counts no denied fetch",
        LOCKED
        + """
        before=$(guarded violations)
        workload
        fact state "$(agent status)"
        fact denied $(($(guarded violations) - before))
        """,
        {**UNHARMED, "unload": REFUSED, "state": "0", "denied": "0"},  # kernel.modules_disabled works both ways
        userland=Userland.SYSTEMD,
        cpus=2,
    ),
    Scenario(
        "frozen",
        "late code is refused cleanly: modules, BPF's compiler, kprobes, kexec; the shim stays",
        LOCKED
        + """
        before=$(guarded violations)
        fact module "$(refused_by modprobe wireguard)"
        fact own-module "$(refused_by insmod "$(find "/lib/modules/$(uname -r)" -name 'xfrm_user.ko*' | head -1)")"
        fact shim "$(refused_by rmmod mbecguard_shim)"
        fact jit "$(cat /proc/sys/net/core/bpf_jit_enable)"
        fact kexec "$(cat /proc/sys/kernel/kexec_load_disabled)"
        fact kprobes "$(cat /sys/kernel/debug/kprobes/enabled)"
        echo 'p:lab/middle vfs_read' >/sys/kernel/tracing/kprobe_events
        echo 1 >/sys/kernel/tracing/events/lab/enable || true
        cat /proc/version >/dev/null
        fact probe-silent "$(grep -c middle: /sys/kernel/tracing/trace || true)"
        fact hibernation "$(refused_by sh -c 'echo disk >/sys/power/state')"
        fact sleep-refused "$(dmesg | grep -c 'sleep refused: this guest is sealed' || true)"
        fact denied $(($(guarded violations) - before))
        """,
        {
            "module": re.compile("refused: .*Operation not permitted.*"),
            "own-module": re.compile("refused: .*Operation not permitted.*"),
            "shim": re.compile("refused: .*in use.*"),
            "jit": "0",
            "kexec": "1",
            "kprobes": "0",
            "probe-silent": "0",
            "hibernation": re.compile("refused: .*"),
            "sleep-refused": "1",  # by the shim: without a place to write to the kernel would refuse as well
            "denied": "0",
        },
        userland=Userland.SYSTEMD,
    ),
    Scenario(
        "kept",
        "page tables, sealed plan and the host's map name the same pages; what is executable beyond them is denied",
        LOCKED
        + """
        panic_on_oops 0
        mbecguard report --format json >/run/record.json
        host run "grep range /sys/kernel/debug/kvm/[0-9]*/mbecguard" >/run/host-map
        compare() {
            PYTHONPATH=/lab/agent python3 /lab/helpers/kept.py /run/record.json /run/host-map >/run/compared 2>&1 ||
                { fact failed "$(tail -n 1 /run/compared | tr '"' ' ')"; exit 1; }
        }
        compare
        while read -r name value; do
            fact "$name" "$value"
        done </run/compared
        t huge >/dev/null
        compare
        fact planted "$(sed -n 's/^unplanned \\([0-9]*\\).*/\\1/p' /run/compared) $(t huge_run 0) $(t run 0)"
        panic_on_oops 1
        """,
        {
            "executable": re.compile("[4-9][0-9]{3}"),
            "canary": "executable, denied",
            **same("unplanned no-code host-more host-less", "0"),
            "host-map": "whole",
            "planted": "512 died ran",
        },
        userland=Userland.SYSTEMD,
    ),
    alone(
        "switches",
        "what each freeze switch stops works before the lock, and is refused or without effect after it",
        """
        tell() {
            fact module-$1 "$(refused_by modprobe "$2")"
            fact bpf-$1 "$(python3 /lab/helpers/late.py bpf)"
            fact kprobe-$1 "$(try_kprobe)"
            fact ftrace-$1 "$(try_ftrace)"
            fact kexec-$1 "$(python3 /lab/helpers/late.py kexec)"
        }
        tell before wireguard
        fact lock "$(agent lock --json --set freeze.ftrace=on) $(field state)"
        fact frozen "$(field frozen)"
        before=$(guarded violations) complaints=$(complaints)
        tell after xfrm_user
        fact by-shim "$(dmesg | grep -c 'modules are held' || true)"
        fact denied $(($(guarded violations) - before))
        fact kernel-log $(($(complaints) - complaints))
        fact alive "$(agent status) $(works sh -c 'for i in $(seq 20); do /bin/true || exit 1; done')"
        echo 1 >/proc/sys/net/core/bpf_jit_enable
        fact undone "$(agent status --json) $(field state) $(field reasons)"
        """,
        {
            "undone": re.compile("0 sealed .*net.core.bpf_jit_enable was frozen at the seal, and is 1 now.*"),
            "module-before": "accepted",
            "bpf-before": "compiled, works",
            **same("kprobe-before ftrace-before", "hit"),
            "kexec-before": "ok",
            "lock": "0 sealed",
            "frozen": re.compile(
                ".*ftrace_enabled.*kprobes/enabled.*bpf_jit_enable.*kexec_load_disabled.*modules_disabled"
            ),
            "module-after": re.compile("refused: .*Operation not permitted.*"),
            "bpf-after": "interpreted, works",
            **same("kprobe-after ftrace-after", "silent"),
            "kexec-after": "EPERM",
            "by-shim": "0",  # the switch comes first
            "denied": "0",
            "kernel-log": "0",
            "alive": "0 done",
        },
        Userland.SYSTEMD,
    ),
    Scenario(
        "room",
        "packs for BPF programs are reserved in a running kernel, full to the last page, and given back",
        """
        packs() {
            grep -c -E 'bpf_prog_pack_alloc|alloc_new_pack|bpf_jit_alloc_exec' /proc/vmallocinfo || true
        }
        before=$(packs)
        fact made "$(PYTHONPATH=/lab/agent python3 /lab/helpers/room.py make 4)"
        fact kept "$(($(packs) - before)) $(ls /sys/fs/bpf/mbecguard | wc -l)"
        fact filters "$(python3 /lab/helpers/filters.py 2000 400 0)"
        fact room "$(($(packs) - before))"
        fact back "$(PYTHONPATH=/lab/agent python3 /lab/helpers/room.py give-back)"
        for _ in $(seq 20); do [ "$(packs)" = "$before" ] && break; sleep 0.5; done
        fact left "$(($(packs) - before)) $([ -e /sys/fs/bpf/mbecguard ] || echo none)"
        """,
        {
            "made": re.compile("4 new, [1-9][0-9]* bytes for users"),
            "kept": re.compile("4 [4-6]"),
            "filters": "2000 work",
            "room": "4",
            "back": "done",
            "left": "0 none",
        },
        hosts=ALL_HOSTS,
        userland=Userland.SYSTEMD,
        slow=True,
    ),
    alone(
        "filters",
        "a guest that goes on compiling BPF programs has room for them; no user can fill it, only root",
        """
        panic_on_oops 0
        fact lock "$(agent lock --json --set freeze.bpf_jit=off --set lock.bpf_packs=4) $(field state)"
        fact reasons "$(field reasons)"
        fact jit "$(cat /proc/sys/net/core/bpf_jit_enable) $(python3 /lab/helpers/late.py bpf)"
        before=$(guarded violations)
        fact limit "$(cat /proc/sys/net/core/bpf_jit_limit)"
        fact root "$(python3 /lab/helpers/filters.py 2000 400 0)"
        sleep 3 # what is let go is freed later
        fact user "$(python3 /lab/helpers/filters.py 8000 400 65534)"
        fact denied $(($(guarded violations) - before))
        sleep 3
        fact beyond "$(python3 /lab/helpers/filters.py 8000 400 0 || echo died)"
        fact denied-beyond $(($(guarded violations) - before))
        fact state "$(agent status)"
        """,
        {
            "lock": "0 sealed",
            "jit": "1 compiled, works",
            "root": "2000 work",
            "user": "8000 work",  # beyond the limit they are interpreted; a kernel that cannot refuses them
            "denied": "0",
            "beyond": "died",
            "denied-beyond": "1",
            "state": "0",
        },
        Userland.SYSTEMD,
    ),
    alone(
        "hooks",
        "with the function tracer frozen no BPF hook is hung on: systemd is executed again where each has its own page",
        """
        fact before "$(works systemctl daemon-reexec)"
        told() { agent check --json "$@" >/dev/null; grep -c hooks-alone /run/agent.out || true; }
        fact told "$(told) $(told --set freeze.ftrace=on)"
        fact lock "$(agent lock --json --set freeze.ftrace=on) $(field state)"
        before=$(guarded violations)
        fact after "$(works systemctl daemon-reexec)"
        fact unit "$(works systemd-run --wait --pipe -q /bin/true)"
        fact denied $(($(guarded violations) - before))
        fact state "$(agent status)"
        """,
        {
            **same("before after unit", "done"),
            "told": re.compile("[01] 0"),  # 1 before Linux 6.9
            "lock": "0 sealed",
            "denied": "0",
            "state": "0",
        },
        Userland.SYSTEMD,
    ),
    Scenario(
        "one-way",
        "without the start page no processor comes back: the kernel is told so in time, and the guest goes on",
        """
        fact before "$(cycle)"
        fact lock "$(agent lock --json --set policy.trampoline=drop) $(field state)"
        complaints=$(complaints) before=$(guarded violations)
        cd /sys/devices/system/cpu/cpu1
        fact off "$(works sh -c 'echo 0 >online') $(cat online)"
        for round in 1 2; do
            fact back-$round "$(refused_by sh -c 'echo 1 >online')"
        done
        fact counted "$(($(guarded violations) - before))"
        fact kernel-log $(($(complaints) - complaints))
        fact alive "$(agent status) $(t run 0) $(works sh -c 'for i in $(seq 20); do /bin/true || exit 1; done')"
        """,
        {
            "before": "1",
            "lock": "0 sealed",
            "off": "done 0",
            **same("back-1 back-2", re.compile("refused: .*")),
            "counted": re.compile("[2-9]"),
            "kernel-log": "0",
            "alive": "0 ran done",
        },
        userland=Userland.SYSTEMD,
        slow=True,
        cpus=2,
        setting=Setting(own_guest="one-way"),
    ),
    Scenario(
        "idle",
        "ten minutes of the guest's time pass in a sealed guest without a denied fetch",
        LOCKED
        + """
        before=$(guarded violations)
        for _ in $(seq 10); do
            sleep 60
            host run true >/dev/null
        done
        fact state "$(agent status)"
        fact denied $(($(guarded violations) - before))
        """,
        {"state": "0", "denied": "0"},
        userland=Userland.SYSTEMD,
        slow=True,
    ),
    Scenario(
        "false-denials",
        "in audit mode a busy guest fetches nothing that the plan denies; an attack is counted",
        """
        panic_on_oops 0
        fact lock "$(agent lock --mode audit --json) $(field state)"
        workload
        fact denied "$(guarded violations)"
        fact attack "$(t payload_run 0)"
        fact counted "$(guarded violations)"
        panic_on_oops 1
        """,
        {**UNHARMED, "unload": "done", "lock": "8 applied", "denied": "0", "attack": "ran", "counted": "1"},
        userland=Userland.SYSTEMD,
        slow=True,
        cpus=2,
        setting=Setting(kvm="mbecguard=audit"),
        hosts=OURS,
    ),
)
