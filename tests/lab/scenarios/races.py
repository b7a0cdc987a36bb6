# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests of several processors at once, and what their host does meanwhile. True races need a host with two."""

from __future__ import annotations

import hashlib
import re

from ..layers import Host
from .scenario import EPERM, Scenario, Setting

RACING = frozenset({Host.OURS, Host.UNENFORCED})
CALLS = re.compile("accepted [1-9][0-9]* refused [1-9][0-9]* trapped 0")
#: A page of those that the crowd's requests seal, sealed before: frame 0x30000c8.
WORDS = """
    page=$((HOLE + 200 * 4096))
    seal() { protect $page 9; }
    stir() { host run 'sh /lab/stir 30000c8 9 >/dev/null 2>&1 </dev/null &' >/dev/null; }
    rest() { host run 'rm /run/stir; sleep 4' >/dev/null; }
    lines() { host run "wc -l </run/$1" | tr -d ' '; }
    same_digest() { [ "$(map_digest)" = "$(host run 'sh /lab/map-digest' | tr -d ' ')" ] && echo equal; }
    """

SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        "crowd",
        "random hypercalls of all CPUs at once, while the host looks, logs dirty pages, moves memory: the map is whole",
        WORDS
        + """
        cpus=$(grep -c ^processor /proc/cpuinfo)
        fact seal "$(seal)"
        stir
        fact warm "$(t crowd 1 500 "$cpus")"
        before=$(free_memory)
        fact calls "$(t crowd 2 5000 "$cpus")"
        grown=$(((before - $(free_memory)) / 1024))
        rest
        fact grown-mib $grown
        fact bounded "$([ $grown -lt 64 ] && echo yes)"
        fact reads "$(lines reads)"
        fact changed "$(lines changed)"
        fact digest "$(same_digest)"
        fact sealed "$(seal) $(protect $page $RWX) $(protect $page $RW)"
        """,
        {
            "seal": "0",
            "warm": CALLS,
            "calls": CALLS,
            "bounded": "yes",
            "reads": re.compile("[1-9][0-9]+"),
            "changed": "0",
            "digest": "equal",
            "sealed": f"0 {EPERM} {EPERM}",
        },
        RACING,
        slow=True,
        cpus=2,
        setting=Setting(own_guest="crowd"),
    ),
    Scenario(
        "crowd-start",
        "the same by two CPUs, while a third goes off and comes back by INIT and SIPI",
        WORDS
        + """
        online=/sys/devices/system/cpu/cpu2/online
        fact seal "$(seal)"
        stir
        for _ in 1 2 3 4 5 6 7 8; do
            echo 0 >$online
            sleep 1
            echo 1 >$online
            echo 1 >>/run/cycles
        done &
        fact calls "$(t crowd 3 5000 2)"
        wait
        rest
        fact cycles "$(wc -l </run/cycles) $(on 2 run 0)"
        fact changed "$(lines changed)"
        fact digest "$(same_digest)"
        fact sealed "$(seal) $(protect $page $RWX)"
        """,
        {
            "seal": "0",
            "calls": CALLS,
            "cycles": "8 ran",
            "changed": "0",
            "digest": "equal",
            "sealed": f"0 {EPERM}",
        },
        RACING,
        slow=True,
        cpus=3,
        setting=Setting(own_guest="crowd-start"),
    ),
    Scenario(
        "crowd-reset",
        "a reset in the middle of it, ten times: nothing is left of the map, and the next crowd is as good",
        WORDS
        + """
        fact clean-$stage "$(($(query) >> 6 & 3)) $(map_digest) $(seal)"
        if [ "$stage" -le 10 ]; then
            t crowd "$stage" 100000000 2 &
            sleep 2
            reset
        fi
        fact calls "$(t crowd 4 500 2)"
        fact sealed "$(seal) $(protect $page $RWX)"
        """,
        {
            **{f"clean-{stage}": f"0 {hashlib.sha256(b'').hexdigest()} 0" for stage in range(1, 12)},
            "calls": CALLS,
            "sealed": f"0 {EPERM}",
        },
        RACING,
        slow=True,
        cpus=2,
        setting=Setting(own_guest="crowd-reset"),
    ),
    Scenario(
        "tempest",
        "VMs of two processors: hypercalls, resets, memory that comes and goes, and their end in the middle of it",
        """
        fact last "$(host run '/lab/tempest 1 10 2>&1')"
        fact ends "$(host run '/lab/tempest 10 2 2>&1')"
        """,
        {
            "last": re.compile("calls [1-9].* resets 0 slots [1-9].* reads [1-9].* sealed 1 digest equal"),
            "ends": re.compile("calls [1-9].* resets [1-9].* slots [1-9].* reads [1-9].* sealed 1 digest equal"),
        },
        RACING,
        slow=True,
    ),
)
