# SPDX-License-Identifier: GPL-2.0-or-later
"""The hypercalls: what they answer to good and to bad requests."""

from __future__ import annotations

import hashlib
import re

from ..attacks import expected, tried
from ..layers import Host
from .scenario import ALL_HOSTS, DENIED, E2BIG, EFAULT, EINVAL, ENOSYS, EOPNOTSUPP, EPERM, Scenario, Setting, same

SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        "query",
        "the guest boots and the query answers; a host without support says so",
        """
        fact answer "$(query)"
        fact empty "$(t hypercall 14 0 0)"
        fact unknown "$(t hypercall 4242 0 0)"
        fact from-user "$(usertool hypercall 14 0 0 || echo killed)"
        """,
        {"answer": re.compile("[1-9][0-9]*"), "empty": "0", "unknown": ENOSYS, "from-user": EPERM},
        ALL_HOSTS,
        {
            Host.STOCK: {"answer": ENOSYS, "empty": ENOSYS},
            Host.PLAIN: same("answer empty unknown", "trap 6") | {"from-user": "killed"},
        },
    ),
    Scenario(
        "tools",
        "as long as nothing is denied, everything that the test module tries runs",
        f"""
        fact canaries "$(t run 0) $(t run 7)"
        fact everywhere "$(everywhere run 3)"
        fact user "$(usertool run 1)"
        fact thread "$(t oops 2)"
        fact block "$(t huge_run 0) $(t huge_run 511)"
        fact pairs "$(t pair_run 0) $(t pair_run 1)"
        fact payloads "$(t payload_run 1) $(t payload_run 3)"
        {tried("before")}
        fact smep "$(everywhere clear_cr 4 $SMEP)"
        fact wp "$(everywhere clear_cr 0 $WP)"
        """,
        same("everywhere user thread", "ran")
        | same("canaries block pairs payloads", "ran ran")
        | same("smep wp", "cleared")
        | expected("before"),
        ALL_HOSTS,
    ),
    Scenario(
        "malformed",
        "lists that break the contract get its errors, and the map stays as it was",
        """
        pa=$(t canary 1)
        protect "$pa" $RW >/dev/null
        before=$(query)
        end=$((pa + 4096))
        fact list-unaligned "$(t hypercall 14 $(($(t page 0) + 8)) 0)"
        fact list-in-mmio "$(t hypercall 14 0xfeb00000 0)"
        fact list-in-hole "$(t hypercall 14 $HOLE 0)"
        fact list-beyond "$(t hypercall 14 0xfffffffffffff000 0)"
        refused pa-unaligned $((pa + 1)) $end $RWX
        refused epa-unaligned "$pa" $((end + 8)) $RWX
        refused empty "$pa" "$pa" $RWX
        refused inverted $end "$pa" $RWX
        refused beyond 0 $((1 << 52)) $RWX
        refused no-bits "$pa" $end 0
        refused unknown-bit "$pa" $end 23
        refused high-bit "$pa" $end 0x8000000000000007
        for count in 0 170 0x100000000 0xffffffffffffffff; do
            t wipe
            t entry 0 "$pa" $end $RWX
            t set 0 2 $count
            fact npages-$count "$(send)"
        done
        t wipe
        t entry 0 "$pa" $end $RWX
        t set 0 1 "$(t page 0)"
        fact cycle "$(send)"
        t entry 1 "$pa" $end $RWX
        t set 0 1 "$(t page 1)"
        t set 1 1 "$(t page 0)"
        fact cycle-of-two "$(send)"
        t set 1 1 $(($(t page 0) + 8))
        fact next-unaligned "$(send)"
        t set 1 1 $HOLE
        fact next-in-hole "$(send)"
        t wipe
        t entry 0 "$pa" $end $RWX
        t entry 0 "$pa" $end 0
        fact last-of-two "$(send)"
        fact unchanged "$([ "$(query)" = "$before" ] && echo yes || echo "$before $(query)")"
        fact denied "$(t run 1)"
        fact granted "$(protect "$pa" $RWX) $(t run 1)"
        """,
        same("list-unaligned pa-unaligned epa-unaligned empty inverted beyond no-bits unknown-bit high-bit", EINVAL)
        | same("npages-0 npages-170 npages-0x100000000 npages-0xffffffffffffffff", EINVAL)
        | same("next-unaligned last-of-two", EINVAL)
        | same("list-in-mmio list-in-hole list-beyond next-in-hole", EFAULT)
        | same("cycle cycle-of-two", E2BIG)
        | {"unchanged": "yes", "denied": DENIED, "granted": "0 ran"},
    ),
    Scenario(
        "order",
        "inside one list the later range wins; 256 pages fit one request, 257 do not",
        """
        pa=$(t canary 2)
        t wipe
        t entry 0 "$pa" $((pa + 4096)) $RW
        t entry 0 "$pa" $((pa + 4096)) $RWX
        fact allowed-last "$(send) $(t run 2)"
        t wipe
        t entry 0 "$pa" $((pa + 4096)) $RWX
        t entry 0 "$pa" $((pa + 4096)) $RW
        fact denied-last "$(send) $(t run 2)"
        fact granted "$(protect "$pa" $RWX) $(t run 2)"
        t many 3000 $HOLE 0x2000 0x1000 $RW
        fact ranges-3000 "$(send)"
        fact instructions-3000 "$(t cost)"
        t many 43264 $HOLE 0x2000 0x1000 $RW
        fact pages-256 "$(send)"
        fact instructions-43264 "$(t cost)"
        t many 43265 $HOLE 0x2000 0x1000 $RWX
        fact pages-257 "$(send)"
        t many 43264 $((HOLE + 0x20000000)) 0x2000 0x1000 $RW
        fact boundaries-173056 "$(send)"
        fact wiped "$(protect $HOLE $RWX 131072)"
        """,
        {
            "allowed-last": "0 ran",
            "denied-last": f"0 {DENIED}",
            "granted": "0 ran",
            "ranges-3000": "0",
            "pages-256": "0",
            "pages-257": E2BIG,
            "boundaries-173056": E2BIG,
            "wiped": "0",
        },
    ),
    Scenario(
        "extended",
        "the extended query tells digest, counts and pins; the digest is that of what the host's own debugfs shows",
        """
        pa=$(t canary 3)
        fact version $(($(query) >> 8 & 255))
        fact empty "$(map_digest)"
        fact limits "$(word 13) $(word 14) $(word 19) $(word 256)"
        t wipe
        t entry 0 "$pa" $((pa + 4096)) $RW
        t entry 0 $HOLE $((HOLE + 0x200000)) $((RW | IMMUTABLE))
        fact sent "$(send)"
        fact digest "$([ "$(map_digest)" = "$(host run 'sh $lab/map-digest' | tr -d ' ')" ] && echo equal)"
        before=$(word 9)
        fact denied "$(t run 3) $(($(word 9) - before))"
        before=$(word 10)
        fact refused "$(t clear_cr 4 $SMEP) $(($(word 10) - before))"
        fact smep "$(($(word 12) & SMEP)) $(($(word 11) >> 31)) $(($(word 11) & WP))"
        fact pinned "$(t hypercall 13 0 $WP) $(($(word 11) & WP))"
        """,
        {
            "version": "3",
            "empty": hashlib.sha256(b"").hexdigest(),
            "limits": "256 131072 0 0",
            "sent": "0",
            "digest": "equal",
            "denied": f"{DENIED} 1",
            "refused": "trap 13 1",
            "smep": f"{1 << 20} 1 0",
            "pinned": f"0 {1 << 16}",
        },
        setting=Setting(own_guest="extended"),
    ),
    Scenario(
        "callers",
        "a 32-bit kernel gets NOT_SUPPORTED, a 32-bit process EPERM; the same call is fine in 64-bit mode",
        """
        fact user "$(usertool hypercall32 14 user)"
        fact kernel "$(usertool hypercall32 14 kernel)"
        fact pin "$(usertool hypercall32 13 kernel)"
        fact arrives "$(usertool hypercall32 4242 kernel)"
        fact long "$(t hypercall 14 0 0)"
        """,
        {"user": EPERM, "kernel": EOPNOTSUPP, "pin": EOPNOTSUPP, "arrives": ENOSYS, "long": "0"},
    ),
)
