# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's own KVM selftests on emulated hardware, with stock KVM and with ours, in one boot.

`python -m tests.lab.selftests --help`. Intel's CPU is Bochs's, with MBEC; AMD's is QEMU's, with nested paging, where
our kvm-amd.ko has nothing to do but not to harm.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import PurePath

from mbecguard.values.errors import Exit, UserError, die
from tests.corpus.archive import kernel
from tests.corpus.cache import built, cache_dir, digest, require_tools, say

from . import bochs, hostimage, svm
from .layers import HOST_SERIES, HOST_SUITES, Host
from .locks import alone
from .run import BUILD_LIMIT, Progress
from .selftestimage import initrd

SKIPPED = 4
TIMED_OUT = 137  #: killed by the host's `timeout`


class Machine(Enum):
    """Who emulates the host's CPU."""

    INTEL = "intel"  #: Bochs: VMX, EPT, mode-based execute control
    AMD = "amd"  #: QEMU TCG: SVM, nested paging


@dataclass(frozen=True, slots=True)
class Selftest:
    """A test of the kernel's source and how it is started: one emulated CPU, 2 GiB, 40 huge pages."""

    path: str
    arguments: str = ""
    unfit: Mapping[Machine, str] = field(default_factory=dict)  #: where it cannot pass, and why
    left_out: Mapping[Machine, str] = field(default_factory=dict)  #: where it runs only when named, and why

    @property
    def name(self) -> str:
        """What the table calls it."""
        return PurePath(self.path).name

    @property
    def command(self) -> str:
        """What runs it, in the folder of the tests."""
        return f"{'sh ' * self.path.endswith('.sh')}./{self.path} {self.arguments}"


SELFTESTS = (
    Selftest("x86/nx_huge_pages_test.sh"),
    Selftest("x86/dirty_log_page_splitting_test", "-b 16M -s anonymous_hugetlb_2mb"),
    Selftest("x86/smm_test"),
    Selftest("x86/set_sregs_test"),
    Selftest("x86/sync_regs_test"),
    Selftest("x86/state_test"),
    Selftest("x86/fix_hypercall_test"),
    Selftest("x86/kvm_pv_test"),
    Selftest("x86/triple_fault_event_test"),
    Selftest("x86/nested_tdp_fault_test"),
    Selftest("x86/nested_dirty_log_test"),
    Selftest("x86/nested_exceptions_test", unfit={Machine.AMD: "QEMU reports another error code in exit_info_1"}),
    Selftest("x86/exit_on_emulation_failure_test"),
    Selftest(
        "x86/smaller_maxphyaddr_emulation_test",
        unfit=dict.fromkeys(Machine, "needs allow_smaller_maxphyaddr, or shadow paging"),
    ),
    Selftest("x86/svm_vmcall_test", unfit={Machine.INTEL: "needs SVM"}),
    Selftest("kvm_page_table_test", "-b 32M -v 2"),
    Selftest("memslot_modification_stress_test", "-b 16M -v 2"),
    Selftest("access_tracking_perf_test", "-b 16M -v 2"),
    Selftest("pre_fault_memory_test"),
    Selftest("demand_paging_test", "-b 16M -v 2"),
    Selftest("dirty_log_test", "-i 3 -I 10"),
    Selftest("set_memory_region_test", "2", left_out={Machine.INTEL: "Bochs hangs, with stock KVM too"}),
    Selftest("mmu_stress_test", "-c 1 -m 1 -s 1"),
)


#: The tests as older trees have them; None: not there yet, or not for these machines.
OLDER: Mapping[str, Mapping[str, Selftest | None]] = {
    "6.12": {
        "x86/nested_tdp_fault_test": None,
        "x86/nested_dirty_log_test": Selftest("x86_64/vmx_dirty_log_test", unfit={Machine.AMD: "needs VMX"}),
        "mmu_stress_test": None,  # max_guest_memory_test counts three quarters of one CPU as none
        "access_tracking_perf_test": None,  # needs CONFIG_IDLE_PAGE_TRACKING, which Debian has not
    }
}


def of_series(series: str) -> tuple[Selftest, ...]:
    """The tests that the kernel of this series has, by the paths of its tree."""
    if series not in OLDER:
        return SELFTESTS
    there = (OLDER[series].get(test.path, test) for test in SELFTESTS)
    return tuple(replace(test, path=test.path.replace("x86/", "x86_64/")) for test in there if test)


