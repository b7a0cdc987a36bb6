# SPDX-License-Identifier: GPL-2.0-or-later
"""What is told of a guest, by itself and by its host: the same of a denied fetch, and not the same if it lies."""

from __future__ import annotations

import re

from ..layers import Userland
from .scenario import Scenario, alone, same

#: What `mbecguard-host witness` says of this machine, by files of the host: there is no Python on it.
HOST_SAW = """
    FLEET=/var/lib/fleet
    mkdir -p "$FLEET"
    host_saw() {
        kvm=$(host run 'cd /sys/kernel/debug/kvm && echo [0-9]*' | tr -d ' ')
        root=/run/host-$kvm files=/run/host-$kvm/sys/kernel/debug/kvm/$kvm pid=${kvm%-*}
        mkdir -p "$files" "$root/proc/$pid" "$root/proc/sys/kernel"
        echo rack1 >"$root/proc/sys/kernel/hostname"
        host run "xargs -0 echo </proc/$pid/cmdline" | sed 's/ *$//' | tr ' ' '\\0' >"$root/proc/$pid/cmdline"
        host run "sed 's/\\$/;/' /sys/kernel/debug/kvm/$kvm/mbecguard" | sed 's/; */;/g' |
            tr ';' '\\n' >"$files/mbecguard"
        witness --json -o "$FLEET/host.json"
    }
    witness() {
        PYTHONPATH=/lab/agent python3 -c 'from mbecguard.face.host_cli import main; main()' witness --root "$root" "$@"
    }
    # FILE KEY...: a value from an answer that was kept.
    kept() {
        cp "$1" /run/agent.out
        shift
        field "$@"
    }
    # EVENT: how often this boot's journal has it.
    logged_event() {
        journalctl -q -b -o cat "MBECGUARD_EVENT=$1" | wc -l
    }
    # What the fleet comes to: the exit status, and what stands in the way.
    fleet() {
        status=$(agent fleet "$FLEET" --json)
        echo "$status $(python3 -c 'import json
print(*sorted({f["id"] for f in json.load(open("/run/agent.out"))["findings"] if f["severity"] == "blocker"}))')"
    }
"""

