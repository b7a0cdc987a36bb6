# SPDX-License-Identifier: GPL-2.0-or-later
"""What a microvm has not: S3."""

from __future__ import annotations

from ..machines import BIOS
from .scenario import EPERM, Scenario, Setting

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
)