@dataclass(frozen=True, slots=True)
class Result:
    """One run of one test."""

    status: int
    passes: int  #: cases that the test itself calls ok
    seconds: int  #: of the emulated machine
    reason: str  #: of a skip or a failure, in the test's words

    @property
    def word(self) -> str:
        """What the table says."""
        return {0: "passed", SKIPPED: "skipped", TIMED_OUT: "timed out"}.get(self.status, f"failed ({self.status})")


@dataclass(frozen=True, slots=True)
class Fared:
    """How one KVM came through all tests."""

    mode: str  #: of our parameter; "none": not our module
    mbec: str  #: of kvm_intel
    unloaded: int  #: status of removing it; a VM that was never freed holds it
    complaints: int  #: lines of the kernel log: warnings, oopses, stalls


@dataclass(frozen=True, slots=True)
class Entries:
    """How often guests were entered, by bit 22 of the secondary controls that the VMCS held (tests/lab/vmcs)."""

    guest_without: int
    guest_with: int
    nested_without: int
    nested_with: int


@dataclass(frozen=True, slots=True)
class Told:
    """What the verdict port said."""

    results: Mapping[tuple[str, str], Result]  #: (test, kvm)
    hosts: Mapping[str, Fared]
    entries: Mapping[str, Entries]
    finished: bool


def read(text: str) -> Told:
    """Parse the port's text; what is no line of ours is not there."""
    results: dict[tuple[str, str], Result] = {}
    hosts: dict[str, Fared] = {}
    entries: dict[str, Entries] = {}
    finished = False
    for line in text.replace("\r", "").split("\n")[:-1]:
        match _parsed(line):
            case {
                "selftest": str(name),
                "kvm": str(host),
                "status": int(status),
                "passes": int(passes),
                "seconds": int(seconds),
                "reason": str(reason),
            }:
                results[name, host] = Result(status, passes, seconds, reason)
            case {
                "kvm": str(host),
                "mode": str(mode),
                "mbec": str(mbec),
                "unloaded": int(left),
                "complaints": int(bad),
            }:
                hosts[host] = Fared(mode, mbec, left, bad)
            case {"kvm": str(host), "entries": str(counts)} if re.fullmatch(r"\d+(,\d+){3}", counts, re.ASCII):
                entries[host] = Entries(*map(int, counts.split(",")))
            case {"lab": "finished"}:
                finished = True
    return Told(results, hosts, entries, finished)


def _parsed(line: str) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None


def problems(tests: list[Selftest], machine: Machine, told: Told, series: str = HOST_SERIES) -> list[str]:
    """Why the two KVMs are not the same, or why that proves nothing."""
    found = [] if told.finished else ["the run did not come to its end"]
    for test in tests:
        stock, ours = (told.results.get((test.name, host.value)) for host in (Host.STOCK, Host.OURS))
        if not stock or not ours:
            found.append(f"{test.name}: no result")
        elif (stock.status, stock.passes) != (ours.status, ours.passes):
            found.append(f"{test.name}: {ours.word}, {ours.passes} ok; with stock KVM {stock.word}, {stock.passes} ok")
        elif ours.status and machine not in test.unfit:
            found.append(f"{test.name}: {ours.word} with both: {ours.reason}")
    mbec = "Y" if machine is Machine.INTEL else "none"
    plain = "none" if series in OLDER else mbec  # stock KVM has had MBEC since 7.2
    for host, wanted in ((Host.STOCK, Fared("none", plain, 0, 0)), (Host.OURS, Fared("enforce", mbec, 0, 0))):
        if (seen := told.hosts.get(host.value)) != wanted:
            found.append(f"{host.value} KVM: {seen}, not {wanted}")
    return found + (controls(tests, told) if machine is Machine.INTEL else [])


def controls(tests: list[Selftest], told: Told) -> list[str]:
    """What is wrong about bit 22 under our KVM: each guest has it, no nested one."""
    if not (seen := told.entries.get(Host.OURS.value)):
        return ["no count of entries with and without MBEC"]
    found = []
    if seen.guest_without or not seen.guest_with:
        found.append(f"guests entered with MBEC {seen.guest_with} times, without it {seen.guest_without} times")
    if seen.nested_with or (not seen.nested_without and any("nested" in test.name for test in tests)):
        found.append(
            f"nested guests entered with MBEC {seen.nested_with} times, without it {seen.nested_without} times"
        )
    return found


