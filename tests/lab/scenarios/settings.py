# SPDX-License-Identifier: GPL-2.0-or-later
"""Other hosts: audit mode, no MBEC, no EPT, a guest that sees VMX. Each has a guest of its own."""

from __future__ import annotations

import re

from .faults import HUGE, HUGE_TELLS
from .scenario import DENIED, EOPNOTSUPP, EPERM, Scenario, Setting

WITHOUT = """
    fact parameter "$(host run 'cat /sys/module/kvm_intel/parameters/{parameter}')"
    fact query "$(query)"
    fact empty "$(t hypercall 14 0 0)"
    fact deny "$(protect "$(t canary 0)" $RW)"
    fact seal "$(protect "$(t canary 0)" $((RW | IMMUTABLE)))"
    fact pin "$(t hypercall 13 4 $SMEP)"
    fact runs "$(everywhere run 0)"
    fact user "$(usertool run 0)"
    """
REFUSED = {
    "parameter": "N",
    **dict.fromkeys(("query", "empty", "deny", "seal"), EOPNOTSUPP),
    "runs": "ran",
    "user": "ran",
}

SEAL = """
    fact sealed "$(t run 4) $(protect "$(t canary 4)" $((RW | IMMUTABLE))) $(t run 4) $(usertool run 4) $(t run 5)"
    fact undo "$(protect "$(t canary 4)" $RWX) $(t run 4)"
    """
SEAL_TELLS = {"sealed": f"ran 0 {DENIED} ran ran", "undo": f"{EPERM} {DENIED}"}

SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        "audit",
        "in mode audit a guest whose memory is all denied lives on; pages are counted and granted up to a bound",
        """
        fact selftest "$(logged 'self-test passed')"
        fact mode $(($(query) >> 4 & 3))
        fact before "$(t run 0) $(guarded violations) $(guarded granted)"
        fact deny "$(protect 0 $RW $((1 << 20)))"
        fact restricted $(($(query) >> 6 & 3))
        fact runs "$(t run 0) $(t run 1) $(usertool run 0)"
        granted=$(guarded granted)
        fact granted "$granted"
        fact wander "$(t wander 5000)"
        fact bound "$(guarded granted)"
        violations=$(guarded violations)
        fact more "$(t wander 5000) $(t run 2)"
        fact unlogged $(($(guarded violations) - violations))
        """,
        {
            "selftest": re.compile("[1-9]"),
            "mode": "2",
            "before": "ran 0 0",
            "deny": "0",
            "restricted": "1",
            "runs": "ran ran ran",
            "granted": re.compile("[1-9][0-9]{2,3}"),
            "wander": "ran",
            "bound": re.compile("409[78]"),
            "more": "ran ran",
            "unlogged": "0",
        },
        setting=Setting(kvm="mbecguard=audit mbecguard_selftest=1"),
    ),
    Scenario(
        "without-mbec",
        "a host without MBEC refuses, and leaves the guest as it was",
        WITHOUT.format(parameter="mbec"),
        REFUSED,
        setting=Setting(kvm_intel="mbec=0"),
    ),
    Scenario(
        "without-ept",
        "a host without EPT refuses, pins as well, and leaves the guest as it was",
        WITHOUT.format(parameter="ept"),
        REFUSED | {"pin": EOPNOTSUPP},
        setting=Setting(kvm_intel="ept=0"),
        slow=True,
    ),
    Scenario(
        "without-eptad",
        "a host of 6.12 without EPT's accessed and dirty bits has no room to save bit 10: no MBEC, and it refuses",
        """
        fact eptad "$(host run 'cat /sys/module/kvm_intel/parameters/eptad')"
        """
        + WITHOUT.format(parameter="mbec"),
        {"eptad": "N", **REFUSED},
        setting=Setting(kvm_intel="eptad=0"),
        slow=True,
    ),
    Scenario(
        "eptad-off",
        "a host of 7.2 without EPT's accessed and dirty bits: the same 2 MiB, and a seal",
        """
        fact parameters "$(host run 'cd /sys/module/kvm_intel/parameters; cat eptad mbec')"
        """
        + HUGE
        + SEAL,
        {"parameters": re.compile("N Y *"), **HUGE_TELLS, **SEAL_TELLS},
        setting=Setting(kvm_intel="eptad=0"),
        slow=True,
    ),
    Scenario(
        "old-mmu",
        "the same 2 MiB on a host without the TDP MMU, and a seal",
        """
        fact parameter "$(host run 'cat /sys/module/kvm/parameters/tdp_mmu')"
        """
        + HUGE
        + SEAL,
        {"parameter": "N", **HUGE_TELLS, **SEAL_TELLS},
        slow=True,
        setting=Setting(kvm="tdp_mmu=0"),
    ),
    Scenario(
        "hugetlb",
        "the same 2 MiB, in a guest whose memory the host has in huge pages, and a seal",
        """
        fact used "$(host run "grep -c '^HugePages_Free: *0$' /proc/meminfo")"
        """
        + HUGE
        + SEAL,
        {"used": "1", **HUGE_TELLS, **SEAL_TELLS},
        slow=True,
        setting=Setting(hugetlb=True),
    ),
    Scenario(
        "vmx",
        "a guest with VMX switched on is refused; once sealed, it cannot switch it on",
        """
        pa=$(t canary 0)
        fact sees "$(grep -c -w -m 1 vmx /proc/cpuinfo)"
        fact before "$(protect "$pa" $RW) $(t run 0) $(protect "$pa" $RWX) $(t run 0)"
        fact on "$(on 0 write_cr 4 0 $VMXE)"
        fact refused "$(protect "$pa" $RW) $(query) $(t run 0)"
        fact off "$(on 0 write_cr 4 $VMXE 0)"
        fact seal "$(protect "$pa" $((RW | IMMUTABLE))) $(t run 0)"
        fact sealed "$(everywhere write_cr 4 0 $VMXE)"
        fact neighbour "$(t run 1)"
        """,
        {
            "sees": "1",
            "before": f"0 {DENIED} 0 ran",
            "on": "changed",
            "refused": f"{EOPNOTSUPP} {EOPNOTSUPP} ran",
            "off": "changed",
            "seal": f"0 {DENIED}",
            "sealed": "trap 13",
            "neighbour": "ran",
        },
        setting=Setting(cpu="host"),
    ),
    Scenario(
        "late-vmxe",
        "VMX switched on by another CPU while a long request seals is found behind the seal, and is the end",
        """
        case $stage in
        1)
            t many 43264 $HOLE 0x2000 0x1000 $RW
            fact calm "$(send)"
            reset
            ;;
        2)
            fact clean "$(($(query) >> 6 & 3))"
            t many 43264 $HOLE 0x2000 0x1000 $((RW | IMMUTABLE))
            host resetting >/dev/null
            on 0 late_vmxe
            sleep 60
            ;;
        esac
        fact told "$(logged 'late change of CR4 of a sealed guest') $(($(query) >> 6 & 3))"
        """,
        {"calm": "0", "clean": "0", "told": "1 0"},
        cpus=2,
        slow=True,
        setting=Setting(cpu="host"),
    ),
)
