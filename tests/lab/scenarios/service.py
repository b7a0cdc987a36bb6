# SPDX-License-Identifier: GPL-2.0-or-later
"""What an administrator installs and forgets: packages put in by apt, a lock at every boot, and a way out of it."""

from __future__ import annotations

import re

from ..layers import Host, Userland
from ..verdict import Expected
from .scenario import ALL_HOSTS, Scenario, Setting, same

WORDS = """
    . /lab/product
    . /lab/service
"""
SEALED = re.compile("sealed.*")
#: A lock that anybody can have: the simulator protects nothing, but the service takes it for one.
SIMULATED = """
    mkdir -p /etc/mbecguard/mbecguard.toml.d
    printf '[lock]\\nhost = "simulator"\\n' >/etc/mbecguard/mbecguard.toml.d/10-lab.toml
"""
LOCKED_BOOT = """
    fact system-$stage "$(up)"
    fact unit-$stage "$(unit mbecguard-lock.service)"
    fact status-$stage "$(agent status --json) $(field state)"
    fact confirmed-$stage "$(unit mbecguard-confirm.service) $(announced BOOT_CONFIRMED)"
"""


def _locked_boot(stages: range) -> dict[str, str]:
    rows = {"system": "running", "unit": "success 0 active", "status": "0 sealed", "confirmed": "success 0 inactive 1"}
    return {f"{name}-{stage}": value for stage in stages for name, value in rows.items()}


SERVICE = Scenario(
    "service",
    "installed by apt, nothing runs; enabled, the guest is locked before the first login, and stays so",
    WORDS
    + """
    case $stage in
    1)
        # shellcheck disable=SC2086
        fact installed "$(systemctl is-enabled $UNITS | sort -u) $(systemctl --quiet is-active $UNITS && echo active)"
        modprobe mbecguard_shim
        fact check "$(agent check --json) $(blockers)"
        fact attack-before "$(t payload_run 0)"
        enlist
        restart
        ;;
    2)
        panic_on_oops 0
        fact system "$(up)"
        fact unit "$(unit mbecguard-lock.service)"
        fact status "$(agent status --json) $(field state)"
        fact journal "$(announced SEALED mbecguard-lock.service)"
        fact catalog "$(journalctl -b -x -u mbecguard-lock.service | grep -c 'Subject:\\|^-- ')"
        fact host "$(guarded sealed)"
        fact login "$(order mbecguard-lock.service systemd-user-sessions.service)"
        fact complete "$(order mbecguard-lock.service boot-complete.target)"
        fact confirmed "$(unit mbecguard-confirm.service) $(announced BOOT_CONFIRMED)"
        fact daemon "$(daemon_says)"
        fact delay "$(lasted mbecguard-lock.service) M instructions"
        fact analyze "$(systemd-analyze blame | grep mbecguard-lock | tr -s ' ')"
        fact wakeups "$(wakeups 40)"
        fact memory "$(grep VmRSS "/proc/$(systemctl show -P MainPID mbecguard.service)/status" | tr -s '\\t ' ' ')"
        fact attack-after "$(t payload_run 1)"
        fact audit "$(works systemctl start mbecguard-audit.service)"
        ;;
    esac
    """,
    {
        "installed": re.compile("disabled *"),
        "check": "0 0",
        "attack-before": "ran",
        "system": "running",
        "unit": "success 0 active",
        "status": "0 sealed",
        "journal": "1",
        "catalog": re.compile("[1-9][0-9]*"),
        "host": "1",
        "login": "before",
        "complete": "before",
        "confirmed": "success 0 inactive 1",
        "daemon": SEALED,
        "delay": re.compile("[0-9]+ M instructions"),
        "wakeups": re.compile("[01]"),
        "analyze": re.compile(".*mbecguard-lock.service.*"),
        "memory": re.compile("VmRSS: [0-9]+ kB"),
        "attack-after": "died",
        "audit": "done",
    },
    userland=Userland.INSTALLED,
)

