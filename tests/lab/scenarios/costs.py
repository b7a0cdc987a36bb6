# SPDX-License-Identifier: GPL-2.0-or-later
"""What the host pays: for one large request, by the guest's memory; for a guest that never asks, by the host's KVM.

And what a guest pays that is locked at boot: until nothing is left to start, idle, and at work.
"""

from __future__ import annotations

import re

from ..layers import SPARSE_MIB, Userland
from ..verdict import Expected
from .scenario import DENIED, ENOSYS, Scenario, Setting, alone, same, staged

SIZES = (256, 1024, 65536)  #: MiB
KVMS = {
    "stock": (Setting(stock=True), "none"),
    "off": (Setting(kvm="mbecguard=off"), "off"),
    "unused": (Setting(kvm="mbecguard=enforce"), "enforce"),
}
BOOTS = 3
NUMBER = re.compile("[1-9][0-9]*")

# 256 MiB at most: the host has to back them. The first two of all kept ranges become "deny all" and "keep what RAM
# there is": two pages at its start are denied, so that all of it lies between the first change and the last.
MEMORY = """
    free() { host run 'grep MemAvailable /proc/meminfo' | tr -dc 0-9; }
    last=$(dmesg | sed -n 's/.*BIOS-e820: .*-\\(0x[0-9a-f]*\\)\\] usable/\\1/p' | tail -n 1)
    fact mib $(((last + 0xfffff) >> 20))
    half=$(($(sed -n 's/^MemAvailable: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo) / 2048))
    fallocate -l $((half < 256 ? half : 256))M /tmp/fill
    fact filled "$(du -m /tmp/fill | cut -f 1)"
    fact mapped-4k "$(counted pages_4k)"
    fact mapped-2m "$(counted pages_2m)"
    ask() {
        t many $1 $HOLE 0x2000 0x1000 $((RWX + $2))
        t set 0 3 0
        t set 0 4 $((HOLE * 2))
        t set 0 5 $((RW + $2))
        t set 0 6 0x2000
        t set 0 7 $HOLE
        t set 0 8 $((RWX + $2))
        send
    }
    fact request-424 "$(ask 424 0)"
    fact instructions-424 "$(t cost)"
    fact wiped "$(protect 0 $RWX $((HOLE / 2048)))"
    before=$(free)
    fact request "$(ask 3000 0)"
    fact instructions "$(t cost)"
    grown=$((before - $(free)))
    fact grown-kib $grown
    fact bounded "$([ $grown -lt 1024 ] && echo yes)"
    fact boundaries "$(guarded boundaries)"
    fact alive "$(t run 0) $(protect "$(t canary 0)" $RW) $(t run 0)"
    fact granted "$(protect "$(t canary 0)" $RWX) $(t run 0)"
    fact seal "$(ask 3000 $IMMUTABLE)"
    fact seal-instructions "$(t cost)"
    fact sealed "$(t run 0) $(protect "$(t canary 0)" $RW)"
    """

# Clocks are the host's: seconds since its start, and seconds idle.
UNUSED = f"""
    fact mode-$stage "$(host run 'cat /sys/module/kvm/parameters/mbecguard 2>/dev/null || echo none' | tr -d ' ')"
    fact query-$stage "$(query)"
    fact exits-$stage "$(counted exits)"
    fact faults-$stage "$(counted pf_taken)"
    fact fixed-$stage "$(counted pf_fixed)"
    fact started-$stage "$(host run 'cat /run/started')"
    fact arrived-$stage "$(host run 'cat /proc/uptime')"
    if [ "$stage" -lt {BOOTS} ]; then
        fact left-$stage "$(host run 'cat /proc/uptime')"
        reset
    fi
    """

# A guest's clock is the machine's: with one processor, what its kernel does not call idle is what has been executed
# for it, by itself and by its host.
LIVED = """
    fact system-$stage "$(systemctl is-system-running --wait || true)"
    fact settled-$stage "$(cat /proc/uptime)"
    fact state-$stage "$(agent status --json) $(guarded sealed)"
    fact lock-$stage "$(systemctl show -P CPUUsageNSec mbecguard-lock.service)"
    exits=$(counted exits)
    sleep 60
    fact idle-exits-$stage $(($(counted exits) - exits))
    work() {
        for i in $(seq 100); do /bin/true || return 1; done
        for i in $(seq 10); do mount -t tmpfs none /mnt && echo x >/mnt/x && umount /mnt || return 1; done
        systemd-run --wait --pipe -q -p DynamicUser=yes /bin/true || return 1
        python3 /lab/helpers/network.py && sha256sum /usr/bin/[a-p]* && sync
    }
    works work >/dev/null
    exits=$(counted exits)
    before=$(cat /proc/uptime)
    fact work-$stage "$(works work)"
    after=$(cat /proc/uptime)
    fact work-exits-$stage $(($(counted exits) - exits))
    fact worked-$stage "$before $after"
    """
LIFE = alone(
    "life",
    "a guest's boots, an idle minute and a piece of work: without the service, twice with it, at level text-log",
    staged(
        """
        enlist
        # shellcheck disable=SC2086
        systemctl -q disable $SERVICE
        """,
        f"""
        {LIVED}
        # shellcheck disable=SC2086
        systemctl -q enable $SERVICE
        """,
        LIVED,
        f"""
        {LIVED}
        printf '[policy]\\nlevel = "text-log"\\n' >/etc/mbecguard/mbecguard.toml.d/30-level.toml
        """,
        f"""
        {LIVED}
        PYTHONPATH=/usr/share/mbecguard python3 /lab/helpers/costs.py >/run/costs
        fact parts "$(tr '\\n' ' ' </run/costs)"
        """,
    ),
    {
        **same("system-2 system-3 system-4 system-5", "running"),
        **same("work-2 work-3 work-4 work-5", "done"),
        "state-2": "6 0",
        **same("state-3 state-4 state-5", "0 1"),
        "parts": re.compile("agent-survey-and-plan .*shim-walk .*shim-and-host-query .*shim-and-host-.*-ranges .*"),
    },
    Userland.INSTALLED,
)


def _memory(mib: int) -> Scenario:
    # What would lie in the hole below 4 GiB comes behind it.
    end = mib if mib <= SPARSE_MIB else mib + 4096 - SPARSE_MIB
    return Scenario(
        f"memory-{mib}",
        f"deny all, keep 2999 ranges: the request's cost for the host of a guest with {mib} MiB",
        MEMORY,
        dict.fromkeys(("instructions-424", "instructions", "seal-instructions", "filled", "boundaries"), NUMBER)
        | {"mib": str(end), "request-424": "0", "wiped": "0", "request": "0", "bounded": "yes"}
        | {"alive": f"ran 0 {DENIED}", "granted": "0 ran", "seal": "0", "sealed": "ran -1"},
        slow=True,
        setting=Setting(memory_mib=mib),
    )


def _unused(name: str, setting: Setting, mode: str) -> Scenario:
    stages = range(1, BOOTS + 1)
    answer = NUMBER if mode == "enforce" else ENOSYS
    modes: Expected = {f"mode-{stage}": mode for stage in stages}
    answers: Expected = {f"query-{stage}": answer for stage in stages}
    return Scenario(
        f"boot-{name}",
        f"{BOOTS} boots of a guest that asks for nothing: their cost for a host with KVM {name}",
        UNUSED,
        {**modes, **answers},
        slow=True,
        setting=setting,
    )


SCENARIOS: tuple[Scenario, ...] = (
    *(_memory(mib) for mib in SIZES),
    *(_unused(name, setting, mode) for name, (setting, mode) in KVMS.items()),
    LIFE,
)
