# SPDX-License-Identifier: GPL-2.0-or-later
"""Boots in a row: locked at each, early or late; what was learned; what follows one that the lock broke."""

from __future__ import annotations

import re

from ..layers import Host, Userland
from .scenario import Scenario, Setting, alone, staged
from .service import SIMULATED

LOCKED_BOOT = """
    fact system-$stage "$(up)"
    fact unit-$stage "$(unit mbecguard-lock.service)"
    fact status-$stage "$(agent status --json) $(field state)"
    fact confirmed-$stage "$(unit mbecguard-confirm.service) $(announced BOOT_CONFIRMED)"
"""


def _locked_boot(stages: range) -> dict[str, str]:
    rows = {"system": "running", "unit": "success 0 active", "status": "0 sealed", "confirmed": "success 0 inactive 1"}
    return {f"{name}-{stage}": value for stage in stages for name, value in rows.items()}


REBOOTS = alone(
    "reboots",
    "ten boots in a row, each locked and confirmed",
    f"""
    if [ $stage = 1 ]; then
        enlist
        restart
    fi
    {LOCKED_BOOT}
    [ $stage = 11 ] || restart
    """,
    _locked_boot(range(2, 12)),
    Userland.INSTALLED,
)

EARLY = alone(
    "early",
    "the early profile: refused without a list of modules; with the one that was learned, sealed before any service",
    staged(
        """
        systemctl -q enable mbecguard-learn.service mbecguard-lock-early.service mbecguard.service
        """,
        """
        fact unlisted "$(up) $(unit mbecguard-lock-early.service) $(agent status --json) $(field state)"
        fact reason "$(field reasons)"
        fact attack-before "$(t payload_run 0)"
        modprobe xfs
        fact written "$(agent learn write --profile early) $(grep -c '^xfs$' /etc/modules-load.d/mbecguard.conf)"
        """,
        """
        panic_on_oops 0
        fact listed "$(up) $(unit mbecguard-lock-early.service) $(agent status --json) $(field state)"
        fact first "$(order mbecguard-lock-early.service sysinit.target)"
        fact confirmed "$(unit mbecguard-confirm.service) $(announced BOOT_CONFIRMED)"
        fact there "$(grep -c '^xfs ' /proc/modules) $(cat /proc/sys/kernel/modules_disabled)"
        fact attack-after "$(t payload_run 1)"
        """,
    ),
    {
        "unlisted": "degraded exit-code 3 failed 6 open",
        "reason": re.compile(".*mbecguard.conf does not say what this guest needs.*"),
        "attack-before": "ran",
        "written": "0 1",
        "listed": "running success 0 active 0 sealed",
        "first": "before",
        "confirmed": "success 0 inactive 1",
        "there": "1 1",
        "attack-after": "died",
    },
    Userland.INSTALLED,
)

SOFT = alone(
    "soft-reboot",
    "user space starts anew under the kernel that was sealed: the seal stays, and the units find it",
    staged(
        """
        enlist
        fact attack-open "$(t payload_run 0) $(t run 1)"
        """,
        """
        panic_on_oops 0
        fact locked "$(up) $(unit mbecguard-lock.service) $(agent status --json) $(field state)"
        fact attack-locked "$(t payload_run 0) $(t run 1)"
        cat /proc/sys/kernel/random/boot_id >/run/lab-boot
        sync
        host resetting >/dev/null
        systemctl soft-reboot
        sleep 300
        """,
        """
        panic_on_oops 0
        fact anew "$(systemctl show -P SoftRebootsCount)"
        fact boot "$(cmp /proc/sys/kernel/random/boot_id /run/lab-boot && echo same)"
        fact found "$(up) $(unit mbecguard-lock.service) $(agent status --json) $(field state)"
        fact audited "$(agent audit)"
        fact attack-after "$(t payload_run 1) $(t run 1)"
        fact switch "$(cat /proc/sys/kernel/modules_disabled)"
        """,
    ),
    {
        "attack-open": "ran ran",
        "locked": "running success 0 active 0 sealed",
        "attack-locked": "died ran",
        "anew": "1",
        "boot": "same",
        "found": "running success 0 active 0 sealed",
        "audited": "0",
        "attack-after": "died ran",
        "switch": "1",
    },
    Userland.INSTALLED,
)

LEARNED = alone(
    "learned",
    "what a locked guest was refused is named with who asked for it, and there after the next boot",
    staged(
        """
        enlist
        systemctl -q enable mbecguard-learn.service
        """,
        """
        fact locked "$(up) $(agent status --json) $(field state)"
        fact refused "$(refused_by mount -t xfs /dev/vda /mnt)"
        fact shown "$(mbecguard learn show | grep xfs | tr -s ' ')"
        fact written "$(agent learn write)"
        fact listed "$(grep -v '^#' /etc/modules-load.d/mbecguard.conf | grep -c xfs)"
        """,
        """
        fact relocked "$(up) $(agent status --json) $(field state)"
        fact there "$(grep -c '^xfs ' /proc/modules)"
        """,
    ),
    {
        "locked": "running 0 sealed",
        "refused": re.compile("refused: .*unknown filesystem type.*"),
        "shown": re.compile(".*mount.*fs-xfs.*"),
        "written": "0",
        "listed": "1",
        "relocked": "running 0 sealed",
        "there": "1",
    },
    Userland.INSTALLED,
)