TROUBLES = Scenario(
    "troubles",
    "daemon killed and stopped, journal restarted, disk full, clock set back: sealed stays sealed, and is said so",
    WORDS
    + """
    [ $stage = 2 ] || { enlist; restart; }
    fact boot "$(up)"
    kill -9 "$(systemctl show -P MainPID mbecguard.service)"
    fact killed "$(soon 1 restarts) $(soon sealed daemon_says)"
    kill -STOP "$(systemctl show -P MainPID mbecguard.service)"
    fact watchdog "$(soon 2 restarts) $(soon sealed daemon_says)"
    systemctl restart systemd-journald
    systemctl kill -s HUP mbecguard.service
    fact journald "$(soon '^active' systemctl is-active mbecguard.service) $(soon sealed daemon_says)"
    date -s '2001-01-01 00:00' >/dev/null
    fact clock "$(agent status --json) $(field state) $(unit mbecguard.service)"
    # The disk is a file in its host's memory, which must not fill up.
    cp -a /var/lib/mbecguard /run/state
    mount -t tmpfs -o size=8m,mode=700 full /var/lib/mbecguard
    cp -a /run/state/. /var/lib/mbecguard
    dd if=/dev/zero of=/var/lib/mbecguard/waste bs=1M 2>/dev/null || true
    fact full "$(df --output=avail /var/lib/mbecguard | tail -n 1 | tr -d ' ')"
    fact full-status "$(agent status --json) $(field state)"
    fact full-again "$(agent lock)"
    fact full-after "$(agent status --json) $(field state)"
    rm /var/lib/mbecguard/waste
    fact again "$(agent lock --json) $(field state)"
    fact restarted "$(works systemctl restart mbecguard-lock.service) $(agent status --json) $(field state)"
    fact removed "$(works apt-get -q remove -y mbecguard) $(guarded sealed)"
    """,
    {
        "boot": "running",
        "killed": "yes yes",
        "watchdog": "yes yes",
        "journald": "yes yes",
        "clock": "0 sealed success 0 active",
        "full": "0",
        "full-status": "0 sealed",
        "full-again": re.compile("[01]"),
        "full-after": "0 sealed",
        "again": "0 sealed",
        "restarted": "done 0 sealed",
        "removed": "done 1",
    },
    userland=Userland.INSTALLED,
    slow=True,
    setting=Setting(own_guest="troubles"),
)

REBOOTS = Scenario(
    "reboots",
    "ten boots in a row, each locked and confirmed",
    WORDS
    + f"""
    if [ $stage = 1 ]; then
        enlist
        restart
    fi
    {LOCKED_BOOT}
    [ $stage = 11 ] || restart
    """,
    _locked_boot(range(2, 12)),
    userland=Userland.INSTALLED,
    slow=True,
    setting=Setting(own_guest="reboots"),
)

LEARNED = Scenario(
    "learned",
    "what a locked guest was refused is named with who asked for it, and there after the next boot",
    WORDS
    + """
    case $stage in
    1)
        enlist
        systemctl -q enable mbecguard-learn.service
        restart
        ;;
    2)
        fact locked "$(up) $(agent status --json) $(field state)"
        fact refused "$(refused_by mount -t xfs /dev/vda /mnt)"
        fact shown "$(mbecguard learn show | grep xfs | tr -s ' ')"
        fact written "$(agent learn write)"
        fact listed "$(grep -v '^#' /etc/modules-load.d/mbecguard.conf | grep -c xfs)"
        restart
        ;;
    3)
        fact relocked "$(up) $(agent status --json) $(field state)"
        fact there "$(grep -c '^xfs ' /proc/modules)"
        ;;
    esac
    """,
    {
        "locked": "running 0 sealed",
        "refused": re.compile("refused: .*unknown filesystem type.*"),
        "shown": re.compile(".*mount.*fs-xfs.*"),
        "written": "0",
        "listed": "1",
        "relocked": "running 0 sealed",
        "there": "1",
    },
    userland=Userland.INSTALLED,
    slow=True,
    setting=Setting(own_guest="learned"),
)

#: A module that the boot needs, and nobody preloaded: what the health of the boot depends on.
NEEDY = """
    printf '%s\\n' '[Unit]' 'Description=What this guest is for' 'Before=boot-complete.target' \\
        'After=mbecguard-lock.service' '[Service]' 'Type=oneshot' 'RemainAfterExit=yes' \\
        'ExecStart=modprobe wireguard' '[Install]' 'RequiredBy=boot-complete.target' >/etc/systemd/system/needy.service
    systemctl -q enable needy.service
"""
#: A plan without the kernel's own text, by an agent that was tampered with.
PLANT = """
    cp /usr/share/mbecguard/mbecguard/lock.py /root/lock.py
    sed -i 's/for k in plan.keep) - canary/for k in plan.keep if k.kind != "kernel-text") - canary/' \
        /usr/share/mbecguard/mbecguard/lock.py
    if cmp -s /root/lock.py /usr/share/mbecguard/mbecguard/lock.py; then exit 1; fi
"""

