# SPDX-License-Identifier: GPL-2.0-or-later
"""Text objects: who writes to kernel text that a guest has handed over, and what becomes of it."""

from __future__ import annotations

import re

from ..layers import Host
from ..machines import LADEN, MICROVM, Machine
from ..verdict import Expected
from .scenario import EPERM, Scenario, Setting, same

#: Level text needs no MBEC: an unenforced host judges stores as any other.
JUDGING = frozenset({Host.OURS, Host.UNENFORCED})
REFUSED = "trap 14 cr2 target"
ENFORCED, LOGGED = Setting(kvm="mbecguard_text=enforce"), Setting(kvm="mbecguard_text=log")

#: A page of code as Linux makes it: a jump label that jumps over nothing, or to UD2.
PAGE = """
    panic_on_oops 0
    page=$(t payload 0)
    store() {
        t store $((page + $1)) "$2" "${3:-1}"
    }
    # BYTE TAIL: as smp_text_poke_batch_finish() does it.
    patch() {
        echo "$(store 0 0xcc) $(store 1 "$2" 4) $(store 0 "$1")"
    }
    to_jump() { patch 0xe9 0x000001fb; }
    to_nop() { patch 0x0f 0x0000441f; }
    to_nop >/dev/null
    store 5 0xc3 >/dev/null
    store 0x200 0x0b0f 2 >/dev/null
    # WRITER: whether what it writes at 0x400 of the page is there.
    aimed() {
        was=$(t peek $((page + 0x400)))
        "$@" >/dev/null
        sleep 1
        [ "$was" = "$(t peek $((page + 0x400)))" ] && echo unchanged || echo changed
    }
    wallclock() { on 0 wrmsr 0x4b564d00 $((page + 0x400)); }
    steal_time() {
        own=$(on 0 wrmsr 0x4b564d03 $((page + 0x400 | 1)))
        sleep 1
        on 0 wrmsr 0x4b564d03 "$own"
    }
    clock() {
        own=$(on 0 wrmsr 0x4b564d01 $((page + 0x400 | 1)))
        on 0 wrmsr 0x4b564d01 "$own"
    }
    device() { t dma $((page + 0x400)); }
"""
BY_OTHERS = "wallclock steal_time clock device"


def _by_others(when: str) -> str:
    return "".join(f'fact {name}-{when} "$(aimed {name})"\n' for name in BY_OTHERS.split())


def _seen(when: str, value: str) -> dict[str, str | re.Pattern[str]]:
    return same(" ".join(f"{name}-{when}" for name in BY_OTHERS.split()), value)


def judged(
    name: str,
    about: str,
    script: str,
    expect: Expected,
    *,
    cpus: int = 1,
    mode: str = "enforce",
    machine: Machine = MICROVM,
) -> Scenario:
    """What hands text over for good: in a guest of its own, and therefore slow."""
    setting = Setting(kvm=f"mbecguard_text={mode}", own_guest=name, machine=machine)
    return Scenario(name, about, script, expect, JUDGING, slow=True, cpus=cpus, setting=setting)


SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        "stores",
        "text that is handed over takes the patches of its sites, and nothing else, from whomever",
        PAGE
        + f"""
        if [ "$stage" = 2 ]; then
            fact reset "$(($(word 15) >> 16 & 0xffff)) $(store 0x80 0x90) $(t payload_run 0)"
            exit
        fi
        fact offered $(($(word 15) & 3))
        fact before "$(t payload_run 0) $(to_jump) $(t payload_run 0) $(to_nop) $(t payload_run 0)"
        fact store-before "$(store 0x80 0x90) $(t store_movs $((page + 0x88)) 16) $(t store_cmpxchg $((page + 0x98)))"
        fact avx-before "$(t store_avx $((page + 0xa0)))"
        {_by_others("before")}
        store 0x400 $(($(t payload 1) | 3)) 8 >/dev/null # an entry that the processor has not been at
        fact walk-before "$(aimed eval 't walk $((page + 0x400)) >/run/walk') $(cat /run/walk)"
        store 0x400 $(($(t payload 1) | 3)) 8 >/dev/null
        text_head "$page" $((page + 4096)) 0 1
        text_site 0 0x200 1 5 0
        fact add "$(send_text)"
        fact again "$(send_text)"
        fact holds "$(($(word 15) >> 2 & 3)) objects $(($(word 15) >> 16 & 0xffff)) pages $(($(word 15) >> 32))"
        fact after "$(t payload_run 0) $(to_jump) $(t payload_run 0) $(to_nop) $(t payload_run 0)"
        fact patches "$(word 16) $(word 17)"
        fact store-after "$(store 0x80 0x91)"
        fact beside "$(store 5 0x90)"
        fact form-alone "$(store 0 0xe9)"
        fact tail-alone "$(store 1 0x90)"
        fact gadget "$(store 0 0xcc) $(store 1 0xc3e0220f 4) $(store 1 0xfb) $(store 2 0x22)" # mov cr4, rax; ret
        fact back "$(store 1 0x1f) $(store 0 0x0f)"
        fact movs "$(t store_movs $((page + 0x88)) 16)"
        fact over-end "$(t store_movs $((page - 8)) 16)"
        fact cmpxchg "$(t store_cmpxchg $((page + 0x98)))"
        fact avx "$(t store_avx $((page + 0xa0)))"
        fact foreign-before "$(word 18)"
        {_by_others("after")}
        fact foreign "$(word 18)"
        fact walk-after "$(aimed eval 't walk $((page + 0x400)) >/run/walk') $(cat /run/walk)"
        fact walks "$(host run "sed -n 's/^text-walk //p' /sys/kernel/debug/kvm/*/mbecguard")"
        fact neighbour "$(t store $(($(t payload 1) + 0x80)) 0x90 1) $(t payload_run 1)"
        fact counted "$(word 17)"
        fact seen "$(host run "grep -c ^bad-store /sys/kernel/debug/kvm/*/mbecguard")"
        fact alive "$(t payload_run 0) $(t run 0)"
        reset
        """,
        {
            "offered": "2",
            "before": "ran stored stored stored died stored stored stored ran",
            "store-before": "stored ran ran",
            "avx-before": re.compile("ran|no AVX"),
            **_seen("before", "changed"),
            "walk-before": "changed walked",
            "add": "0",
            "again": EPERM,
            "holds": "2 objects 1 pages 1",
            "after": "ran stored stored stored died stored stored stored ran",
            "patches": "6 0",
            "store-after": REFUSED,
            **same("beside form-alone tail-alone", REFUSED),
            "gadget": f"stored {REFUSED} stored {REFUSED}",
            "back": "stored stored",
            **same("movs over-end cmpxchg", "died"),
            "avx": re.compile("died|no AVX"),
            "foreign-before": "0",
            **_seen("after", "unchanged"),
            "foreign": "1",
            "walk-after": "unchanged trap 13",
            "walks": re.compile("[1-9] *"),
            "neighbour": "stored ran",
            "counted": re.compile("[1-9][0-9]*"),
            "seen": re.compile("[1-9][0-9]* *"),
            "alive": "ran ran",
            "reset": "0 stored ran",
        },
        JUDGING,
        setting=ENFORCED,
    ),
    judged(
        "stores-devices",
        "balloon, disk and a vhost network card write to a page of text: the guest sees it until it is handed over",
        """
        panic_on_oops 0
        page=$(t payload 0) other=$(t payload 1) at=$((page + 0x200)) beside=$((other + 0x200))
        balloon() { t balloon $(($1 & ~4095)); }
        disk() { t read_disk "$1"; }
        card() {
            host run 'busybox ping -c 6 -W 1 10.9.9.2 >/dev/null 2>&1 &' >/dev/null
            t receive "$1" 1500
        }
        # PA DEVICE: whether what it writes there is what the guest sees.
        aimed() {
            was=$(t peek "$1")
            "$2" "$1" >/dev/null
            [ "$was" = "$(t peek "$1")" ] && echo unchanged || echo changed
        }
        mend() {
            t store $(($1 & ~4095)) 0xccc3fa1e0ff3 8 >/dev/null
            t store "$1" 0xcccccccccccccccc 8 >/dev/null
        }
        host run 'busybox ip addr add 10.9.9.1/24 dev tap0; busybox ip link set tap0 up' >/dev/null
        fact vhost "$(host run 'cat /proc/[0-9]*/task/*/comm | grep -c vhost')" # its threads are the host kernel's
        for device in balloon disk card; do
            mend $at
            fact "$device-before" "$(aimed $at $device)"
        done
        mend $at
        fact ran "$(t payload_run 0)"
        text_head "$page" $((page + 4096)) 0
        fact add "$(send_text)"
        for device in disk card balloon; do
            fact "$device-after" "$(aimed $at $device) $(word 18) $(t payload_run 0)"
        done
        mend $beside
        for device in disk card balloon; do
            mend $beside
            fact "$device-beside" "$(aimed $beside $device)"
        done
        fact holds "$(t store $at 0x90 1) $(t payload_run 0) $(word 17)"
        fact alive "$(t run 0) $(usertool run 0)"
        """,
        {
            "vhost": re.compile("[1-9] *"),
            **same("balloon-before disk-before card-before", "changed"),
            "ran": "ran",
            "add": "0",
            **same("disk-after card-after balloon-after", "unchanged 1 ran"),
            **same("disk-beside card-beside balloon-beside", "changed"),
            "holds": f"{REFUSED} ran 1",
            "alive": "ran ran",
        },
        machine=LADEN,
    ),
    judged(
        "stores-cost",
        "what a store to text costs where it is judged, in cycles of the machine, a whole exit with the emulator",
        PAGE
        + """
        fact before "$(t patch_cost "$page" 1000)"
        text_head "$page" $((page + 4096)) 0 1
        text_site 0 0x200 1 5 0
        fact add "$(send_text)"
        fact after "$(t patch_cost "$page" 1000)"
        fact stores "$(word 16) $(word 17)"
        """,
        {"before": re.compile("[0-9]+"), "add": "0", "after": re.compile("[1-9][0-9]+"), "stores": "3000 0"},
    ),
    Scenario(
        "stores-log",
        "where the host only logs, an illegal store is counted and done; what others write changes nothing even so",
        PAGE
        + f"""
        text_head "$page" $((page + 4096)) 0
        fact add "$(send_text)"
        fact holds "$(($(word 15) & 3)) $(($(word 15) >> 2 & 3))"
        fact store "$(store 0x80 0x91) $(word 16) $(word 17)"
        fact patch "$(to_jump) $(t payload_run 0)"
        fact cmpxchg "$(t store_cmpxchg $((page + 0x98)))"
        {_by_others("after")}
        """,
        {
            "add": "0",
            "holds": "1 1",
            "store": "stored 0 1",
            "patch": "stored stored stored died",
            "cmpxchg": "died",
            **_seen("after", "unchanged"),
        },
        JUDGING,
        slow=True,
        setting=LOGGED,
    ),
    Scenario(
        "stores-storm",
        "a guest that does nothing but bad stores is shut down after a bounded number of them",
        """
        if [ "$stage" = 1 ]; then
            page=$(t payload 0)
            fact before "$(t store_storm "$page" 2000)"
            text_head "$page" $((page + 4096)) 0
            fact add "$(send_text)"
            fact few "$(t store_storm "$page" 50) $(word 17)"
            sleep 2
            host resetting >/dev/null
            t store_storm "$page" 100000
            sleep 60
        fi
        fact after "$(($(word 15) >> 16 & 0xffff)) $(t run 0)"
        fact shut-down "$(host run "dmesg | grep -c 'nothing but denied fetches or stores'")"
        """,
        {
            "before": "stored",
            "add": "0",
            "few": "trap 14 50",
            "after": "0 ran",
            "shut-down": re.compile("[12] *"),  # the other CPU may come to it, too
        },
        slow=True,
        setting=Setting(kvm="mbecguard_text=enforce", own_guest="stores-storm"),
    ),
    judged(
        "stores-refused",
        "a patch of Linux's own that the host refuses ends its task and later patches, and the host tells where",
        """
        panic_on_oops 0
        mount -t tracefs none /sys/kernel/tracing
        pa=$(t pa "0x$(sed -n 's/ [tT] _text$//p' /proc/kallsyms)")
        text_head "$pa" $((pa + 0x800000)) 0
        fact add "$(send_text)"
        (echo 1 >/sys/kernel/tracing/events/sched/sched_switch/enable; echo armed >/run/armed) &
        sleep 4
        fact armed "$(cat /run/armed 2>/dev/null || echo nothing)"
        fact oops "$(dmesg | grep -c -E 'RIP: 0010:.*(memcpy|text_poke)')"
        fact counted "$(word 17)"
        fact told "$(host run "grep -c '^bad-store unlisted gpa' /sys/kernel/debug/kvm/*/mbecguard")"
        fact alive "$(t run 0) $(usertool run 0)"
        """,
        {
            "add": "0",
            "armed": "nothing",
            "oops": re.compile("[1-9]"),
            "counted": "1",
            "told": re.compile("1 *"),
            "alive": "ran ran",
        },
        cpus=2,
    ),
)