ASKED = Scenario(
    "asked",
    "what a program asks for by modprobe where no module may be loaded is found in the journal, with the unit",
    """
    fact started "$(agent learn start)"
    echo 1 >/proc/sys/kernel/modules_disabled
    fact refused "$(systemd-run -q --wait --unit=vpn modprobe wireguard || echo $?)"
    forged="modprobe: ERROR: could not insert 'xfs': Operation not permitted"
    systemd-run -q --wait --uid=65534 --unit=liar echo "$forged"
    journalctl --sync
    fact shown "$(mbecguard learn show | grep wireguard | tr -s ' ')"
    fact forged "$(mbecguard learn show | grep -c xfs)"
    fact incomplete "$(mbecguard learn show | grep -c 'mbecguard=off')"
    """,
    {
        "started": "0",
        "refused": "1",
        "shown": re.compile(".*wireguard refused .*vpn.service by modprobe.*"),
        "forged": "0",
        "incomplete": "1",
    },
    hosts=frozenset({Host.PLAIN}),
    userland=Userland.INSTALLED,
    slow=True,
    setting=Setting(own_guest="asked"),
)

#: A plan without the kernel's own text, by an agent that was tampered with.
PLANT = """
    cp /usr/share/mbecguard/mbecguard/lock/request.py /root/lock.py
    sed -i 's/for k in plan.keep) - canary/for k in plan.keep if k.kind != "kernel-text") - canary/' \
        /usr/share/mbecguard/mbecguard/lock/request.py
    if cmp -s /root/lock.py /usr/share/mbecguard/mbecguard/lock/request.py; then exit 1; fi
"""

BROKEN = alone(
    "broken-boots",
    "a boot that the lock broke is not repeated: the next comes up open and says why, until somebody rearms it",
    staged(
        """
        enlist
        # A module that the boot needs, and nobody preloaded.
        health_check needy RemainAfterExit=yes 'ExecStart=modprobe wireguard'
        """,
        """
        fact frozen "$(up) $(agent status --json) $(field state)"
        fact needy "$(unit needy.service)"
        fact unconfirmed "$(unit mbecguard-confirm.service) $(announced BOOT_CONFIRMED)"
        """,
        """
        fact open "$(up) $(agent status --json) $(field state)"
        fact reason "$(field reasons)"
        fact unit "$(unit mbecguard-lock.service)"
        fact works "$(unit needy.service)"
        fact daemon "$(daemon_says)"
        systemctl -q disable needy.service
        echo wireguard >/etc/modules-load.d/needy.conf
        fact rearm "$(agent rearm)"
        """,
        """
        fact locked "$(up) $(agent status --json) $(field state) $(announced BOOT_CONFIRMED)"
        """,
    ),
    {
        "frozen": "degraded 0 sealed",
        "needy": re.compile("exit-code 1 failed"),
        "unconfirmed": re.compile(".* 0"),
        "open": "degraded 6 open",
        "reason": re.compile(".*never confirmed.*rearm.*"),
        "unit": "exit-code 3 failed",
        "works": "success 0 active",
        "daemon": re.compile("open.*"),
        "rearm": "0",
        "locked": "running 0 sealed 1",
    },
    Userland.INSTALLED,
)

WRONG_PLAN = alone(
    "wrong-plan",
    "a lock that kills the kernel is not repeated: the machine comes back open, says why, and may lock when mended",
    staged(
        f"""
        enlist
        {PLANT}
        # Two boots in one restart: the lab's service must not come up in the first.
        mkdir -p /etc/systemd/system/lab.service.d
        printf '[Unit]\\nAfter=mbecguard-lock.service\\n' >/etc/systemd/system/lab.service.d/late.conf
        """,
        """
        fact survived "$(up) $(agent status --json) $(field state)"
        fact reason "$(field reasons)"
        cp /root/lock.py /usr/share/mbecguard/mbecguard/lock/request.py
        fact rearm "$(agent rearm)"
        """,
        """
        fact mended "$(up) $(agent status --json) $(field state)"
        """,
    ),
    {
        "survived": "degraded 6 open",
        "reason": re.compile(".*never confirmed.*rearm.*"),
        "rearm": "0",
        "mended": "running 0 sealed",
    },
    Userland.INSTALLED,
)

