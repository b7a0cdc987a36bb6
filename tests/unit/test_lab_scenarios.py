# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's tables: every fact that is expected is one that the script tells, and the other way round."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from mbecguard.host import wire
from mbecguard.values.errors import UserError
from tests.lab.guestimage import cmdline, direct, helpers, qemu_command
from tests.lab.hostimage import guests
from tests.lab.layers import Host, Kvm, Stack, Userland, kvm
from tests.lab.machines import BIOS, MICROVM, SECURE
from tests.lab.parts import HERE
from tests.lab.scenarios import SCENARIOS, Scenario, Setting, by_setting, find
from tests.lab.scenarios.scenario import staged

WORDS = (HERE / "guest/words").read_text()
PRODUCT = (HERE / "guest/product").read_text()
VERBS = re.findall(r'^\t\{ "(\w+)", (\d),', (HERE / "module/main.c").read_text(), re.MULTILINE)
GUEST = [HERE / "guest" / name for name in ("init", "runner", "words", "product", "mbecguard")]
SHELL = [*(HERE / "host" / name for name in ("init", "agent", "stir", "map-digest")), *GUEST]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_expected_facts_are_told(scenario: Scenario) -> None:
    text = scenario.text + PRODUCT * ("workload\n" in scenario.text)
    told = re.findall(r"^\s*(?:fact|refused) ([\w-]+|[\w-]+\$\w+|\"\$[^\"]+\") ", text, re.MULTILINE)
    told_names = [re.compile(re.sub(r"\"?\$[^\"]+\"?|\$\w+", r"[\\w-]+", name)) for name in told]
    for host in scenario.hosts:
        for name in scenario.expected_on(host):
            assert any(pattern.fullmatch(name) for pattern in told_names), f"{name} is never told"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_scripts_use_verbs_of_the_module(scenario: Scenario) -> None:
    verbs = {name for name, _ in VERBS}
    used = set(re.findall(r"(?:^\s*|\$\()t ([a-z_]+)", scenario.text + WORDS, re.MULTILINE))
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
    subprocess.run(["sh", "-n"], input=scenario.text, text=True, check=True)


@pytest.mark.parametrize(("stage", "done"), [(1, "one again"), (2, "two again"), (3, "three"), (4, "")])
def test_each_stage_has_its_text_and_all_but_the_last_restart(stage: int, done: str) -> None:
    text = f"stage={stage}\nrestart() {{ echo again; }}\n{staged('echo one', 'echo two', 'echo three')}"
    shell = subprocess.run(["sh", "-euc", text], capture_output=True, text=True, check=True)
    assert shell.stdout.split() == done.split()


def test_numbers_are_those_of_the_contract() -> None:
    header = (HERE / "module/mbectest.h").read_text()
    assert f"HC_LOCK_CR_UPDATE	{wire.LOCK_CR_UPDATE}\n" in header
    assert f"HC_PROTECT_MEMORY	{wire.PROTECT_MEMORY}\n" in header
    assert f"MBECTEST_ENTRIES	{wire.ENTRIES_PER_PAGE}\n" in header
    assert f"QUERY={wire.QUERY_MAGIC:#x}\n" in WORDS
    assert f"SMEP={wire.CR4_SMEP:#x} SMAP={wire.CR4_SMAP:#x} WP={wire.CR0_WP:#x} VMXE=0x2000\n" in WORDS


def test_find_keeps_the_tables_order() -> None:
    first, second = SCENARIOS[:2]
    assert find([second.name, first.name], Host.OURS) == [first, second]
    host, product = (
        [row for row in SCENARIOS if not row.slow and row.userland is which]
        for which in (Userland.MINIMAL, Userland.SYSTEMD)
    )
    assert find([], Host.OURS, 2) == [row for row in host if Host.OURS in row.hosts]
    assert find([], Host.OURS, 1) == [row for row in host if Host.OURS in row.hosts and row.cpus == 1]
    assert find([], Host.OURS, 2, userland=Userland.SYSTEMD) == [row for row in product if Host.OURS in row.hosts]
    assert find([], Host.PLAIN, 2, userland=Userland.SYSTEMD) == [row for row in product if Host.PLAIN in row.hosts]
    assert [row.name for row in find(["resets"], Host.OURS)] == ["resets"]


def test_a_guest_for_each_setting() -> None:
    guests = by_setting(SCENARIOS)
    assert next(iter(guests)) == Setting()
    assert [row for rows in guests.values() for row in rows] == sorted(
        SCENARIOS, key=lambda row: list(guests).index(row.setting)
    )
    assert all({row.setting for row in rows} == {setting} for setting, rows in guests.items())
    assert all(len(rows) == 1 for setting, rows in guests.items() if setting.own_guest)


def test_only_our_kvm_has_options() -> None:
    assert all(
        row.hosts <= frozenset({Host.OURS, Host.UNENFORCED})
        for row in SCENARIOS
        if replace(row.setting, cmdline="", own_guest="", counts_boots=False) != Setting()
    )


def test_each_guest_gets_its_kvm_its_queue_and_its_cpu() -> None:
    of = {name: next(row for row in SCENARIOS if row.name == name) for name in ("canary", "audit", "vmx")}
    own = Kvm({}, {"kvm": "mbecguard=enforce", "kvm_intel": "quirk=0"})
    tree = {path: node.data.decode() for path, node in guests(Stack("6.12", Host.OURS, 1), [*of.values()], own).items()}
    assert [tree[f"lab/guests/{number:02}/queue"] for number in range(3)] == ["canary\n", "audit\n", "vmx\n"]
    modules = [[line.split() for line in tree[f"lab/guests/{number:02}/modules"].splitlines()] for number in range(3)]
    intel = ["kvm_intel", "quirk=0"]
    assert modules[0] == [["kvm", "mbecguard=enforce"], intel]
    assert modules[1] == [["kvm", "mbecguard=enforce", "mbecguard=audit", "mbecguard_selftest=1"], intel]
    cpus = [re.findall("-cpu ([^ ]+)", tree[f"lab/guests/{number:02}/qemu"]) for number in range(3)]
    assert cpus == [["host,-vmx"], ["host,-vmx"], ["host"]]


