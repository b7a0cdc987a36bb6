# SPDX-License-Identifier: GPL-2.0-or-later
"""What a seal forbids, and what ends it."""

from __future__ import annotations

import re

from ..layers import BOCHS_QUIRKS
from ..verdict import Expected
from .scenario import DENIED, EPERM, Scenario, Setting


def _resets(times: int) -> tuple[str, Expected]:
    """Seal a page, reset, and so on; in the last stage as in the first."""
    script = f"""
        fact clean-$stage $(($(query) >> 6 & 3))
        fact canary-$stage "$(t run 7) $(protect "$(t canary 7)" $((RW | IMMUTABLE))) $(t run 7)"
        [ "$stage" -gt {times} ] || reset
        """
    stages = range(1, times + 2)
    sealed = {f"canary-{stage}": f"ran 0 {DENIED}" for stage in stages}
    return script, sealed | {f"clean-{stage}": "0" for stage in stages if stage > 1}


SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        "seal",
        "an immutable page answers EPERM to every change, 0 to an equal request; SMEP cannot be cleared any more",
        """
        pa=$(t canary 4) other=$(t canary 5)
        fact smep-before "$(everywhere clear_cr 4 $SMEP)"
        fact ret2usr-before "$(usertool attack call_user)"
        fact seal "$(protect "$pa" $((RW | IMMUTABLE)))"
        fact denied "$(t run 4)"
        fact user "$(usertool run 4)"
        fact equal "$(protect "$pa" $((RW | IMMUTABLE)))"
        fact grant "$(protect "$pa" $RWX)"
        fact grant-immutable "$(protect "$pa" $((RWX | IMMUTABLE)))"
        fact loosen "$(protect "$pa" $RW)"
        t wipe
        t entry 0 "$other" $((other + 4096)) $RW
        t entry 0 "$pa" $((pa + 4096)) $RWX
        fact mixed "$(send) $(t run 5)"
        fact still-denied "$(everywhere run 4)"
        fact smep-after "$(everywhere clear_cr 4 $SMEP)"
        fact ret2usr-after "$(usertool attack call_user)"
        fact others "$(everywhere clear_cr 4 $SMAP) $(everywhere clear_cr 0 $WP)"
        exits=$(counted exits)
        fact wp-toggled "$(t toggle_wp 20000)"
        fact wp-free "$([ $(($(counted exits) - exits)) -lt 10000 ] && echo yes)"
        fact pin "$(t hypercall 13 4 $SMEP) $(t hypercall 13 0 $WP) $(t hypercall 13 4 $SMAP)"
        fact wp-after-pin "$(everywhere clear_cr 0 $WP)"
        fact smap-after-pin "$(everywhere clear_cr 4 $SMAP)"
        fact no-pin "$(everywhere write_cr 4 0 0)"
        """,
        {
            "smep-before": "cleared",
            "ret2usr-before": "ran, 0 ran, neighbour ran, 0 ran",
            "seal": "0",
            "denied": DENIED,
            "user": "ran",
            "equal": "0",
            "grant": EPERM,
            "grant-immutable": EPERM,
            "loosen": EPERM,
            "mixed": f"{EPERM} ran",
            "still-denied": DENIED,
            "smep-after": "trap 13",
            "ret2usr-after": "trap 13, 0 trap 13, neighbour trap 13, 0 trap 13",
            "others": "cleared cleared",
            "wp-toggled": "done",
            "wp-free": "yes",
            "pin": "0 0 0",
            "wp-after-pin": "trap 13",
            "smap-after-pin": "trap 13",
            "no-pin": "unchanged",
        },
    ),
    Scenario(
        "bits",
        "each bit of CR0, CR4 and EFER is flipped: a denied page runs with none of them, its neighbour as before",
        """
        flips() {
            echo "$(t flips 0 "$1") $(t flips 4 "$1") $(t flips $EFER "$1")"
        }
        open=$(flips 6)
        fact open "$open"
        fact deny "$(protect "$(t canary 6)" $((RW | IMMUTABLE)))"
        denied=$(flips 6) neighbour=$(flips 5)
        fact denied "$denied"
        fact neighbour "$neighbour"
        fact both "$([ "$denied" = "$(echo "$neighbour" | tr R d)" ] && echo alike)"
        """,
        {
            "open": re.compile("([Gs-]*R+){4}.*"),
            "deny": "0",
            "denied": re.compile("[Gds -]{33}.{20}G[Gds -]+"),  # bit 20 of CR4: SMEP
            "neighbour": re.compile(".*R.*"),
            "both": "alike",
        },
    ),
    Scenario(
        "moved",
        "a sealed guest that is saved and goes on elsewhere is open there, and told so; it can be sealed again",
        """
        pa=$(t canary 4)
        fact sealed "$(protect "$pa" $((RW | IMMUTABLE))) $(t run 4) $(everywhere clear_cr 4 $SMEP)"
        before=$(query)
        fact state-before $((before >> 6 & 3))
        move
        after=$(query)
        fact state-after $((after >> 6 & 3))
        fact generation "$([ $((before >> 16 & 0xffffffff)) = $((after >> 16 & 0xffffffff)) ] || echo another)"
        fact open "$(t run 4) $(everywhere clear_cr 4 $SMEP) $(usertool run 4)"
        fact again "$(protect "$pa" $((RW | IMMUTABLE))) $(t run 4) $(everywhere clear_cr 4 $SMEP)"
        """,
        {
            "sealed": f"0 {DENIED} trap 13",
            "state-before": "3",
            "state-after": "0",
            "generation": "another",
            "open": "ran cleared ran",
            "again": f"0 {DENIED} trap 13",
        },
        setting=Setting(own_guest="moved"),
    ),
    Scenario(
        "moved-away",
        "a sealed guest that is saved and goes on with a KVM that has the mode off gets no answer there, and is open",
        """
        fact sealed "$(protect "$(t canary 4)" $((RW | IMMUTABLE))) $(t run 4)"
        move "rmmod kvm_intel kvm; insmod /modules/kvm.ko mbecguard=off; insmod /modules/kvm_intel.ko $QUIRKS"
        fact mode "$(host run cat /sys/module/kvm/parameters/mbecguard)"
        fact answer "$(query) $(protect "$(t canary 4)" $RWX)"
        fact open "$(t run 4) $(usertool run 4)"
        """.replace("$QUIRKS", BOCHS_QUIRKS),
        {
            "sealed": f"0 {DENIED}",
            "mode": re.compile("off *"),
            "answer": "-1000 -1000",
            "open": "ran ran",
        },
        slow=True,
        setting=Setting(own_guest="moved-away", kvm="mbecguard=enforce"),
    ),
    Scenario("reset", "after a reset the next kernel boots, and nothing of the sealed map is left", *_resets(1)),
    Scenario("resets", "the same, ten times in a row", *_resets(10), slow=True),
)
