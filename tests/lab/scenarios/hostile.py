# SPDX-License-Identifier: GPL-2.0-or-later
"""What a hostile guest tries: the host stays alive, and so does the protection."""

from __future__ import annotations

import re

from ..layers import Host
from .scenario import DENIED, Scenario, same

PARTS = 20


def _fuzz(name: str, calls: int, *, slow: bool = False) -> Scenario:
    return Scenario(
        name,
        f"{calls:_} random hypercalls leave guest and host alive, and the host's memory where it was".replace("_", " "),
        f"""
        add() {{ accepted=$((accepted + $2)) refused=$((refused + $4)) trapped=$((trapped + $6)); }}
        accepted=0 refused=0 trapped=0
        before=$(free_memory)
        # Many wait for a grace period of the host's RCU: on 6.12 all together longer than a guest may say nothing.
        for part in $(seq {PARTS}); do
            add $(t fuzz $part {calls // PARTS})
            fact part-$part "$trapped"
        done
        fact calls "accepted $accepted refused $refused trapped $trapped"
        grown=$(((before - $(free_memory)) / 1024))
        fact grown-mib $grown
        fact bounded "$([ $grown -lt 16 ] && echo yes)"
        pa=$(t canary 6)
        fact alive "$(t run 6) $(protect "$pa" $RW) $(t run 6) $(protect "$pa" $RWX) $(t run 6)"
        """,
        {
            "calls": re.compile("accepted [1-9][0-9]* refused [1-9][0-9]* trapped 0"),
            "bounded": "yes",
            "alive": f"ran 0 {DENIED} 0 ran",
        },
        frozenset({Host.OURS, Host.UNENFORCED}),
        {Host.UNENFORCED: {"alive": "ran 0 ran 0 ran"}},
        slow=slow,
    )


SCENARIOS: tuple[Scenario, ...] = (
    _fuzz("fuzz", 100_000),
    _fuzz("fuzz-million", 1_000_000, slow=True),
    Scenario(
        "churn",
        "3000 requests that change a nearly full map leave the host's memory where it was",
        """
        t many 43264 $HOLE 0x2000 0x1000 $RW
        send >/dev/null
        t many 22200 $((HOLE + 0x20000000)) 0x2000 0x1000 $RW
        fact full "$(send) $(guarded boundaries)"
        before=$(free_memory)
        # Each waits for a grace period of the host's RCU: together longer than a guest may say nothing.
        for round in 1 2 3 4 5 6; do
            fact refused-$round "$(t churn 500 $((HOLE + 0x40000000)) $RW)"
        done
        grown=$(((before - $(free_memory)) / 1024))
        fact grown-mib $grown
        fact bounded "$([ $grown -lt 8 ] && echo yes)"
        fact emptied "$(protect $HOLE $RWX 262144) $(guarded boundaries)"
        """,
        {
            "full": re.compile("0 1309[0-9]{2}"),
            **same("refused-1 refused-2 refused-3 refused-4 refused-5 refused-6", "0"),
            "bounded": "yes",
            "emptied": re.compile("0 [0-9]"),
        },
        slow=True,
    ),
    Scenario(
        "flood",
        "100 000 requests that change a small map leave the host's memory where it was",
        """
        refused=0
        before=$(free_memory)
        for round in $(seq 200); do
            refused=$((refused + $(t churn 500 $HOLE $RW)))
            host run true >/dev/null
        done
        grown=$(((before - $(free_memory)) / 1024))
        fact grown-mib $grown
        fact bounded "$refused $([ $grown -lt 8 ] && echo yes)"
        fact emptied "$(protect $HOLE $RWX) $(guarded boundaries)"
        """,
        {"bounded": "0 yes", "emptied": "0 0"},
        frozenset({Host.OURS, Host.UNENFORCED}),
        slow=True,
    ),
    Scenario(
        "storm",
        "a guest that denies its own page-fault handler is shut down after a bounded number of faults",
        """
        if [ "$stage" = 1 ]; then
            sleep 6 # the host's log is silent about earlier denials
            fact before "$(t run 1) $(logged 'nothing but denied fetches')"
            host resetting >/dev/null
            protect "$(page_of asm_exc_page_fault)" $RW
            sleep 60
        fi
        fact clean $(($(query) >> 6 & 3))
        fact shut-down "$(logged 'nothing but denied fetches')"
        sleep 6
        fact alive "$(t run 1) $(protect "$(t canary 1)" $RW) $(t run 1) $(protect "$(t canary 1)" $RWX) $(t run 1)"
        suppressed=$(host run "dmesg | grep 'mbecg_violation: .* suppressed' | tail -n 1")
        fact denials "$(echo "$suppressed" | grep -o '[0-9]* callbacks')"
        """,
        {
            "before": "ran 0",
            "clean": "0",
            "shut-down": re.compile("[12]"),  # the other CPU may come to it, too
            "alive": f"ran 0 {DENIED} 0 ran",
            "denials": re.compile("[1-9][0-9]{2} callbacks"),
        },
    ),
    Scenario(
        "init",
        "an INIT of the boot processor shuts a sealed guest down; without a seal it starts the firmware",
        """
        log='INIT of the boot processor of a sealed guest'
        permissions=$RW
        case $stage in
        1) host run 'dmesg -c >/dev/null' >/dev/null ;;
        2) permissions=$((RW | IMMUTABLE)) ;;
        3) permissions='' ;;
        esac
        fact clean-$stage $(($(query) >> 6 & 3))
        fact shut-down-$stage "$(logged "$log")"
        if [ "$permissions" ]; then
            fact canary-$stage "$(t run 2) $(protect "$(t canary 2)" "$permissions") $(t run 2)"
            host resetting >/dev/null
            t init 0
            sleep 60
        fi
        fact after "$(t run 2)"
        """,
        {
            "shut-down-1": "0",
            "canary-1": f"ran 0 {DENIED}",
            "clean-2": "0",
            "shut-down-2": "0",
            "canary-2": f"ran 0 {DENIED}",
            "clean-3": "0",
            "shut-down-3": "1",
            "after": "ran",
        },
        slow=True,
    ),
)