def test_a_machine_brings_its_firmware_and_its_bus() -> None:
    wanted = [next(row for row in SCENARIOS if row.name == name) for name in ("canary", "smm-unlocked")]
    tree = guests(Stack("6.12", Host.OURS, 1), wanted, Kvm({}, dict.fromkeys(("kvm", "kvm_intel"), "")))
    microvm, q35 = (tree[f"lab/guests/{number:02}/qemu"].data.decode() for number in range(2))
    for command, words in ((microvm, "microvm, smm=off serial-device"), (q35, "q35, smm=on serial-pci")):
        assert all(word in command for word in words.split())
    assert "unit=0,readonly=on,file=/lab/ovmf/code.secboot.fd" in SECURE.words
    assert [machine for machine in (MICROVM, BIOS) if machine.flash()] == []


@pytest.mark.parametrize(("name", "host", "cpus"), [("canary", Host.OURS, 1), ("sipi", Host.OURS, 2)])
def test_no_obstacle(name: str, host: Host, cpus: int) -> None:
    assert [row.name for row in find([name], host, cpus)] == [name]


@pytest.mark.parametrize(
    ("host", "cpus", "why"), [(Host.STOCK, 2, "not for stock"), (Host.OURS, 1, "needs 2 CPUs"), (Host.OURS, 2, "")]
)
def test_obstacles_are_named(host: Host, cpus: int, why: str) -> None:
    assert next(row for row in SCENARIOS if row.name == "sipi").obstacle(host, cpus) == why


def test_find_takes_what_the_host_can_run() -> None:
    assert all(Host.PLAIN in scenario.hosts for scenario in find([], Host.PLAIN))


@pytest.mark.parametrize(
    ("names", "host"), [(["nonsense"], Host.OURS), (["canary"], Host.STOCK), (["sipi"], Host.OURS)]
)
def test_find_refuses(names: list[str], host: Host) -> None:
    with pytest.raises(UserError) as caught:
        find(names, host)
    assert "tests.lab list" in caught.value.hint


@pytest.mark.parametrize(
    ("kernel", "cpus", "mib"), [("5.10", 1, 0), ("6.12", 0, 0), ("6.12", 9, 0), ("6.12", 1, 255), ("6.12", 1, 65537)]
)
def test_stacks_that_do_not_exist(kernel: str, cpus: int, mib: int) -> None:
    with pytest.raises(UserError):
        Stack(kernel, Host.OURS, cpus, memory_mib=mib)


def test_only_an_emulated_host_has_memory_that_is_not_there() -> None:
    with pytest.raises(UserError):
        Stack("6.12", Host.PLAIN, 1, memory_mib=65536)


@pytest.mark.parametrize(("mib", "told"), [(256, False), (1536, False), (1537, True), (65536, True)])
def test_a_guest_leaves_alone_what_its_host_has_not(mib: int, told: bool) -> None:
    stack = Stack("6.12", Host.OURS, 1, memory_mib=mib)
    command = qemu_command(stack, "qemu", [], bus="device", folder="/f", console="null", disk=None)
    assert command[command.index("-m") + 1] == str(mib)
    assert ("mem=3072M" in cmdline(stack).split()) is told


@pytest.mark.parametrize("cpus", [1, 2])
def test_qemu_command(cpus: int) -> None:
    stack = Stack("6.12", Host.OURS, cpus)
    boot = direct("/k", "/f/initrd", "a b")
    command = qemu_command(stack, "qemu -M x", boot, bus="device", folder="/f", console="null", disk=None)
    assert command[command.index("-smp") + 1] == str(cpus)
    assert command[command.index("-kernel") + 1] == "/k"
    assert command[command.index("-initrd") + 1] == "/f/initrd"
    assert command[command.index("-append") + 1] == "a b"
    assert "pipe,id=lab,path=/f/guest" in command
    assert command[command.index("-m") + 1] == str(stack.mib)
    assert "-no-reboot" not in command


def test_what_python_leaves_beside_helpers_is_no_helper(tmp_path: Path) -> None:
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "helper.py").write_bytes(b"pass")
    assert helpers(tmp_path).keys() == {"lab/helpers/helper.py"}
    named = {name for row in SCENARIOS for name in re.findall(r"/(lab/helpers/[\w.]+)", row.text)}
    assert named
    assert named <= helpers().keys()


def test_a_debug_host_has_logs_and_modules_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    stock, debug = Stack("6.12", Host.OURS, 1), Stack("6.12", Host.OURS, 1, debug=True)
    assert (stock.debug_suite, debug.debug_suite) == ("", "forky")
    assert str(stock) != str(debug)
    monkeypatch.setattr("tests.lab.kvmsource.built", lambda folder, _build: folder)
    assert kvm(debug, "7.2.0-debug").files["kvm"].parent.name.startswith("lab-debug-kvm-")
    patched = kvm(replace(debug, host=Host.UNENFORCED), "7.2.0-debug").files["kvm"].parent.name
    assert patched.startswith("lab-debug-unenforced-")