LOCKED = """
    panic_on_oops 0
    fact lock "$(agent lock --json) $(field state)"
    fact clean "$(agent audit --json) $(field verdict)"
    cp /run/agent.out "$FLEET/guest.json"
    fact clean-told "$(logged_event AUDIT_PASSED)"
    fact clean-kept "$(find /var/lib/mbecguard/audits -name '[0-9]*.json' | wc -l)"
    host_saw
    fact digest "$(kept "$FLEET/host.json" machines 0 told map_digest)"
    fact digest-told "$([ "$(kept "$FLEET/guest.json" witness map_digest)" = "$(map_digest)" ] && echo same)"
    fact digest-seen "$([ "$(kept "$FLEET/host.json" machines 0 told map_digest)" = "$(map_digest)" ] && echo same)"
    fact name "$(kept "$FLEET/host.json" machines 0 name) $(kept "$FLEET/host.json" machines 0 state)"
    fact honest "$(fleet)"
"""
ATTACKED = """
    mbecguard daemon 2>/run/daemon.err &
    daemon=$!
    until grep -q '^SigBlk:.*[1-9a-f]' /proc/$daemon/status || [ ! -d /proc/$daemon ]; do sleep 1; done
    sleep 20 # its first look
    before=$(guarded violations)
    fact attack "$(t payload_run 1)"
    fact counted "$(($(guarded violations) - before))"
    kill -HUP $daemon
    tries=0
    until [ "$(logged_event FETCH_DENIED)" != 0 ] || [ $tries = 60 ]; do
        host run true >/dev/null
        sleep 2
        tries=$((tries + 1))
    done
    sleep 12 # it looks again soon, if it is unsure
    journalctl -q -b -o json MBECGUARD_EVENT=FETCH_DENIED | head -n 1 >/run/told
    fact journal "$(logged_event FETCH_DENIED)"
    fact journal-sum "$(logged_event FETCHES_DENIED)"
    fact told "$(kept /run/told MBECGUARD_SYMBOL) $(kept /run/told MBECGUARD_MODULE) $(kept /run/told MBECGUARD_BY)"
    fact message "$(kept /run/told MESSAGE)"
    fact audit-after "$(agent audit --json) $(field verdict)"
    cp /run/agent.out "$FLEET/guest.json"
    host_saw
    count=$(guarded violations)
    fact counts "$count"
    fact same-journal "$([ "$(kept /run/told MBECGUARD_DENIED)" = "$count" ] && echo same)"
    fact same-audit "$([ "$(kept "$FLEET/guest.json" witness denied)" = "$count" ] && echo same)"
    fact same-host "$([ "$(kept "$FLEET/host.json" machines 0 told denied)" = "$count" ] && echo same)"
    fact same-host-metrics "$(witness --metrics | grep -c "^mbecguard_host_machine_denied_fetches_total{.*} $count\\$")"
    fact same-metrics "$(mbecguard metrics | grep -c "^mbecguard_denied_fetches_total.* $count\\(\\.0\\)*\\$")"
    fact still-honest "$(fleet)"
    kill $daemon
"""
#: What is kept of audits is edited; another digest is told than the host's; one guest's audit is told by two.
LIES = """
    find /var/lib/mbecguard/audits -name '[0-9]*.json' -exec sed -i 's/"denied":[0-9]*/"denied":0/' '{}' +
    fact edited "$(agent audit --json >/dev/null; python3 -c 'import json
print(*[c["result"] for c in json.load(open("/run/agent.out"))["claims"] if c["id"] == "records-intact"])')"
    cp "$FLEET/guest.json" /run/true.json
    sed 's/"map_digest": "[0-9a-f]*"/"map_digest": "'"$(printf %064d 7)"'"/' /run/true.json >"$FLEET/guest.json"
    fact other-map "$(fleet)"
    cp /run/true.json "$FLEET/copy.json"
    sed -i 's/"machine_id": "[0-9a-f]*"/"machine_id": "'"$(printf %032d 7)"'"/' "$FLEET/copy.json"
    cp /run/true.json "$FLEET/guest.json"
    fact copied "$(fleet)"
    rm "$FLEET/copy.json"
"""
#: What runs after a reset tells what the kernel before it told.
REPLAYED = f"""
    {HOST_SAW}
    if [ $stage = 1 ]; then
        fact lock "$(agent lock --json) $(field state)"
        fact audit "$(agent audit --json) $(field verdict)"
        cp /run/agent.out "$FLEET/guest.json"
        host_saw
        fact honest "$(fleet)"
        sync
        reset
    fi
    fact after-reset "$(agent status --json) $(field state) $(guarded sealed)"
    host_saw
    fact replayed "$(fleet)"
"""

SCENARIOS: tuple[Scenario, ...] = (
    alone(
        "witnessed",
        "journal, audit, metrics, host tell of a denied fetch with one count; a guest that lies is found by its host",
        HOST_SAW + LOCKED + ATTACKED + LIES,
        {
            "lock": "0 sealed",
            "clean": "0 pass",
            **same("clean-told clean-kept", "1"),
            "digest": re.compile("[0-9a-f]{64}"),
            **same("digest-told digest-seen same-journal same-audit same-host", "same"),
            "name": re.compile("qemu-system-x86_64-[0-9]+ sealed"),
            **same("honest still-honest", re.compile("0 *")),
            "attack": "died",
            **same("counted journal same-metrics same-host-metrics", "1"),
            "journal-sum": "0",
            "told": re.compile("[a-z_]+ mbectest host"),
            "message": re.compile("mbectest-victim.* was to execute 0x.*"),
            "audit-after": "0 pass",
            "counts": re.compile("[1-9][0-9]*"),
            "edited": "warn",
            "other-map": re.compile("5 .*host-unseen.*"),
            "copied": re.compile("5 .*host-twice.*"),
        },
        Userland.SYSTEMD,
    ),
    alone(
        "replayed",
        "a guest that was reset tells what it told when it was sealed, and its host knows that it is open",
        REPLAYED,
        {
            "lock": "0 sealed",
            "audit": "0 pass",
            "honest": re.compile("0 *"),
            "after-reset": "6 open 0",
            "replayed": re.compile("5 .*host-unseen.*"),
        },
        Userland.SYSTEMD,
    ),
)
