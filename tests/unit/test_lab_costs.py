# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's cost tables: what counts as a cost, and when it is too much."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mbecguard.values.errors import Exit
from tests.lab import bochs, costs, hostimage
from tests.lab.bochs import Run
from tests.lab.costs import Boots, Life, boot_problems, boots, life_problems, lives, memory_problems
from tests.lab.layers import Kvm, Stack
from tests.lab.scenarios import SCENARIOS, Scenario, Setting
from tests.lab.scenarios.costs import BOOTS, KVMS, SIZES

STOCK = Boots(1e9, 5e8, 1000, 100)
OPEN = Life(1e9, 0, 1000, 1e9, 5000)


def test_the_rate_is_the_machines() -> None:
    assert f"ips={costs.RATE:.0f}," in bochs.CONFIG
    assert f"tsc_early_khz={costs.RATE / 1000:.0f} " in hostimage.CMDLINE


def test_idle_time_is_no_cost() -> None:
    facts = {"started-1": "10.00 4.00 ", "arrived-1": "20.00 5.00 ", "exits-1": "7", "faults-1": "3"}
    facts |= {"left-1": "20.50 5.00 ", "arrived-2": "24.50 6.00 "}
    facts |= {"left-2": "25.00 6.00 ", "arrived-3": "30.00 6.00 "}
    assert BOOTS == 3
    assert boots(facts) == Boots(9 * costs.RATE, 4 * costs.RATE, 7, 3)


@pytest.mark.parametrize(("dearest", "bad"), [(100, False), (120, False), (121, True)])
def test_a_request_costs_much_the_same_whatever_the_guests_memory(dearest: int, bad: bool) -> None:
    assert bool(memory_problems({256: 110, 1024: dearest, 65536: 100})) is bad


@pytest.mark.parametrize(
    ("row", "named"),
    [
        (STOCK, []),
        (replace(STOCK, first=9e8), []),
        (replace(STOCK, first=1.04e9), ["a first boot"]),
        (replace(STOCK, later=5.2e8), ["a reboot"]),
        (replace(STOCK, first=1.04e9, later=5.2e8), ["a first boot", "a reboot"]),
    ],
)
def test_our_kvm_costs_what_stock_kvm_does(row: Boots, named: list[str]) -> None:
    problems = boot_problems({"stock": STOCK, "off": STOCK, "unused": row})
    assert len(problems) == len(named)
    assert all(f"unused KVM: {what} " in problem for what, problem in zip(named, problems, strict=True))


def test_a_life_is_what_guest_and_host_did_in_it() -> None:
    facts: dict[str, str] = {}
    for stage, lock in ((2, "[not set]"), (3, "2000000000"), (4, "1000000000"), (5, "1000000000")):
        facts |= {f"settled-{stage}": "10.00 4.00", f"lock-{stage}": lock, f"idle-exits-{stage}": "7"}
        facts |= {f"worked-{stage}": "20.00 5.00 30.00 6.50", f"work-exits-{stage}": "9"}
    row = Life(6 * costs.RATE, 0, 7, 8.5 * costs.RATE, 9)
    first, later = replace(row, lock=2 * costs.RATE), replace(row, lock=costs.RATE)
    assert lives(facts) == {"without": row, "first": first, "later": later, "text-log": later}


@pytest.mark.parametrize(
    ("row", "named"),
    [
        (replace(OPEN, work=1.02e9, idle_exits=2500, lock=1e9), []),
        (replace(OPEN, work=1.04e9), ["later: its work "]),
        (replace(OPEN, idle_exits=2501), ["later: idle, "]),
    ],
)
def test_a_seal_costs_nothing_afterwards(row: Life, named: list[str]) -> None:
    problems = life_problems({"without": OPEN, "first": OPEN, "later": row})
    assert [problem.startswith(name) for problem, name in zip(problems, named, strict=True)] == [True] * len(named)


def test_tables_are_made_of_scenarios() -> None:
    slow = {scenario.name for scenario in SCENARIOS if scenario.slow}
    assert {name for table in costs.TABLES.values() for name in table.scenarios} <= slow
    assert len(costs.TABLES["memory"].scenarios) == len(SIZES)
    assert len(costs.TABLES["boot"].scenarios) == len(KVMS)


@pytest.mark.parametrize("text", ["", '{"scenario":"memory-256","stage":1}\n{"scenario":"memory-256","end":"ok"}\n'])
def test_without_facts_there_is_no_table(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(stack: Stack, scenarios: list[Scenario], limit: float) -> Run:
        return Run(text, limit, 0, True, Path())

    monkeypatch.setattr(costs, "run", run)
    monkeypatch.setattr("sys.argv", ["costs", "memory"])
    assert costs.main() == Exit.ERROR
    shown = capsys.readouterr().out
    assert all(f"! memory-{mib}: " in shown for mib in SIZES)
    assert "guest MiB" not in shown


def test_each_guest_gets_the_kvm_of_its_setting() -> None:
    ours = Kvm({}, {"kvm": "mbecguard=enforce", "kvm_intel": "x=1"})
    lines = {name: hostimage._load(setting, ours).split("\n") for name, (setting, _) in KVMS.items()}
    assert [line.split()[0] for line in lines["stock"][:-1]] == ["stock/kvm", "stock/kvm_intel"]
    assert "mbecguard" not in "".join(lines["stock"])
    assert [line.split()[0] for line in lines["off"][:-1]] == ["kvm", "kvm_intel"]
    assert [lines[name][0].split()[-1] for name in ("off", "unused")] == ["mbecguard=off", "mbecguard=enforce"]
    assert hostimage._load(Setting(kvm_intel="ept=0"), ours).split()[-2:] == ["x=1", "ept=0"]
