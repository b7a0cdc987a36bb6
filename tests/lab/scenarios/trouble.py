# SPDX-License-Identifier: GPL-2.0-or-later
"""The product where something is wrong: callers, the shim, the host, an agent that is killed."""

from __future__ import annotations

import re

from ..layers import Host, Userland
from .product import REFUSED
from .scenario import ALL_HOSTS, Scenario, Setting, alone, same

SHIM_CHECKS = (
    "info clear store sizes fields pointers unknown unprivileged passed mappings content canary user mmap fetch"
)
FUZZED = re.compile("accepted [1-9][0-9]* refused [1-9][0-9]* unexpected 0")

#: Scenario, the patch's parameter, what the host does.
LIES = (
    ("does-nothing", 1, "says yes and does nothing"),
    ("retries", 2, "injects #PF 0x11, which Linux takes for a spurious one and retries"),
    ("loops", 3, "resumes the guest on the denied instruction"),
)


def _liar(name: str, lie: int, what: str) -> Scenario:
    """The agent has to find out, to come out of it, and to undo what it did."""
    return Scenario(
        name,
        f"a host that {what} is found out: exit status 4, degraded, and the guest is as before",
        """
        fact lock "$(agent lock)"
        fact said "$(head -n 20 /run/agent.err | grep -c 'does not enforce')"
        fact status "$(agent status --json) $(field state)"
        fact open "$(guarded restricted)"
        fact runs "$(t run 0) $(usertool run 0) $(shimtest canary || true)"
        fact modules "$(cat /proc/sys/kernel/modules_disabled) $(works modprobe wireguard)"
        """,
        {
            "lock": "4",
            "said": re.compile("[1-9]"),
            "status": "4 degraded",
            "open": "0",
            "runs": "ran ran canary ok",
            "modules": "0 done",
        },
        userland=Userland.SYSTEMD,
        slow=True,
        setting=Setting(kvm=f"mbecg_lie={lie}", liar=True),
    )


SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        "rights",
        "the shim's device refuses bad calls and callers; 100 000 random calls leave the guest alive",
        f"""
        for name in {SHIM_CHECKS} nokvm; do
            fact "$name" "$(shimtest "$name" || true)"
        done
        fact hold "$(shimtest hold "$(plain_module wireguard)" wireguard || true)"
        open='exec 3<>/dev/mbecguard'
        fact other-user "$(refused_by setpriv --reuid 65534 --clear-groups sh -c "$open")"
        fact container "$(refused_by setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin sh -c "$open")"
        fact namespace "$(refused_by unshare --user --map-root-user sh -c "$open")"
        fact root "$(works sh -c "$open")"
        fact fuzz "$(shimfuzz 1 100000 || true)"
        fact alive "$(shimtest canary || true)"
        """,
        {name: re.compile(f"(hypervisor .*)?{name} ok") for name in SHIM_CHECKS.split()}
        | dict.fromkeys(("other-user", "namespace", "container"), REFUSED)
        | {
            "hold": "hold ok",
            "root": "done",
            "nokvm": re.compile("nokvm failed .*"),
            "fuzz": FUZZED,
            "alive": "canary ok",
        },
        hosts=ALL_HOSTS,
        variants={Host.PLAIN: {"nokvm": "nokvm ok"}},
        userland=Userland.SYSTEMD,
        slow=True,
    ),
    Scenario(
        "ioctl-million",
        "a million random calls of the shim's device leave the guest alive, and no line in its log",
        """
        complaints=$(complaints)
        fact fuzz "$(shimfuzz 3 1000000 || true)"
        fact kernel-log $(($(complaints) - complaints))
        fact alive "$(shimtest canary || true)"
        """,
        {"fuzz": FUZZED, "kernel-log": "0", "alive": "canary ok"},
        hosts=ALL_HOSTS,
        userland=Userland.SYSTEMD,
        slow=True,
    ),
    Scenario(
        "fuzzed",
        "the same calls at random in a guest whose allocator checks itself: slub_debug=FZPU",
        """
        complaints=$(complaints)
        fact checked "$(cat /sys/kernel/slab/kmalloc-4k/sanity_checks /sys/kernel/slab/kmalloc-4k/red_zone)"
        for seed in $(seq 2 11); do
            fact fuzz-$seed "$(shimfuzz "$seed" 10000 || true)"
        done
        fact kernel-log $(($(complaints) - complaints))
        fact alive "$(shimtest canary || true)"
        """,
        {
            "checked": "1 1",
            **{f"fuzz-{seed}": FUZZED for seed in range(2, 12)},
            "kernel-log": "0",
            "alive": "canary ok",
        },
        userland=Userland.SYSTEMD,
        slow=True,
        setting=Setting(cmdline="slub_debug=FZPU"),
    ),
    alone(
        "refusals",
        "not root, no shim, a shim of another version, a second agent: each is told, and the right agent locks",
        """
        fact nobody "$(verdict setpriv --reuid 65534 --clear-groups mbecguard lock)"
        rmmod mbecguard_shim
        fact no-shim "$(verdict mbecguard lock)"
        insmod /lab/next/mbecguard_shim.ko
        fact other-shim "$(verdict mbecguard lock)"
        rmmod mbecguard_shim
        insmod /lab/mbecguard_shim.ko
        fact untouched "$(agent status) $(guarded restricted) $(works modprobe wireguard)"
        mbecguard lock --json >/run/first.out 2>/run/first.err &
        until [ -s /var/lib/mbecguard/lock ]; do sleep 0.1; done
        fact second "$(verdict mbecguard lock)"
        first=0
        wait $! || first=$?
        fact first "$first $(grep -c '"state": "sealed"' /run/first.out)"
        fact state "$(agent status) $(guarded sealed)"
        """,
        {
            "nobody": re.compile("1 mbecguard: only root can look at the running guest.* hint: run as root.*"),
            "no-shim": re.compile("3 mbecguard: no host interface: .* is missing.* hint: modprobe mbecguard_shim.*"),
            "other-shim": re.compile("3 mbecguard: the shim speaks version 3 .*agent 2.* hint: install .* same .*"),
            "untouched": "6 0 done",
            "second": re.compile("1 mbecguard: another mbecguard is at work .*process [0-9]+.* hint: wait .*"),
            "first": "0 1",
            "state": "0 1",
        },
        Userland.SYSTEMD,
    ),
    alone(
        "locked-down",
        "under lockdown=integrity the shim clears no bit but what the host pins; `rmmod -f` takes nothing off a seal",
        """
        fact clear-before "$(shimtest clear || true)"
        fact module-before "$(refused_by modprobe xfrm_user)"
        echo integrity >/sys/kernel/security/lockdown
        fact clear "$(shimtest locked || true)"
        fact lock "$(agent lock --json --set freeze.modules=off) $(field state)"
        rmmod -f mbecguard_shim >/run/removed 2>&1 &
        until grep -q '^mbecguard_shim .* Unloading' /proc/modules; do sleep 0.1; done
        sleep 5
        fact removal "$(kill -0 $! && echo waits) $(grep -c '^mbecguard_shim .* Unloading' /proc/modules || true)"
        fact module "$(refused_by modprobe wireguard)"
        fact by-shim "$(dmesg | grep -c 'refused: modules are held' || true)"
        fact status "$(agent status) $(guarded sealed)"
        fact neighbour "$(t run 0) $(works sh -c 'for i in $(seq 20); do /bin/true || exit 1; done')"
        """,
        {
            "clear-before": "clear ok",
            "module-before": "accepted",
            "clear": "locked ok",
            "lock": "0 sealed",
            "removal": "waits 1",
            "module": re.compile("refused: .*Operation not permitted.*"),
            "by-shim": re.compile("[1-9]"),  # wireguard's own needs come first
            "status": "1 1",  # nobody can ask the shim any more
            "neighbour": "ran done",
        },
        Userland.SYSTEMD,
    ),
    Scenario(
        "hosts-say-no",
        "a host that answers EPERM, EINVAL or ENOSYS to the request is reported, the guest as before; then it may lock",
        """
        lie() { host run "echo $1 >/sys/module/kvm/parameters/mbecg_lie" >/dev/null; }
        for answer in 4 5 6; do
            lie $answer
            fact answer-$answer "$(verdict mbecguard lock)"
            fact state-$answer "$(agent status --json) $(field state) $(guarded restricted) $(t run 0)"
        done
        fact modules "$(cat /proc/sys/kernel/modules_disabled) $(works modprobe wireguard)"
        lie 0
        fact lock "$(agent lock --json) $(field state)"
        """,
        {
            **{
                f"answer-{lie}": re.compile(rf"3 mbecguard: not locked: .*host answered {name} \(-{number}\).*")
                for lie, name, number in ((4, "PERM", 1), (5, "INVALID", 22), (6, "NO_HYPERCALL", 1000))
            },
            **same("state-4 state-5 state-6", "6 open 0 ran"),
            "modules": "0 done",
            "lock": "0 sealed",
        },
        userland=Userland.SYSTEMD,
        slow=True,
        setting=Setting(kvm="mbecg_lie=0", liar=True),
    ),
    alone(
        "killed",
        "killed at any step the agent leaves a guest that lives, a state that is true, and a lock that completes",
        """
        PYTHONPATH=/lab/agent python3 -u /lab/helpers/killed.py | while read -r step end; do
            fact "$step" "$end"
        done
        fact completed "$(agent lock --json --set freeze.modules=off) $(field state)"
        before=$(guarded violations)
        fact switch "$(cat /proc/sys/kernel/modules_disabled)"
        fact late "$(refused_by modprobe wireguard)"
        fact unload "$(unloads iscsi_tcp)"
        fact denied $(($(guarded violations) - before))
        """,
        {
            **same("check hold survey", "SIGKILL open"),
            **same("apply", "SIGKILL open"),
            **same("resurvey prove", "SIGKILL applied"),
            **same("freeze settle last-survey pin seal", "SIGKILL proven"),
            **same("one-way record", "SIGKILL sealed"),
            "completed": "0 sealed",
            "switch": "0",  # only the shim refuses
            "late": REFUSED,
            "unload": "done",
            "denied": "0",
        },
        Userland.SYSTEMD,
    ),
    Scenario(
        "no-host",
        "a host without support: the agent says so and changes nothing",
        """
        fact check "$(agent check)"
        fact lock "$(agent lock)"
        fact said "$(head -1 /run/agent.err)"
        fact state "$(agent status)"
        fact modules "$(cat /proc/sys/kernel/modules_disabled) $(works modprobe wireguard)"
        """,
        {
            "check": "3",
            "lock": "3",
            "said": re.compile(".*(host|KVM).*"),
            "state": "6",
            "modules": "0 done",
        },
        hosts=frozenset({Host.STOCK, Host.PLAIN}),
        userland=Userland.SYSTEMD,
    ),
    *(_liar(*row) for row in LIES),
)
