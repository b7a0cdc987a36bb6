# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's tables: every fact that is expected is one that the script tells, and the other way round."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from mbecguard.errors import UserError
from mbecguard.host import wire
from tests.lab.guestimage import qemu_command
from tests.lab.layers import Host, Stack
from tests.lab.parts import HERE
from tests.lab.scenarios import SCENARIOS, Scenario, find

WORDS = (HERE / "guest/words").read_text()
VERBS = re.findall(r'^\t\{ "(\w+)", (\d),', (HERE / "module/main.c").read_text(), re.MULTILINE)
SHELL = [HERE / name for name in ("host/init", "host/agent", "guest/init", "guest/runner", "guest/words")]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_expected_facts_are_told(scenario: Scenario) -> None:
    told = re.findall(r"^\s*(?:fact|refused) ([\w-]+|[\w-]+\$\w+) ", scenario.script, re.MULTILINE)
    told_names = [re.compile(re.sub(r"\$\w+", r"\\w+", name)) for name in told]
    for host in scenario.hosts:
        for name in scenario.expected_on(host):
            assert any(pattern.fullmatch(name) for pattern in told_names), f"{name} is never told"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_scripts_use_verbs_of_the_module(scenario: Scenario) -> None:
    verbs = {name for name, _ in VERBS}
    used = set(re.findall(r"(?:^\s*|\$\()t ([a-z_]+)", scenario.script + WORDS, re.MULTILINE))
    assert used
    assert used <= verbs


def test_variants_only_for_hosts_that_run_the_scenario() -> None:
    for scenario in SCENARIOS:
        assert set(scenario.variants) <= scenario.hosts
        assert scenario.expect
        for host in scenario.variants:
            assert scenario.expected_on(host) != scenario.expect


def test_names_are_unique_words() -> None:
    names = [scenario.name for scenario in SCENARIOS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[a-z][a-z0-9-]*", name) for name in names)


@pytest.mark.parametrize("path", SHELL, ids=lambda path: str(path.name))
def test_shell_files_parse(path: Path) -> None:
    subprocess.run(["sh", "-n", path], check=True)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_scripts_parse(scenario: Scenario) -> None:
    subprocess.run(["sh", "-n"], input=scenario.script, text=True, check=True)


def test_numbers_are_those_of_the_contract() -> None:
    header = (HERE / "module/mbectest.h").read_text()
    assert f"HC_LOCK_CR_UPDATE	{wire.LOCK_CR_UPDATE}\n" in header
    assert f"HC_PROTECT_MEMORY	{wire.PROTECT_MEMORY}\n" in header
    assert f"MBECTEST_ENTRIES	{wire.ENTRIES_PER_PAGE}\n" in header
    assert f"QUERY={wire.QUERY_MAGIC:#x}\n" in WORDS
    assert f"SMEP={wire.CR4_SMEP:#x} WP={wire.CR0_WP:#x}\n" in WORDS


def test_find_keeps_the_tables_order() -> None:
    first, second = SCENARIOS[:2]
    assert find([second.name, first.name], Host.OURS) == [first, second]
    assert find([], Host.OURS) == [row for row in SCENARIOS if not row.slow]
    assert [row.name for row in find(["resets"], Host.OURS)] == ["resets"]


def test_find_takes_what_the_host_can_run() -> None:
    assert all(Host.PLAIN in scenario.hosts for scenario in find([], Host.PLAIN))


@pytest.mark.parametrize(("names", "host"), [(["nonsense"], Host.OURS), (["canary"], Host.STOCK)])
def test_find_refuses(names: list[str], host: Host) -> None:
    with pytest.raises(UserError) as caught:
        find(names, host)
    assert "tests.lab list" in caught.value.hint


@pytest.mark.parametrize(("kernel", "cpus", "mib"), [("5.10", 1, 0), ("6.12", 0, 0), ("6.12", 9, 0), ("6.12", 1, 2000)])
def test_stacks_that_do_not_exist(kernel: str, cpus: int, mib: int) -> None:
    with pytest.raises(UserError):
        Stack(kernel, Host.OURS, cpus, memory_mib=mib)


@pytest.mark.parametrize("cpus", [1, 2])
def test_qemu_command(cpus: int) -> None:
    stack = Stack("6.12", Host.OURS, cpus)
    command = qemu_command(stack, "qemu -M x", bus="device", folder="/f", console="null", kernel="/k", disk=None)
    assert command[command.index("-smp") + 1] == str(cpus)
    assert command[command.index("-kernel") + 1] == "/k"
    assert command[command.index("-initrd") + 1] == "/f/initrd"
    assert "pipe,id=lab,path=/f/guest" in command
    assert command[command.index("-m") + 1] == str(stack.mib)
    assert "-no-reboot" not in command
