# SPDX-License-Identifier: GPL-2.0-or-later
"""What is paid, in instructions of the emulated machine. One boot of Bochs answers what hosts pay: for one request, by
the guest's memory; for a guest that asks for nothing, with stock KVM, with ours off, and with ours ready to enforce.
Another one answers what a guest pays that is locked at boot.
"""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mbecguard.values.errors import Exit, UserError
from tests.corpus.cache import say

from . import verdict
from .layers import GUEST_SUITES, HOST_SERIES, HOST_SUITES, Host, Stack, Userland
from .run import run
from .scenarios import find
from .scenarios.costs import BOOTS, KVMS, SIZES
from .verdict import Outcome, Told

#: Per second of L1's clock (`ips` in bochs.CONFIG, `tsc_early_khz` in hostimage.CMDLINE).
RATE = 300e6
#: Of the dearest request to the cheapest one; of a boot with our KVM to one with stock KVM.
REQUEST_RATIO, BOOT_RATIO = 1.2, 1.03
#: Of the work of a sealed guest to that of an open one; and how often an idle one may exit more, in its first minute:
#: the daemon looks once more then, which was 850 to 1000 exits, most of them ticks.
WORK_RATIO, IDLE_EXITS = 1.03, 1500

Facts = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Boots:
    """A guest that boots several times, seen from its host."""

    first: float  #: instructions from before QEMU's start, idle ones not counted
    later: float  #: the mean of the reboots
    exits: int  #: of the first boot
    faults: int  #: EPT violations of the first boot


def boots(facts: Facts) -> Boots:
    """The facts of a `boot-` scenario, all there."""
    later = [_busy(facts[f"left-{stage - 1}"], facts[f"arrived-{stage}"]) for stage in range(2, BOOTS + 1)]
    first = _busy(facts["started-1"], facts["arrived-1"])
    return Boots(first, sum(later) / len(later), int(facts["exits-1"]), int(facts["faults-1"]))


def _busy(start: str, end: str) -> float:
    """Instructions between two readings of /proc/uptime: seconds, and those that the one CPU was idle."""
    (from_up, from_idle), (to_up, to_idle) = (map(float, text.split()) for text in (start, end))
    return RATE * ((to_up - from_up) - (to_idle - from_idle))


@dataclass(frozen=True, slots=True)
class Life:
    """One boot of the scenario `life`; instructions are those of guest and host, idle ones not counted."""

    boot: float  #: until nothing was left to start
    lock: float  #: of these, what the service took, with what shim and host did for it
    idle_exits: int  #: of a minute
    work: float  #: instructions
    work_exits: int


def lives(facts: Facts) -> dict[str, Life]:
    """The facts of `life`, all there."""
    return {name: _life(facts, stage) for stage, name in enumerate(("without", "first", "later", "text-log"), 2)}


def _life(facts: Facts, stage: int) -> Life:
    up, idle, later_up, later_idle = facts[f"worked-{stage}"].split()
    lock = facts[f"lock-{stage}"]
    return Life(
        _busy("0 0", facts[f"settled-{stage}"]),
        int(lock) * RATE / 1e9 if lock.isdigit() else 0.0,
        int(facts[f"idle-exits-{stage}"]),
        _busy(f"{up} {idle}", f"{later_up} {later_idle}"),
        int(facts[f"work-exits-{stage}"]),
    )


def life_problems(rows: Mapping[str, Life]) -> list[str]:
    """A boot of `lives` -> what it cost."""
    without = rows["without"]
    problems = []
    for name, row in rows.items():
        if row.work > WORK_RATIO * without.work:
            problems.append(f"{name}: its work costs {row.work / without.work:.3f} times that of an open guest")
        if row.idle_exits > without.idle_exits + IDLE_EXITS:
            problems.append(f"{name}: idle, it exits {row.idle_exits} times a minute, an open one {without.idle_exits}")
    return problems


def memory_problems(costs: Mapping[int, int]) -> list[str]:
    """Guest memory in MiB -> instructions of the request."""
    ratio = max(costs.values()) / min(costs.values())
    return [f"the dearest request costs {ratio:.2f} times the cheapest"] if ratio > REQUEST_RATIO else []


def boot_problems(rows: Mapping[str, Boots]) -> list[str]:
    """A name of `KVMS` -> what it cost."""
    stock = rows["stock"]
    return [
        f"{name} KVM: {what} costs {cost / of_stock:.3f} times that with stock KVM"
        for name, row in rows.items()
        for what, cost, of_stock in (("a first boot", row.first, stock.first), ("a reboot", row.later, stock.later))
        if cost > BOOT_RATIO * of_stock
    ]


