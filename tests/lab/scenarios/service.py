# SPDX-License-Identifier: GPL-2.0-or-later
"""What an administrator installs and forgets: packages put in by apt, a lock at every boot, and a way out of it."""

from __future__ import annotations

import re

from ..attacks import expected, tried
from ..layers import Host, Userland
from ..verdict import Expected
from .scenario import ALL_HOSTS, Scenario, Setting, alone, same, staged

SEALED = re.compile("sealed.*")
#: A lock that anybody can have: the simulator protects nothing, but the service takes it for one.
SIMULATED = """
    mkdir -p /etc/mbecguard/mbecguard.toml.d
    printf '[lock]\\nhost = "simulator"\\n' >/etc/mbecguard/mbecguard.toml.d/10-lab.toml
"""
#: How often the daemon waited in 40 s. It wakes up once a minute, for the watchdog, and waits twice more if a child
#: looks: the second look of all is always taken; on a slow machine also for pages from the disk. One that asks each
#: second what is new waits 40 times.
WAKEUPS = re.compile("[0-9]")
#: The first boot only enlists the guest: what stands behind this is for the second.
ENLISTED = "[ $stage = 2 ] || { enlist; restart; }"

#: Installed by apt, nothing runs, and an attack does.
INSTALLED = f"""
    # shellcheck disable=SC2086
    fact installed "$(systemctl is-enabled $UNITS | sort -u) $(systemctl --quiet is-active $UNITS && echo active)"
    modprobe mbecguard_shim
    fact attack-before "$(t payload_run 0)"
    {tried("before")}
    enlist
"""
#: A guest that its service has locked, and an attack on it.
FOUND_LOCKED = f"""
    panic_on_oops 0
    fact unit "$(unit mbecguard-lock.service)"
    fact status "$(agent status --json) $(field state)"
    fact journal "$(announced SEALED mbecguard-lock.service)"
    fact catalog "$(journalctl -b -x -u mbecguard-lock.service | grep -c 'Subject:\\|^-- ')"
    fact host "$(guarded sealed)"
    fact confirmed "$(unit mbecguard-confirm.service) $(announced BOOT_CONFIRMED)"
    fact daemon "$(daemon_says)"
    fact delay "$(lasted mbecguard-lock.service) M instructions"
    fact wakeups "$(wakeups 40)"
    fact memory "$(grep VmRSS "/proc/$(systemctl show -P MainPID mbecguard.service)/status" | tr -s '\\t ' ' ')"
    fact audit "$(works systemctl start mbecguard-audit.service)"
    fact attack-after "$(t payload_run 1)"
    {tried("after")}
    fact planted "$(t payload_plant 0)"
    systemctl start mbecguard-audit.service || true
    fact found "$(unit mbecguard-audit.service) $(announced DRIFT)"
"""
PROTECTED: Expected = {
    "installed": re.compile("disabled *"),
    "attack-before": "ran",
    "unit": "success 0 active",
    "status": "0 sealed",
    "journal": "1",
    "catalog": re.compile("[1-9][0-9]*"),
    "host": "1",
    "confirmed": "success 0 inactive 1",
    "daemon": SEALED,
    "delay": re.compile("[0-9]+ M instructions"),
    "wakeups": WAKEUPS,
    "memory": re.compile("VmRSS: [0-9]+ kB"),
    "audit": "done",
    "attack-after": "died",
    **expected("before"),
    **expected("after"),
    "planted": "planted",
    "found": "exit-code 5 failed 1",
}
#: Comes before all that wants a locked guest.
SERVES = Scenario(
    "serves",
    "installed by apt, nothing runs; its units started, the guest is locked, confirmed, watched and audited",
    f"""
    {INSTALLED}
    systemctl restart systemd-modules-load.service
    keep_start_page
    leave_text
    # shellcheck disable=SC2086
    fact started "$(works systemctl start $SERVICE) $(works systemctl start mbecguard-confirm.service)"
    {FOUND_LOCKED}
    panic_on_oops 1
    """,
    {**PROTECTED, "started": "done done"},
    userland=Userland.INSTALLED,
)

SERVICE = Scenario(
    "service",
    "installed by apt, nothing runs; enabled, the guest is locked before the first login, and stays so",
    staged(
        f"""
        {INSTALLED}
        fact check "$(agent check --json) $(blockers)"
        """,
        f"""
        fact system "$(up)"
        fact login "$(order mbecguard-lock.service systemd-user-sessions.service)"
        fact complete "$(order mbecguard-lock.service boot-complete.target)"
        fact analyze "$(systemd-analyze blame | grep mbecguard-lock | tr -s ' ')"
        {FOUND_LOCKED}
        """,
    ),
    {
        **PROTECTED,
        "check": "0 0",
        "system": "running",
        "login": "before",
        "complete": "before",
        "analyze": re.compile(".*mbecguard-lock.service.*"),
    },
    userland=Userland.INSTALLED,
    slow=True,
)