BROKEN = Scenario(
    "broken-boots",
    "a boot that the lock broke is not repeated: the next comes up open and says why, until somebody rearms it",
    WORDS
    + f"""
    case $stage in
    1)
        enlist
        {NEEDY}
        restart
        ;;
    2)
        fact frozen "$(up) $(agent status --json) $(field state)"
        fact needy "$(unit needy.service)"
        fact unconfirmed "$(unit mbecguard-confirm.service) $(announced BOOT_CONFIRMED)"
        restart
        ;;
    3)
        fact open "$(up) $(agent status --json) $(field state)"
        fact reason "$(field reasons)"
        fact unit "$(unit mbecguard-lock.service)"
        fact works "$(unit needy.service)"
        fact daemon "$(daemon_says)"
        systemctl -q disable needy.service
        echo wireguard >/etc/modules-load.d/needy.conf
        fact rearm "$(agent rearm)"
        restart
        ;;
    4)
        fact locked "$(up) $(agent status --json) $(field state) $(announced BOOT_CONFIRMED)"
        ;;
    esac
    """,
    {
        "frozen": "degraded 0 sealed",
        "needy": re.compile("exit-code 1 failed"),
        "unconfirmed": re.compile(".* 0"),
        "open": "degraded 3 open",
        "reason": re.compile(".*never confirmed.*rearm.*"),
        "unit": "exit-code 3 failed",
        "works": "success 0 active",
        "daemon": re.compile("open.*"),
        "rearm": "0",
        "locked": "running 0 sealed 1",
    },
    userland=Userland.INSTALLED,
    slow=True,
    setting=Setting(own_guest="broken-boots"),
)

WRONG_PLAN = Scenario(
    "wrong-plan",
    "a lock that kills the kernel is not repeated: the machine comes back open, says why, and may lock when mended",
    WORDS
    + f"""
    case $stage in
    1)
        enlist
        {PLANT}
        # Two boots in one restart: the lab's service must not come up in the first.
        mkdir -p /etc/systemd/system/lab.service.d
        printf '[Unit]\\nAfter=mbecguard-lock.service\\n' >/etc/systemd/system/lab.service.d/late.conf
        restart
        ;;
    2)
        fact survived "$(up) $(agent status --json) $(field state)"
        fact reason "$(field reasons)"
        cp /root/lock.py /usr/share/mbecguard/mbecguard/lock.py
        fact rearm "$(agent rearm)"
        restart
        ;;
    3)
        fact mended "$(up) $(agent status --json) $(field state)"
        ;;
    esac
    """,
    {
        "survived": "degraded 3 open",
        "reason": re.compile(".*never confirmed.*rearm.*"),
        "rearm": "0",
        "mended": "running 0 sealed",
    },
    userland=Userland.INSTALLED,
    slow=True,
    setting=Setting(own_guest="wrong-plan"),
)

#: What the units do where nothing can be locked.
OPEN_BOOT = """
    [ $stage = 2 ] || { enlist; restart; }
    fact system "$(up)"
    fact unit "$(unit mbecguard-lock.service)"
    fact confirm "$(unit mbecguard-confirm.service)"
    fact delay "$(systemd-analyze blame | grep mbecguard-lock | tr -s ' ' || true)"
    fact status "$(agent status --json) $(field state)"
    fact reason "$(field reasons)"
    fact daemon "$(unit mbecguard.service) $(daemon_says)"
    fact wakeups "$(wakeups 40)"
    fact audit "$(works systemctl start mbecguard-audit.service)"
    fact modules "$(cat /proc/sys/kernel/modules_disabled) $(works modprobe wireguard)"
"""
FAILED_BOOT: Expected = {
    "system": "degraded",
    "unit": "exit-code 3 failed",
    "delay": re.compile(".*"),
    "status": "3 open",
    "reason": re.compile(".*did not lock this boot.*|locking is switched off.*"),
    "confirm": "success 0 inactive",
    "daemon": re.compile("success 0 active open.*"),
    "wakeups": re.compile("[01]"),  # once a minute, for the watchdog
    "audit": "done",
    "modules": "0 done",
}

UNSUPPORTED = Scenario(
    "unsupported",
    "enabled where the host cannot: the unit fails and says why, the boot goes on",
    WORDS + OPEN_BOOT,
    FAILED_BOOT,
    hosts=frozenset({Host.STOCK, Host.PLAIN}),
    userland=Userland.INSTALLED,
)
HOST_OFF = Scenario(
    "host-off",
    "the same where the host has its protection switched off",
    WORDS + OPEN_BOOT,
    FAILED_BOOT,
    userland=Userland.INSTALLED,
    slow=True,
    setting=Setting(kvm="mbecguard=off"),
)
MBEC_OFF = Scenario(
    "mbec-off",
    "the same where the host's CPU has no mode-based execute control",
    WORDS + OPEN_BOOT,
    FAILED_BOOT,
    userland=Userland.INSTALLED,
    slow=True,
    setting=Setting(kvm_intel="mbec=0"),
)