def table(tests: list[Selftest], machine: Machine, told: Told, known: Iterable[Selftest] = SELFTESTS) -> str:
    """One line for each test: result and emulated seconds with either KVM; why it cannot pass, or did not run."""
    lines = [f"{machine.value:36}{'stock KVM':20}{'ours':20}"]
    for test in tests:
        both = [told.results.get((test.name, host.value)) for host in (Host.STOCK, Host.OURS)]
        cells = [f"{row.word:12} {row.seconds:3} s" if row else "no result" for row in both]
        reasons = {row.reason for row in both if row and row.reason} | {test.unfit.get(machine, "")} - {""}
        lines.append(f"{test.name:36}{cells[0]:20}{cells[1]:20}{' / '.join(sorted(reasons))}".rstrip())
    left_out = [test for test in known if machine in test.left_out and test not in tests]
    lines += [f"{test.name:36}{'left out':40}{test.left_out[machine]}" for test in left_out]
    for host, of in told.entries.items():
        counts = (
            f"guests {of.guest_with}, without {of.guest_without}; nested {of.nested_with}, without {of.nested_without}"
        )
        lines.append(f"{'entries with MBEC, ' + host + ' KVM':36}{counts}")
    return "\n".join(lines)


def _boot(series: str, tests: list[Selftest], machine: Machine, limit: float) -> str:
    """The verdict port's text."""
    logs = cache_dir() / f"lab-logs/selftests-{series}-{machine.value}"
    of = kernel(HOST_SUITES[series])
    with alone("lab-build", BUILD_LIMIT):
        commands, paths = {test.name: test.command for test in tests}, [test.path for test in of_series(series)]
        packed = initrd(series, of, machine.value, commands, paths)
        key = digest(of.release, packed, hostimage.GRUB)
        if machine is Machine.INTEL:
            folder = cache_dir() / f"lab-cd-selftests-{key}"
            cd = built(folder, lambda scratch: hostimage.burn(of, packed, scratch)) / "l1.iso"
    if machine is Machine.AMD:
        return svm.boot(of.image, packed, svm.BY_INSTRUCTIONS, logs, limit, Progress()).verdict
    outcome = bochs.boot(cd, None, logs, limit, Progress())
    say(f"{outcome.seconds:.0f} s, {outcome.instructions / 1e6:.0f} M instructions")
    return outcome.verdict


def find(names: list[str], machine: Machine, known: Sequence[Selftest] = SELFTESTS) -> list[Selftest]:
    """The tests named, in the table's order; when none is, all that the machine survives."""
    if unknown := sorted(set(names) - {test.name for test in known}):
        die(f"no such selftest: {', '.join(unknown)}", hint=f"there are {', '.join(test.name for test in known)}")
    return [test for test in known if test.name in names or not (names or machine in test.left_out)]


def main() -> int:
    """The command line; 0 only if all results are equal, and passed where the machine can pass the test."""
    parser = argparse.ArgumentParser("python -m tests.lab.selftests", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {len(SELFTESTS)} tests (default: all)")
    parser.add_argument("--cpu", choices=[machine.value for machine in Machine], default="intel", help="default: intel")
    parser.add_argument("--host-kernel", choices=HOST_SUITES, default=HOST_SERIES, help=f"default: {HOST_SERIES}")
    parser.add_argument("--limit", type=float, default=1800, metavar="SECONDS", help="for the boot (default 1800)")
    options = parser.parse_args()
    # A terminated run ends its emulator.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(Exit.ERROR))
    machine, known = Machine(options.cpu), of_series(options.host_kernel)
    try:
        tests = find(options.names, machine, known)
        require_tools()
        told = read(_boot(options.host_kernel, tests, machine, options.limit))
    except UserError as error:
        print(f"error: {error.message}\n  hint: {error.hint}", file=sys.stderr)
        return error.status
    found = problems(tests, machine, told, options.host_kernel)
    print(table(tests, machine, told, known), *(f"! {problem}" for problem in found), sep="\n")
    return Exit.ERROR if found else Exit.OK


if __name__ == "__main__":
    sys.exit(main())
