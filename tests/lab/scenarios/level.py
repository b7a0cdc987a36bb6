# SPDX-License-Identifier: GPL-2.0-or-later
"""Level text: kernel text is handed over, the guest works and patches itself as before, attacks change nothing."""

from __future__ import annotations

import re

from ..layers import Host, Userland
from ..verdict import Expected
from .product import REFUSED, UNHARMED
from .scenario import Scenario, Setting, same

DENIED, DONE = "trap 14 cr2 target", "stored"

#: QEMU's TCG has no nested SVM that saves more of a processor: a guest of 7.2 dies of it while it boots.
PLAIN_CPU = "host,-vmx,-xsave,-avx,-avx2,-fma,-f16c,-pclmulqdq"
#: What an attacker writes to, through a mapping of his own: code for a crash of the kernel, which never runs.
TARGETS = """
    panic_on_oops 0
    eval "$(PYTHONPATH=/lab/agent python3 /lab/helpers/text.py spots)"
    eval "$(PYTHONPATH=/lab/agent python3 /lab/helpers/text.py lsm)"
    code=$(t pa $CODE) entry=$(t pa $ENTRY) loaded=$(t pa $LOADED)
    table=$(t pa "0x$(sed -n 's/ [a-zA-Z] sys_call_table$//p' /proc/kallsyms)")
    # What is there already, stored once more: nobody who runs it notices.
    again() { t store $1 "0x$(t peek $1 | cut -c1-2)" 1; }
    steal=$(((code + 63) & ~63)) # where the host's record of stolen time has its version 8 bytes on
    look() { echo "$(t peek $code) $(t peek $((steal + 8)))"; }
    now() {
        [ "$(look)" = "$was" ] && echo as-before || echo changed
    }
    was=$(look)
    claim() {
        python3 -c 'import json, sys
claims = json.load(open("/run/agent.out"))["claims"]
print(*(c["result"] for c in claims if c["id"] == sys.argv[1]))' "$1"
    }
    # What lies around CODE, from eight bytes before it on, as it was.
    restore() {
        at=$((code - 8))
        for bytes in $AROUND; do
            t store $at "$bytes" 8 >/dev/null
            at=$((at + 8))
        done
    }
    # WRITER: whether what it writes to guest memory is what the guest sees there.
    aimed() {
        "$@" >/dev/null
        sleep 1
        now
    }
    wallclock() { on 0 wrmsr 0x4b564d00 $code; }
    clock() {
        own=$(on 0 wrmsr 0x4b564d01 $((code & ~1 | 1)))
        on 0 wrmsr 0x4b564d01 "$own"
    }
    steal_time() {
        own=$(on 0 wrmsr 0x4b564d03 $((steal | 1)))
        sleep 1
        on 0 wrmsr 0x4b564d03 "$own"
    }
    device() { t dma $code; }
"""
#: What the kernel patches by itself, or because somebody asks for it. Nothing of it may be refused.
FLIPS = r"""
    mount_tracing
    services() {
        for i in $(seq 20); do
            systemd-run --wait --pipe -q -p DynamicUser=yes -p PrivateTmp=yes /bin/true || return 1
        done
        systemctl restart systemd-journald systemd-udevd
    }
    rules() {
        rule_set
        nft delete table inet more && nft delete table ip more
    }
    cgroups() {
        limited_cgroup
        rmdir /sys/fs/cgroup/lab
    }
    namespaces() {
        for i in 1 2 3; do ip netns add lab$i && ip -n lab$i link set lo up && ip netns del lab$i; done
    }
    tracepoints() {
        echo 1 >$tracing/events/enable && echo 0 >$tracing/events/enable
    }
    features() {
        (cd /sys/kernel/debug/sched && for feature in $(cat features); do
            case $feature in *LATENCY_WARN) continue ;; NO_*) other=${feature#NO_} ;; *) other=NO_$feature ;; esac
            echo $other >features && echo $feature >features || exit 1
        done)
    }
    sysctls() {
        for value in 1 0; do for key in sched_schedstats bpf_stats_enabled; do
            echo $value >/proc/sys/kernel/$key || return 1
        done; done
        echo 'file tcp*.c +p' >/sys/kernel/debug/dynamic_debug/control
        echo 'file tcp*.c -p' >/sys/kernel/debug/dynamic_debug/control
    }
    timestamps() { python3 /lab/helpers/flips.py sockets; }
    perf() { python3 /lab/helpers/flips.py perf; }
    bpf() { python3 /lab/helpers/flips.py bpf; }
    xdp() { python3 /lab/helpers/flips.py xdp; }
    replug() {
        echo 0 >/sys/devices/system/cpu/cpu1/online && echo 1 >/sys/devices/system/cpu/cpu1/online
    }
    # NAME: done, with so many stores of patches
    phase() {
        before=$(word 16)
        fact "$1" "$(works "$1")"
        fact "$1-stores" "$(($(word 16) - before))"
    }
"""
PHASES = "services rules cgroups namespaces tracepoints features sysctls timestamps replug xdp"
PATCHED = "rules cgroups tracepoints features sysctls replug xdp"
MORE = "perf bpf"  #: the same, where programs may be loaded
COUNT, SOME = re.compile("[0-9]+"), re.compile("[1-9][0-9]*")
BY_OTHERS = "wallclock clock steal_time device"