TROUBLES = alone(
    "troubles",
    "daemon killed, journal restarted, disk full, clock set back, upgrade: sealed stays sealed, and is said so",
    ENLISTED
    + """
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
    later mbecguard
    later mbecguard-report
    later mbecguard-shim-dkms
    upgrade=$(works_slowly apt-get -q install -y /run/later/*.deb)
    fact upgraded "$upgrade $(dkms status mbecguard-shim | grep -c installed)"
    fact upgraded-says "$(guarded sealed) $(agent status --json) $(field state) $(soon sealed daemon_says)"
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
        "upgraded": "done 1",
        "upgraded-says": "1 0 sealed yes",
        "removed": "done 1",
    },
    Userland.INSTALLED,
)

#: What the units do where nothing can be locked.
OPEN_BOOT = f"""
    {ENLISTED}
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
    "status": "6 open",
    "reason": re.compile(".*did not lock this boot.*|locking is switched off.*"),
    "confirm": "success 0 inactive",
    "daemon": re.compile("success 0 active open.*"),
    "wakeups": WAKEUPS,
    "audit": "done",
    "modules": "0 done",
}

#: By their timer; before there is a node_exporter nothing is written.
MEASURED = """
    systemctl start mbecguard-metrics.timer
    fact unmeasured "$(soon '[1-9]' of_metrics ConditionTimestampMonotonic) $(of_metrics ConditionResult)"
    mkdir -p "$TEXTFILES"
    fact metrics "$(soon '644 1' metrics_say open)"
    fact measured "$(soon inactive unit mbecguard-metrics.service) $(unit mbecguard-metrics.service)"
    rm "$TEXTFILES/mbecguard.prom"
    fact again "$(soon '644 1' metrics_say open)"
"""
UNSUPPORTED = Scenario(
    "unsupported",
    "enabled where the host cannot: the unit fails and says why, the boot goes on, metrics tell it as well",
    OPEN_BOOT + MEASURED,
    {
        **FAILED_BOOT,
        "unmeasured": "yes no",
        "metrics": "yes",
        "measured": "yes success 0 inactive",
        "again": "yes",
    },
    hosts=frozenset({Host.STOCK, Host.PLAIN}),
    userland=Userland.INSTALLED,
)


NO_FAILURES = Scenario(
    "no-failures",
    "a refused lock fails systemd's check that no unit has failed; with the drop-in of docs/LIFE.md it does not",
    staged(
        """
        enlist
        systemctl -q enable systemd-boot-check-no-failures.service
        """,
        """
        fact refused "$(up) $(unit mbecguard-lock.service)"
        fact check "$(unit systemd-boot-check-no-failures.service) $(systemctl is-active boot-complete.target)"
        mkdir /etc/systemd/system/mbecguard-lock.service.d
        printf '[Service]\\nSuccessExitStatus=3\\n' >/etc/systemd/system/mbecguard-lock.service.d/refused.conf
        """,
        """
        fact accepted "$(up) $(unit mbecguard-lock.service)"
        fact check-then "$(unit systemd-boot-check-no-failures.service) $(systemctl is-active boot-complete.target)"
        fact status "$(agent status --json) $(field state)"
        """,
    ),
    {
        "refused": "degraded exit-code 3 failed",
        "check": re.compile("exit-code 1 failed inactive"),
        "accepted": "running success 3 active",
        "check-then": "success 0 active active",
        "status": "6 open",
    },
    hosts=frozenset({Host.STOCK, Host.PLAIN}),
    userland=Userland.INSTALLED,
    slow=True,
    setting=Setting(own_guest="no-failures"),
)


VOLATILE = Scenario(
    "volatile",
    "where /var is in memory the service does not lock: it has no place for the count of boots, and says so",
    f"""
    {ENLISTED}
    fact var "$(up >/dev/null) $(findmnt -n -o FSTYPE /var)"
    fact unit "$(unit mbecguard-lock.service)"
    fact reason "$(agent status --json) $(field reasons)"
    """,
    {
        "var": re.compile(" *tmpfs"),
        "unit": "exit-code 3 failed",
        "reason": re.compile("6 .*no place for the count of boots: .* is on tmpfs .mounted at /var.*"),
    },
    hosts=frozenset({Host.PLAIN}),
    userland=Userland.INSTALLED,
    slow=True,
    setting=Setting(cmdline="systemd.volatile=state"),
)


def _host_cannot(name: str, about: str, setting: Setting) -> Scenario:
    return Scenario(name, about, OPEN_BOOT, FAILED_BOOT, userland=Userland.INSTALLED, slow=True, setting=setting)


HOST_OFF = _host_cannot(
    "host-off", "the same where the host has its protection switched off", Setting(kvm="mbecguard=off")
)
MBEC_OFF = _host_cannot(
    "mbec-off", "the same where the host's CPU has no mode-based execute control", Setting(kvm_intel="mbec=0")
)

SWITCHED_OFF = Scenario(
    "switched-off",
    "mbecguard=off on the kernel's command line wins over everything",
    SIMULATED
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

CONTAINER = Scenario(
    "container",
    "in a container of an enlisted guest the units are skipped, and a lock by hand is refused",
    """
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
    SERVES,
    SERVICE,
    TROUBLES,
    HOST_OFF,
    MBEC_OFF,
    UNSUPPORTED,
    NO_FAILURES,
    VOLATILE,
    CONTAINER,
    SWITCHED_OFF,
)