SWITCHED_OFF = Scenario(
    "switched-off",
    "mbecguard=off on the kernel's command line wins over everything",
    WORDS
    + SIMULATED
    + OPEN_BOOT
    + """
    fact by-hand "$(refused_by mbecguard lock --host simulator --mode enforce)"
    """,
    {
        **FAILED_BOOT,
        "system": "running",
        "unit": "success 0 inactive",
        "daemon": re.compile("success 0 inactive *"),
        "wakeups": "none",
        "by-hand": re.compile("refused: .*off .kernel command line.*"),
    },
    hosts=ALL_HOSTS,
    userland=Userland.INSTALLED,
    setting=Setting(cmdline="mbecguard=off"),
)

COUNTING = Scenario(
    "counting",
    "boots are counted: one that is not confirmed is followed by open ones, until somebody rearms it",
    WORDS
    + f"""
    [ $stage != 1 ] || {{ {SIMULATED} enlist; }}
    case $stage in
    1)
        {NEEDY}
        sed -i 's/modprobe wireguard/false/' /etc/systemd/system/needy.service
        restart
        ;;
    2)
        fact unconfirmed "$(up) $(unit mbecguard-lock.service) $(confirmed)"
        restart
        ;;
    3)
        fact open "$(up) $(unit mbecguard-lock.service)"
        fact reason "$(agent status --json) $(field reasons)"
        fact daemon "$(daemon_says)"
        fact journal "$(journalctl -q -b -u mbecguard-lock.service | grep -c 'never confirmed')"
        systemctl -q disable needy.service
        fact rearm "$(agent rearm)"
        restart
        ;;
    4)
        fact locked "$(up) $(unit mbecguard-lock.service) $(confirmed)"
        ;;
    esac
    """,
    {
        "unconfirmed": "degraded success 0 active no",
        "rearm": "0",
        "locked": "running success 0 active yes",
        "open": "degraded exit-code 3 failed",
        "journal": re.compile("[1-9]"),
        "reason": re.compile("3 .*never confirmed.*rearm.*"),
        "daemon": re.compile("open.*"),
    },
    hosts=frozenset({Host.PLAIN}),
    userland=Userland.INSTALLED,
)

CONTAINER = Scenario(
    "container",
    "in a container of an enlisted guest the units are skipped, and a lock by hand is refused",
    WORDS
    + """
    enlist
    mkdir -p /run/box/upper /run/box/work /run/box/root
    mount -t overlay -o lowerdir=/,upperdir=/run/box/upper,workdir=/run/box/work box /run/box/root
    systemd-nspawn -q -D /run/box/root -M box -b systemd.mask=lab.service >/run/box.log 2>&1 </dev/null &
    inside() {
        nsenter -a -t "$(machinectl show -P Leader box)" "$@"
    }
    fact started "$(soon 'running\\|degraded' inside systemctl is-system-running)"
    fact console "$(tail -c 300 /run/box.log | tr -d '"\\\\\\r' | tr '\\n' ' ')"
    fact virtualization "$(inside systemd-detect-virt)"
    for unit in mbecguard-lock mbecguard-confirm mbecguard; do
        skipped=$(inside systemctl show -P Result -P ActiveState -P ConditionResult $unit.service)
        fact unit-$unit "$(echo "$skipped" | tr '\\n' ' ')"
    done
    fact failed "$(inside systemctl list-units --failed --no-legend 'mbecguard*' | wc -l)"
    fact lock "$(refused_by inside mbecguard lock)"
    machinectl terminate box
    """,
    {
        "started": "yes",
        "console": re.compile(".*"),
        "virtualization": "systemd-nspawn",
        **same("unit-mbecguard-lock unit-mbecguard-confirm unit-mbecguard", "success inactive no"),
        "failed": "0",
        "lock": re.compile("refused: .+"),
    },
    hosts=frozenset({Host.PLAIN}),
    userland=Userland.INSTALLED,
)

SCENARIOS: tuple[Scenario, ...] = (
    *(SERVICE, TROUBLES, LEARNED, REBOOTS, BROKEN, WRONG_PLAN, HOST_OFF, MBEC_OFF),
    *(UNSUPPORTED, CONTAINER, COUNTING, SWITCHED_OFF),
)
