# SPDX-License-Identifier: GPL-2.0-or-later
"""System management mode: its memory is the firmware's or absent, or there is no seal."""

from __future__ import annotations

import re

from ..machines import BIOS, SECURE
from .scenario import DENIED, EOPNOTSUPP, Scenario, Setting

SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        "smi",
        "without SMM an SMI that a guest sends itself is dropped, sealed or not; guest, QEMU and pin go on",
        """
        fact open $(($(query) >> 48))
        t smi_handler $SMBASE $SMEP >/dev/null
        fact before "$(everywhere smi)"
        fact seal "$(protect "$(t canary 4)" $((RW | IMMUTABLE))) $(t run 4)"
        fact after "$(everywhere smi)"
        fact counted "$([ "$(guarded refused)" -ge 2 ] && echo yes)"
        fact alive "$(everywhere run 5)"
        """,
        {
            "open": "0",
            "before": "not, SMEP 1 to 1",
            "seal": f"0 {DENIED}",
            "after": "not, SMEP 1 to 1",
            "counted": "yes",
            "alive": "ran",
        },
    ),
    Scenario(
        "smm-open",
        "with SMM in plain memory a guest's own handler runs and undoes SMEP: no seal, and a lost pin is the end",
        """
        if [ "$stage" = 1 ]; then
            fact open $(($(query) >> 48))
            fact handler "$(t smi_handler $SMBASE $SMEP) $(t smi)"
            fact deny "$(protect "$(t canary 4)" $RW) $(t run 4)"
            fact seal "$(protect "$(t canary 4)" $((RW | IMMUTABLE))) $(($(query) >> 6 & 3))"
            fact again "$(t smi)"
            fact pin "$(t hypercall 13 4 $SMEP)"
            host resetting >/dev/null
            t smi
            sleep 60
        fi
        fact told "$(logged 'pin lost by RSM')"
        fact clean "$(($(query) >> 6 & 3)) $(t smi_handler $SMBASE $SMEP) $(t smi) $(t run 4)"
        """,
        {
            "open": "1",
            "handler": "written ran, SMEP 1 to 0",
            "deny": f"0 {DENIED}",
            "seal": f"{EOPNOTSUPP} 1",
            "again": "ran, SMEP 1 to 0",
            "pin": "0",
            "told": "1",
            "clean": "0 written ran, SMEP 1 to 0 ran",
        },
        setting=Setting(smm=True),
        slow=True,
    ),
    Scenario(
        "smm-enter",
        "were there a seal with SMM in plain memory, as for a processor that is plugged later: an SMI ends the guest",
        """
        if [ "$stage" = 1 ]; then
            fact handler "$(t smi_handler $SMBASE $SMEP) $(t smi)"
            fact deny "$(protect "$(t canary 4)" $RW) $(t run 4) $(t smi)"
            fact seal "$(protect "$(t canary 4)" $((RW | IMMUTABLE))) $(t run 4) $(t run 5)"
            host resetting >/dev/null
            t smi
            sleep 60
        fi
        fact told "$(logged 'SMI without SMRAM')"
        fact clean "$(($(query) >> 6 & 3)) $(t smi_handler $SMBASE $SMEP) $(t smi) $(t run 4)"
        """,
        {
            "handler": "written ran, SMEP 1 to 0",
            "deny": f"0 {DENIED} ran, SMEP 1 to 0",
            "seal": f"0 {DENIED} ran",
            "told": "1",
            "clean": "0 written ran, SMEP 1 to 0 ran",
        },
        setting=Setting(kvm="mbecg_lie=7", liar=True, smm=True),
        slow=True,
    ),
    Scenario(
        "smm-firmware",
        "firmware with locked SMRAM takes SMIs on all CPUs, sealed or not, and no request is refused because of one",
        """
        fact open $(($(query) >> 48))
        fact locked "$(t bridge $SMRAMC $((D_OPEN | SMRAM)))"
        fact handler "$(t smi_handler $SMBASE 0) $(everywhere smi)"
        # SMIs of the chip set, which all processors take; firmware knows no such command, and comes back at once.
        taskset -c 0 usertool out $APM 255 &
        fact before "$(on 1 churn 2000 "$(t canary 2)" $RW)"
        fact seal "$(protect "$(t canary 4)" $((RW | IMMUTABLE))) $(everywhere run 4)"
        fact after "$(on 1 churn 2000 "$(t canary 2)" $RW)"
        fact taken "$([ "$(on 0 smis)" -ge 20 ] && [ "$(on 1 smis)" -ge 20 ] && echo yes) $(on 0 smis) $(on 1 smis)"
        kill $!
        fact again "$(t smi_handler $SMBASE 0) $(everywhere smi)"
        fact smep "$(everywhere clear_cr 4 $SMEP)"
        fact alive "$(everywhere run 5) $(($(query) >> 48)) $(guarded refused)"
        """,
        {
            "open": "0",
            "locked": "0x1a 0x1a",
            "handler": "kept out not, SMEP 1 to 1",
            "before": "0",
            "seal": f"0 {DENIED}",
            "after": "0",
            "taken": re.compile("yes .*"),
            "again": "kept out not, SMEP 1 to 1",
            "smep": "trap 13",
            "alive": "ran 0 2",
        },
        cpus=2,
        setting=Setting(smm=True, machine=SECURE),
        slow=True,
    ),
    Scenario(
        "smm-unlocked",
        "SeaBIOS leaves SMRAM unlocked: a guest has the host bridge show it, and its own handler runs; so no seal",
        """
        fact open $(($(query) >> 48))
        fact closed "$(t smi_handler $SEGMENT 0)"
        fact opened "$(t bridge $SMRAMC $((D_OPEN | SMRAM))) $(t smi_handler $SEGMENT 0)"
        fact again "$(t bridge $SMRAMC $SMRAM)"
        fact handler "$(t smi)"
        fact deny "$(protect "$(t canary 4)" $RW) $(t run 4)"
        fact seal "$(protect "$(t canary 4)" $((RW | IMMUTABLE))) $(($(query) >> 6 & 3))"
        fact after "$(t smi)"
        """,
        {
            "open": "1",
            "closed": "kept out",
            "opened": "0xa 0x4a written",
            "again": "0x4a 0xa",
            "handler": "ran, SMEP 1 to 1",
            "deny": f"0 {DENIED}",
            "seal": f"{EOPNOTSUPP} 1",
            "after": "ran, SMEP 1 to 1",
        },
        setting=Setting(smm=True, machine=BIOS),
        slow=True,
    ),
)