COUNTING = Scenario(
    "counting",
    "boots are counted: one that is not confirmed is followed by open ones, until somebody rearms it",
    f"""
    [ $stage != 1 ] || {{ {SIMULATED} enlist; }}
    """
    + staged(
        """
        health_check needy RemainAfterExit=yes ExecStart=false
        """,
        """
        fact unconfirmed "$(up) $(unit mbecguard-lock.service) $(confirmed)"
        """,
        """
        fact open "$(up) $(unit mbecguard-lock.service)"
        fact reason "$(agent status --json) $(field reasons)"
        fact daemon "$(daemon_says)"
        fact journal "$(journalctl -q -b -u mbecguard-lock.service | grep -c 'never confirmed')"
        systemctl -q disable needy.service
        fact rearm "$(agent rearm)"
        """,
        """
        fact locked "$(up) $(unit mbecguard-lock.service) $(confirmed)"
        """,
    ),
    {
        "unconfirmed": "degraded success 0 active no",
        "rearm": "0",
        "locked": "running success 0 active yes",
        "open": "degraded exit-code 3 failed",
        "journal": re.compile("[1-9]"),
        "reason": re.compile("6 .*never confirmed.*rearm.*"),
        "daemon": re.compile("open.*"),
    },
    hosts=frozenset({Host.PLAIN}),
    userland=Userland.INSTALLED,
)

LEFT = Scenario(
    "left",
    "an orderly reboot before the confirmation is no broken boot, unless a unit had failed; a crash always is",
    f"""
    lock_is() {{
        soon "^$1" systemctl is-active mbecguard-lock.service
    }}
    [ $stage != 1 ] || {{ {SIMULATED} enlist; }}
    """
    + staged(
        """
        # It never ends, so no boot is confirmed; and it fails, as it is told to stop while it starts.
        health_check endless 'ExecStart=sleep infinity' TimeoutStartSec=infinity
        """,
        """
        fact first "$(lock_is active) $(confirmed)"
        """,
        """
        fact second "$(lock_is active) $(confirmed)"
        fact excused "$(journalctl -q -b -u mbecguard-lock.service | grep -c 'but it was shut down in order')"
        fact restarted "$(works systemctl restart mbecguard-lock.service)"
        fact stopped "$(grep -c '"left":"2' /var/lib/mbecguard/boot.json)"
        systemd-run -q --wait --unit=broken false || true
        """,
        """
        fact failed "$(lock_is failed)"
        fact reason "$(agent status --json) $(field reasons)"
        fact rearm "$(agent rearm)"
        """,
        """
        fact rearmed "$(lock_is active) $(confirmed)"
        host resetting >/dev/null
        sync
        echo b >/proc/sysrq-trigger
        sleep 300
        """,
        """
        fact crashed "$(lock_is failed)"
        """,
    ),
    {
        "first": "yes no",
        "second": "yes no",
        "excused": "1",
        "restarted": "done",
        "stopped": "0",
        "failed": "yes",
        "reason": re.compile("6 .*never confirmed.*rearm.*"),
        "rearm": "0",
        "rearmed": "yes no",
        "crashed": "yes",
    },
    hosts=frozenset({Host.PLAIN}),
    userland=Userland.INSTALLED,
    slow=True,
)

ASSESSED = Scenario(
    "assessed",
    "systemd-boot counts: an entry is good only after a lock; one that the lock broke comes up open next, and is good",
    """
    entry() {
        (cd /efi/loader/entries && echo lab*)
    }
    """
    + staged(
        f"""
        mkdir /efi
        echo '/dev/vdb1 /efi vfat umask=77 0 0' >>/etc/fstab
        systemctl daemon-reload
        mount /efi
        fact first "$(up) $(entry)"
        fact blessed "$(works systemctl restart systemd-bless-boot.service) $(entry)"
        {SIMULATED}
        enlist
        health_check frail 'ExecStart=sh -c "! systemctl -q is-active mbecguard-lock.service"'
        mv /efi/loader/entries/lab.conf /efi/loader/entries/lab+3.conf
        """,
        """
        fact broken "$(up) $(unit mbecguard-lock.service) $(confirmed) $(entry)"
        """,
        """
        fact open "$(up) $(unit mbecguard-lock.service) $(unit frail.service) $(entry)"
        fact reason "$(agent status --json) $(field reasons)"
        systemctl -q disable frail.service
        fact rearm "$(agent rearm)"
        mv /efi/loader/entries/lab.conf /efi/loader/entries/lab+3.conf
        """,
        """
        fact locked "$(up) $(unit mbecguard-lock.service) $(confirmed) $(entry)"
        fact complete "$(order mbecguard-lock.service systemd-bless-boot.service)"
        """,
    ),
    {
        "first": re.compile("[a-z]+ lab[+]1-1.conf"),
        "blessed": "done lab.conf",
        "broken": "degraded success 0 active no lab+2-1.conf",
        "open": "degraded exit-code 3 failed success 0 inactive lab.conf",
        "reason": re.compile("6 .*never confirmed.*rearm.*"),
        "rearm": "0",
        "locked": "running success 0 active yes lab.conf",
        "complete": "before",
    },
    hosts=frozenset({Host.PLAIN}),
    userland=Userland.INSTALLED,
    slow=True,
    setting=Setting(own_guest="assessed", counts_boots=True),
)

SCENARIOS: tuple[Scenario, ...] = (REBOOTS, EARLY, SOFT, LEARNED, ASKED, BROKEN, WRONG_PLAN, COUNTING, LEFT, ASSESSED)
