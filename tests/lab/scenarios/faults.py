# SPDX-License-Identifier: GPL-2.0-or-later
"""Denied fetches: which ones, and what the guest gets."""

from __future__ import annotations

import re

from ..verdict import Expected
from .scenario import DENIED, Scenario

#: A 2 MiB block, of which one page is denied, then all.
HUGE = """
    panic_on_oops 0
    pa=$(t huge)
    fact runs "$(t huge_run 0) $(t huge_run 511)"
    before=$(counted pages_2m)
    fact one "$(protect $((pa + 4096 * 7)) $RW)"
    fact around "$(t huge_run 6) $(t huge_run 8)"
    fact inside "$(t huge_run 7)"
    fact split $((before - $(counted pages_2m)))
    fact every "$(protect "$pa" $RW 512)"
    fact last "$(t huge_run 511)"
    t huge_touch
    fact uniform $((before - $(counted pages_2m)))
    fact granted "$(protect "$pa" $RWX 512) $(t huge_run 7)"
    fact whole $((before - $(counted pages_2m)))
    panic_on_oops 1
    """
HUGE_TELLS: Expected = {
    "runs": "ran ran",
    "one": "0",
    "around": "ran ran",
    "inside": "died",
    "split": "1",
    "every": "0",
    "last": "died",
    "uniform": "0",
    "granted": "0 ran",
    "whole": re.compile("0|-1"),  # the guest may have come to use one more
}

SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        "canary",
        "a denied page faults in kernel mode alone, and runs again when granted back",
        """
        pa=$(t canary 0)
        fact before "$(t run 0)"
        fact deny "$(protect "$pa" $RW)"
        fact denied "$(t run 0)"
        fact everywhere "$(everywhere run 0)"
        fact user "$(usertool run 0)"
        fact neighbour "$(t run 1)"
        fact equal "$(protect "$pa" $RW)"
        fact grant "$(protect "$pa" $RWX)"
        fact granted "$(everywhere run 0)"
        """,
        {
            "before": "ran",
            "deny": "0",
            "denied": DENIED,
            "everywhere": DENIED,
            "user": "ran",
            "neighbour": "ran",
            "equal": "0",
            "grant": "0",
            "granted": "ran",
        },
    ),
    Scenario(
        "huge",
        "4 KiB denied inside 2 MiB are denied, and a uniform 2 MiB region stays one EPT entry",
        HUGE,
        HUGE_TELLS,
    ),
    Scenario(
        "race",
        "while one CPU runs a page, another denies and grants it: nothing runs once a denial has returned",
        """
        fact rounds "$(t race 6 300)"
        """,
        {"rounds": re.compile("ran [1-9][0-9]* denied [1-9][0-9]* late 0")},
    ),
    Scenario(
        "oops",
        "a fetch that nothing catches is a clean oops with the right address and error code 0x10",
        """
        panic_on_oops 0
        protect "$(t canary 3)" $RW >/dev/null
        dmesg -c >/dev/null
        fact thread "$(t oops 3)"
        fact fetch "$(dmesg | grep -c '#PF: supervisor instruction fetch in kernel mode')"
        fact code "$(dmesg | grep -c '#PF: error_code(0x0010)')"
        fact rip "$(dmesg | grep -o 'RIP: 0010:canary_3+0x4' | head -1)"
        fact address "$(dmesg | sed -n 's/.*page fault for address: //p' | head -1)"
        fact granted "$(protect "$(t canary 3)" $RWX) $(t run 3)"
        panic_on_oops 1
        """,
        {
            "thread": "died",
            "fetch": "1",
            "code": "1",
            "rip": "RIP: 0010:canary_3+0x4",
            "address": re.compile("[0-9a-f]+004"),
            "granted": "0 ran",
        },
    ),
    Scenario(
        "traced",
        "the host's tracepoint of EPT entries tells kernel and user execute apart, before and after a page is denied",
        """
        trace=/sys/kernel/tracing
        gfn=$(($(t canary 4) >> 12))
        # The page by itself, or inside 2 MiB, as the host's memory has it.
        small=$(printf 'gfn %x spte [0-9a-f]* (.*) level 1 ' $gfn)
        large=$(printf 'gfn %x spte [0-9a-f]* (.*) level 2 ' $((gfn & ~511)))
        entry() {
            found="grep -o -e 'kvm_mmu_set_spte: $small' -e 'kvm_mmu_set_spte: $large' $trace/trace | tail -n 1"
            host run "$found | cut -d '(' -f 2 | cut -d ')' -f 1"
        }
        host run "mount -t tracefs trace $trace; echo 1 >$trace/events/kvmmmu/kvm_mmu_set_spte/enable" >/dev/null
        # A denial takes a bit of the entry, and makes none; a switch of KVM's has all of them made again.
        anew() { host run "for it in off force auto; do echo \\$it >/sys/module/kvm/parameters/nx_huge_pages; done"; }
        fact denied "$(protect "$(t canary 4)" $RW)"
        fact before "$(protect "$(t canary 4)" $RWX) $(t run 4) $(entry)"
        fact after "$(protect "$(t canary 4)" $RW) $(anew)$(t run 4) $(usertool run 4) $(entry)"
        fact granted "$(protect "$(t canary 4)" $RWX) $(t run 4)"
        """,
        # Linux 7.2 has one letter for both x and u of older ones; patches/6.12-mbec.patch has X and x.
        {
            "denied": "0",
            "before": re.compile("0 ran rw(xu|Xxu) *"),
            "after": re.compile(f"0 {re.escape(DENIED)} ran rw-(u|xu) *"),
            "granted": "0 ran",
        },
    ),
    Scenario(
        "straddle",
        "an instruction on two pages, the second denied: CR2 is that page, RIP the instruction",
        """
        pa=$(t pair 0)
        fact before "$(t pair_run 0) $(t pair_run 1)"
        fact deny "$(protect "$pa" $RW)"
        fact denied "$(t pair_run 0)"
        fact neighbour "$(t pair_run 1)"
        fact grant "$(protect "$pa" $RWX) $(t pair_run 0)"
        """,
        {
            "before": "ran ran",
            "deny": "0",
            "denied": "trap 14 cr2 second+0",
            "neighbour": "ran",
            "grant": "0 ran",
        },
    ),
    Scenario(
        "emulator",
        "KVM's emulator does not fetch from a denied page either: what it is forced to emulate is an invalid opcode",
        """
        prefix() { host run "echo $1 >/sys/module/kvm/parameters/force_emulation_prefix" >/dev/null; }
        pa=$(t pair 2)
        fact native "$(t pair_run 2)"
        prefix 1
        fact before "$(t pair_run 2) $(t pair_run 3)"
        fact deny "$(protect "$pa" $RW)"
        fact denied "$(t pair_run 2)"
        fact violation "$(host run "tail -n 1 /sys/kernel/debug/kvm/*/mbecguard")"
        fact neighbour "$(t pair_run 3)"
        fact grant "$(protect "$pa" $RWX) $(t pair_run 2)"
        prefix 0
        """,
        {
            "native": "not emulated",
            "before": "ran ran",
            "deny": "0",
            "denied": "trap 6",
            "violation": re.compile("violation vcpu [01] gpa [0-9a-f]+000 va [0-9a-f]+000 error 10"),
            "neighbour": "ran",
            "grant": "0 ran",
        },
    ),
    Scenario(
        "dirty-log",
        "denied pages stay denied when KVM splits their large pages, for migration and for its iTLB mitigation",
        """
        panic_on_oops 0
        pa=$(t huge)
        fact before "$(t huge_run 3)"
        fact deny "$(protect "$pa" $RW 512)"
        host run 'echo force >/sys/module/kvm/parameters/nx_huge_pages' >/dev/null
        t huge_touch
        large=$(counted pages_2m)
        fact denied "$(t huge_run 3)"
        monitor migrate_set_parameter max-bandwidth 1k
        monitor migrate -d '"exec:cat >/dev/null"'
        sleep 2
        t huge_touch
        fact logging "$([ "$(counted pages_2m)" -lt "$large" ] && echo yes)"
        fact logged "$(t huge_run 3) $(t run 0)"
        fact granted "$(protect "$pa" $RWX 512) $(t huge_run 3)"
        fact again "$(protect "$pa" $RW 512) $(t huge_run 3)"
        monitor migrate_cancel
        sleep 2
        t huge_touch
        fact cancelled "$(t huge_run 3)"
        host run 'echo off >/sys/module/kvm/parameters/nx_huge_pages' >/dev/null
        fact after "$(t huge_run 3) $(protect "$pa" $RWX 512) $(t huge_run 3)"
        panic_on_oops 1
        """,
        {
            "before": "ran",
            "deny": "0",
            "denied": "died",
            "logging": "yes",
            "logged": "died ran",
            "granted": "0 ran",
            "again": "0 died",
            "cancelled": "died",
            "after": "died 0 ran",
        },
    ),
)