def _by_others(when: str) -> str:
    again = "restore" if when == "before" else ""
    return "".join(f'fact {name}-{when} "$(aimed {name})"\n{again}\n' for name in BY_OTHERS.split())


def _phases(names: str = PHASES) -> str:
    return "".join(f"phase {name}\n" for name in names.split())


#: What an attacker tries, once the text is the host's.
ATTACKS = f"""
    fact byte "$(t store $code 0x90 1) $(now)"
    fact module "$(again $loaded)"
    fact rodata "$(again $table)"
    fact tail "$(t store $entry 0xcc 1) $(t store $((entry + 1)) 0xc3e0220f 4) $(t store $entry 0x0f 1)"
    fact lsm "$(if [ "$LSM" ]; then t store "$(t pa "$LSM")" 0xcc 1; else echo none; fi)"
    fact movs "$(t store_movs $((code | 4095)) 16)"
    fact cmpxchg "$(t store_cmpxchg $code)"
    fact avx "$(t store_avx $((code & ~31)))"
    fact foreign-before "$(word 18)"
    {_by_others("after")}
    fact foreign "$(word 18)"
    fact counted "$(($(word 17) - bad))"
"""
ATTACKED: Expected = {
    "byte": f"{DENIED} as-before",
    **same("module rodata", DENIED),
    "tail": f"{DONE} {DENIED} {DONE}",
    "lsm": re.compile(f"{DENIED}|none"),  # 6.1 has no static calls for security modules
    **same("movs cmpxchg", "died"),
    "avx": re.compile("died|no AVX"),
    "foreign-before": "0",
    **same(" ".join(f"{name}-after" for name in BY_OTHERS.split()), "as-before"),
    "foreign": "1",
    "counted": re.compile("[6-9]|1[01]"),  # one less where no security module has a static call
}
PHASED: Expected = {
    **same(PHASES, "done"),
    **same(" ".join(f"{name}-stores" for name in PHASES.split()), COUNT),
    **same(" ".join(f"{name}-stores" for name in PATCHED.split()), SOME),
    **UNHARMED,
    "unload": "done",
    "unpatched": "0",
}
#: The VM in a memory cgroup of its own, on its host.
WEIGHED = """
    host run 'mkdir /run/memory; mount -t cgroup2 none /run/memory' >/dev/null
    host run 'echo +memory >/run/memory/cgroup.subtree_control; mkdir /run/memory/vm' >/dev/null
    host run 'cat /run/guest.pid >/run/memory/vm/cgroup.procs' >/dev/null
    charged() {
        sleep 3 # its counters are summed up now and then
        echo $(($(host run "sed -n 's/^kernel //p' /run/memory/vm/memory.stat" | tr -dc 0-9) >> 10))
    }
"""
#: Both CPUs patch from the moment on that text is about to be handed over.
MEANWHILE = """
    mount_tracing
    go() { while [ ! -e /run/go ]; do sleep 0.2; done; }
    (go; while [ ! -e /run/stop ]; do
        echo 1 >$tracing/events/sched/sched_switch/enable
        echo 0 >$tracing/events/sched/sched_switch/enable
        echo >>/run/rounds-0
    done) &
    (go; while [ ! -e /run/stop ]; do
        for key in sched_schedstats bpf_stats_enabled; do
            echo 1 >/proc/sys/kernel/$key
            echo 0 >/proc/sys/kernel/$key
        done
        echo >>/run/rounds-1
    done) &
    rounds() { cat /run/rounds-0 /run/rounds-1 | wc -l; }
"""
#: What a patch costs its machine: the host tells for how long it has been up, and idle.
MEASURED = r"""
    mount_tracing
    uptime() { host run 'cat /proc/uptime'; }
    # NAME ROUNDS: thousands of emulated instructions that one takes, and stores that are judged
    measured() {
        "$1" # the first one is dearer
        stores=$(word 16) began="$(uptime)"
        for round in $(seq "$2"); do "$1" || echo failed; done
        spent=$(echo "$began $(uptime)" | awk "{ print int(300000 * ((\$3 - \$1) - (\$4 - \$2)) / $2) }")
        fact "$1-$when" "$spent $((($(word 16) - stores) / $2))"
    }
    tracepoint() {
        for on in 1 0; do echo $on >$tracing/events/sched/sched_switch/enable; done
    }
    spawned() { /bin/true; }
    costs() {
        when=$1
        measured rules 10
        measured cgroups 40
        measured tracepoint 40
        measured spawned 100
    }
"""
PATCHED_ONES = "rules tracepoint"
#: Limits of a cgroup have keys switched once: a second cgroup finds them as they are.
MEASURED_ONES = f"{PATCHED_ONES} cgroups spawned"
WHEN = "without again with later"
_NONE, _JUDGED = re.compile("[0-9]+ 0"), re.compile("[0-9]+ [1-9][0-9]*")
HAND_OVER = "PYTHONPATH=/lab/agent python3 /lab/helpers/handover.py 2>&1 | tail -n 1"
HANDED = re.compile(
    "store ran, then denied; patch ran; [0-9]{5} sites, [0-9]{1,5} frozen; [0-9]{4} pages of data; "
    "[0-9]{3,5} sites in [0-9]+ runs of modules; left mbectest; [0-9]{4} pages"
)
BEFORE: Expected = {
    "before": "stored changed as-before",
    "others-before": f"{DONE} {DONE}",
    **same(" ".join(f"{name}-before" for name in BY_OTHERS.split()), "changed"),
}

SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        "level-text",
        "a guest locked at level text works and patches itself as before, and nothing else changes its kernel's text",
        TARGETS
        + FLIPS
        + f"""
        fact before "$(t store $code 0x90 1) $(now) $(restore)$(now)"
        fact others-before "$(again $loaded) $(again $table)"
        {_by_others("before")}
        fact check "$(agent check --json --set policy.level=text) $(blockers)"
        fact lock "$(agent lock --json --set policy.level=text) $(field state)"
        fact level "$(field level) $(field policy frozen_keys)"
        fact sealed "$(agent status --json) $(field state) $(field text pages)"
        fact holds "$(($(word 15) & 3)) $(($(word 15) >> 2 & 3)) $(($(word 15) >> 16 & 0xffff))"
        bad=$(word 17)
        fact own "$bad"
        {_phases()}
        workload
        fact unpatched "$(($(word 17) - bad))"
        {ATTACKS}
        agent audit --json --set audit.text=true >/dev/null
        fact audit "$(PYTHONPATH=/lab/agent python3 /lab/helpers/text.py claim) $(claim text-held)"
        fact told "$(agent status --json) $(field state) $(field text bad)"
        fact alive "$(t run 0) $(usertool run 0)"
        """,
        {
            **BEFORE,
            "check": "0 0",
            "lock": "0 sealed",
            "level": "text lsm; mitigations",
            "sealed": re.compile("0 sealed [0-9]{4,5}"),
            "holds": "2 2 4",
            "own": "1",
            **PHASED,
            "unload": REFUSED,  # modules are frozen
            **ATTACKED,
            "audit": "pass warn",
            "told": re.compile("0 sealed [1-9][0-9]*"),
            "alive": "ran ran",
        },
        userland=Userland.SYSTEMD,
        cpus=2,
        slow=True,
        setting=Setting(kvm="mbecguard_text=enforce", own_guest="level-text"),
    ),
    Scenario(
        "handed-over",
        "kernel text alone is handed over, as the agent has it: the guest patches it as before, attacks change nothing",
        TARGETS
        + FLIPS
        + f"""
        fact before "$(t store $code 0x90 1) $(now) $(restore)$(now)"
        fact others-before "$(again $loaded) $(again $table)"
        {_by_others("before")}
        {WEIGHED}
        weight=$(charged)
        fact handed "$({HAND_OVER})"
        bad=$(word 17)
        weight=$(($(charged) - weight)) text=$(($(word 15) >> 32 << 2))
        fact charged-kib "$weight for $text"
        fact charged "$([ $weight -ge $text ] && [ $weight -lt $((text + 4096)) ] && echo text and tables)"
        {_phases(f"{PHASES} {MORE}")}
        workload
        fact unpatched "$(($(word 17) - bad))"
        {ATTACKS}
        fact alive "$(works sh -c 'for i in $(seq 20); do /bin/true || exit 1; done')"
        """,
        {
            **BEFORE,
            "handed": HANDED,
            "charged-kib": re.compile("[0-9]+ for [0-9]+"),
            "charged": "text and tables",
            **PHASED,
            **same(MORE, "done"),
            **same(" ".join(f"{name}-stores" for name in MORE.split()), SOME),
            **ATTACKED,
            "alive": "done",
        },
        hosts=frozenset({Host.OURS, Host.UNENFORCED}),
        userland=Userland.SYSTEMD,
        cpus=2,
        slow=True,
        setting=Setting(kvm="mbecguard_text=enforce", own_guest="handed-over", cpu=PLAIN_CPU),
    ),
    Scenario(
        "handed-over-busy",
        "kernel text is handed over while both CPUs patch it: none of their patches is refused, none is lost",
        MEANWHILE
        + f"""
        fact handed "$({HAND_OVER})"
        bad=$(word 17) rounds=$(rounds)
        sleep 20
        fact meanwhile "$rounds rounds, $(($(rounds) - rounds)) more, $(($(word 17) - bad)) refused"
        fact foreign "$(word 18)"
        : >/run/stop
        wait
        fact alive "$(t run 0)"
        """,
        {
            "handed": HANDED,
            "meanwhile": re.compile("[1-9][0-9]* rounds, [1-9][0-9]* more, 0 refused"),
            "foreign": "0",
            "alive": "ran",
        },
        hosts=frozenset({Host.OURS, Host.UNENFORCED}),
        userland=Userland.SYSTEMD,
        cpus=2,
        slow=True,
        setting=Setting(kvm="mbecguard_text=enforce", own_guest="handed-over-busy", cpu=PLAIN_CPU),
    ),
    Scenario(
        "level-cost",
        "what firewall rules, a cgroup and a tracepoint cost with and without level text, in instructions",
        FLIPS
        + MEASURED
        + f"""
        costs without
        costs again
        fact handed "$({HAND_OVER})"
        costs with
        costs later
        fact bad "$(word 17)"
        """,
        {
            **{f"{name}-{when}": _NONE for name in MEASURED_ONES.split() for when in WHEN.split()},
            "handed": HANDED,
            **{f"{name}-{when}": _JUDGED for name in PATCHED_ONES.split() for when in ("with", "later")},
            "bad": "1",
        },
        userland=Userland.SYSTEMD,
        cpus=2,
        slow=True,
        setting=Setting(kvm="mbecguard_text=enforce", own_guest="level-cost"),
    ),
)