def _memory(told: Told) -> list[str]:
    rows = {mib: dict(told.facts[f"memory-{mib}"]) for mib in SIZES}
    print(f"{'guest MiB':>10}{'mapped MiB':>12}{'boundaries':>12}{'instructions':>14}{'host KiB':>10}")
    for mib, row in rows.items():
        mapped = int(row["mapped-4k"]) // 256 + int(row["mapped-2m"]) * 2
        print(f"{mib:10}{mapped:12}{row['boundaries']:>12}{row['instructions']:>14}{row['grown-kib']:>10}")
    return memory_problems({mib: int(row["instructions"]) for mib, row in rows.items()})


def _boots(told: Told) -> list[str]:
    rows = {name: boots(dict(told.facts[f"boot-{name}"])) for name in KVMS}
    stock = rows["stock"]
    print(f"{'KVM':10}{'first boot':>14}{'ratio':>8}{'reboot':>14}{'ratio':>8}{'exits':>9}{'EPT faults':>12}")
    for name, row in rows.items():
        print(
            f"{name:10}{row.first / 1e6:12.0f} M{row.first / stock.first:8.3f}{row.later / 1e6:12.0f} M"
            f"{row.later / stock.later:8.3f}{row.exits:9}{row.faults:12}"
        )
    return boot_problems(rows)


def _lives(told: Told) -> list[str]:
    facts = dict(told.facts["life"])
    rows = lives(facts)
    print(f"{'service':10}{'boot':>10}{'lock':>10}{'idle exits':>12}{'work':>10}{'ratio':>8}{'its exits':>11}")
    for name, row in rows.items():
        print(
            f"{name:10}{row.boot / 1e6:8.0f} M{row.lock / 1e6:8.0f} M{row.idle_exits:12}{row.work / 1e6:8.0f} M"
            f"{row.work / rows['without'].work:8.3f}{row.work_exits:11}"
        )
    print(f"parts of a lock, in millions: {facts['parts']}")
    return life_problems(rows)


@dataclass(frozen=True, slots=True)
class Table:
    """What one boot of Bochs is asked for."""

    scenarios: tuple[str, ...]
    show: Callable[[Told], list[str]]  #: prints it; the problems found
    userland: Userland = Userland.MINIMAL


TABLES = {
    "memory": Table(tuple(f"memory-{mib}" for mib in SIZES), _memory),
    "boot": Table(tuple(f"boot-{name}" for name in KVMS), _boots),
    "life": Table(("life",), _lives, Userland.INSTALLED),
}


def _measure(stack: Stack, tables: list[Table], limit: float) -> list[str]:
    """The problems found, after the tables are printed: one boot for those of one user space."""
    problems = []
    for userland in Userland:
        if wanted := [table for table in tables if table.userland is userland]:
            problems += _boot(dataclasses.replace(stack, userland=userland), wanted, limit)
    return problems


def _boot(stack: Stack, tables: list[Table], limit: float) -> list[str]:
    scenarios = find([name for table in tables for name in table.scenarios], stack.host, stack.cpus, stack.userland)
    told = verdict.read(run(stack, scenarios, limit).verdict)
    judgements = [verdict.judge(row.name, row.expected_on(stack.host), told) for row in scenarios]
    bad = [row for row in judgements if row.outcome is not Outcome.PASSED]
    if bad:
        return [f"{row.scenario}: {'; '.join((row.outcome.value, *row.problems))}" for row in bad]
    return [problem for table in tables for problem in table.show(told)]


def main() -> int:
    """The command line; 0 only if every cost is within its bound."""
    # A terminated lab ends its emulator: SystemExit runs the clean-up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(Exit.ERROR))
    parser = argparse.ArgumentParser("python -m tests.lab.costs", description=__doc__)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(TABLES)} (default: all)")
    parser.add_argument("--kernel", choices=GUEST_SUITES, default="6.12", help="the guest's (default 6.12)")
    parser.add_argument("--host-kernel", choices=HOST_SUITES, default=HOST_SERIES, help=f"(default {HOST_SERIES})")
    parser.add_argument("--cpus", type=int, default=1, help="of the guest (default 1)")
    parser.add_argument("--limit", type=float, default=2700, metavar="SECONDS", help="for a boot (default 2700)")
    parser.add_argument("--modules", type=Path, metavar="FOLDER", help="our KVM's, if not from the cache")
    options = parser.parse_args()
    if unknown := set(options.tables) - set(TABLES):
        parser.error(f"no such table: {', '.join(sorted(unknown))}")
    try:
        stack = Stack(
            options.kernel, Host.OURS, options.cpus, kvm_folder=options.modules, host_kernel=options.host_kernel
        )
        problems = _measure(stack, [TABLES[name] for name in options.tables or TABLES], options.limit)
    except UserError as error:
        print(f"error: {error.message}\n  hint: {error.hint}", file=sys.stderr)
        return error.status
    for problem in problems:
        say(f"! {problem}")
    return Exit.ERROR if problems else Exit.OK


if __name__ == "__main__":
    sys.exit(main())
