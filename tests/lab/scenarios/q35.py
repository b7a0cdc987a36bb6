# SPDX-License-Identifier: GPL-2.0-or-later
"""What a microvm has not: UEFI, DMI, plugged memory and processors, a balloon, S3."""

from __future__ import annotations

from ..layers import Userland
from ..machines import BIOS, UEFI
from .scenario import EPERM, Scenario, Setting, same

#: Words about the machine, for the systemd user space.
WORDS = """
    # COMMAND...: wait until it succeeds, a minute at most.
    await() {
        for _ in $(seq 60); do "$@" && return; sleep 1; done
        return 1
    }

    # VALUE: a new variable of UEFI's gets it; what it then holds.
    variable() {
        mountpoint -q /sys/firmware/efi/efivars || mount -t efivarfs efivarfs /sys/firmware/efi/efivars
        file=/sys/firmware/efi/efivars/Lab$1-6d1b3a52-2d6a-4f0e-8f8c-0d6f3c1f2a11
        printf '\\007\\0\\0\\0%s' "$1" >$file
        tr -cd a-z <$file
    }

    memory_is() {
        [ "$(ls -d /sys/devices/system/memory/memory* | wc -l)" = "$1" ]
    }

    # NAME: 128 MiB are plugged in, and used.
    plug_memory() {
        blocks=$(ls -d /sys/devices/system/memory/memory* | wc -l)
        monitor "object_add memory-backend-ram,id=m$1,size=128M"
        monitor "device_add pc-dimm,id=$1,memdev=m$1"
        await memory_is $((blocks + 1))
        for block in /sys/devices/system/memory/memory*; do
            grep -q online $block/state || echo online >$block/state
        done
        MIB=$((MIB + 128))
    }

    # NUMBER: this processor is plugged in, and used.
    plug_processor() {
        monitor "device_add host-x86_64-cpu,id=cpu$1,socket-id=0,core-id=$1,thread-id=0"
        online=/sys/devices/system/cpu/cpu$1/online
        await test -e $online
        grep -q 1 $online || echo 1 >$online
        taskset -c "$1" cat $online
    }

    # OPERATOR KIB
    memory_total() {
        [ "$(sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo)" "$@" ]
    }

    # The balloon takes 64 MiB and gives them back; a page of them.
    breathe() {
        total=$(sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo)
        monitor "balloon $((MIB - 64))"
        await memory_total -le $((total - 65536))
        place ballooned >/dev/null
        monitor "balloon $MIB"
        await memory_total -ge "$total"
        place returned
    }

    # Sleep as S3 does, or be refused.
    nap() {
        wake_up
        if echo mem >/sys/power/state; then echo slept; else echo refused; fi
    }

    MIB=768
"""

TRIES = """
    fact efi-data-$when "$(t frame "$(place efi-data)")"
    fact dmi-$when "$(t frame "$(place dmi)")"
    fact device-$when "$(t frame "$(place device)")"
    plug_memory $when
    fact plugged-$when "$(t frame "$(place plugged)")"
    fact balloon-$when "$(t frame "$(breathe)")"
"""
PLACES = "efi-data dmi device plugged balloon"


def _after(names: str, when: str) -> str:
    return " ".join(f"{name}-{when}" for name in names.split())


SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        "s3-register",
        "the chip set sleeps although S3 is not offered, and firmware wakes it up in a sealed page: that is a reset",
        """
        if [ "$stage" = 1 ]; then
            fact offered "$(dmesg | grep -c 'ACPI: PM: (supports.* S3')"
            fact before "$(t woken)"
            fact seal "$(protect $WAKE $((RW | IMMUTABLE))) $(protect $WAKE $RWX) $(($(query) >> 6 & 3))"
            wake_up
            host resetting >/dev/null
            t suspend
        fi
        fact after "$(t woken) $(($(query) >> 6 & 3)) $(t run 0)"
        """,
        {
            "offered": "0",
            "before": "not",
            "seal": f"0 {EPERM} 3",
            "after": "ran 0 ran",
        },
        setting=Setting(machine=BIOS),
        slow=True,
    ),
    Scenario(
        "q35",
        "a UEFI guest goes on using its firmware; code in memory of firmware, devices, slots and the balloon dies",
        WORDS
        + f"""
        panic_on_oops 0
        fact variable-before "$(variable before)"
        when=before
        {TRIES}
        fact smep-before "$(everywhere clear_cr 4 $SMEP)"
        fact processor-before "$(plug_processor 1)"
        fact check "$(agent check --json) $(blockers)"
        fact lock "$(agent lock --json) $(field state)"
        fact sealed "$(agent status --json) $(field state) $(guarded sealed)"
        denied=$(guarded violations)
        fact variable-after "$(variable after)"
        fact processor-after "$(plug_processor 2) $(on 2 run 0)"
        fact smep-after "$(everywhere clear_cr 4 $SMEP)"
        fact nap-after "$(nap) $(dmesg | grep -c 'sleep refused: this guest is sealed')"
        fact denied $(($(guarded violations) - denied))
        when=after
        {TRIES}
        fact counted $(($(guarded violations) - denied))
        fact neighbour "$(t run 0) $(usertool run 0) $(works sh -c 'for i in $(seq 20); do /bin/true || exit 1; done')"
        fact state "$(agent status)"
        list=$(python3 -c "print(hex($(address_of pm_chain_head) + 40))") # behind the semaphore
        t poke "$list" 0 8
        fact nap-by-data "$(nap) $(guarded sealed)"
        fact told "$(agent status --json) $(field state)"
        fact open "$(t frame "$(place dmi)")"
        """,
        {
            "variable-before": "before",
            **same(_after(PLACES, "before"), "ran"),
            "smep-before": "cleared",
            "processor-before": "1",
            "check": "0 0",
            "lock": "0 sealed",
            "sealed": "0 sealed 1",
            "variable-after": "after",
            "processor-after": "1 ran",
            "smep-after": "trap 13",
            "nap-after": "refused 1",
            "denied": "0",
            **same(_after(PLACES, "after"), "died"),
            "counted": str(len(PLACES.split())),
            "neighbour": "ran ran done",
            "state": "0",
            "nap-by-data": "slept 0",
            "told": "4 degraded",
            "open": "ran",
        },
        userland=Userland.SYSTEMD,
        setting=Setting(machine=UEFI),
        slow=True,
    ),
)
