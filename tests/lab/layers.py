# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be put on each layer: the guest kernels, the host's KVM, the number of CPUs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from mbecguard.values.errors import die
from tests.corpus.archive import Kernel, kernel
from tests.corpus.cache import cache_dir

from . import debugkernel, kvmsource
from .parts import HERE

#: Guest kernel series -> the Debian suite that ships it as its stock kernel.
GUEST_SUITES = {"6.12": "trixie", "7.2": "forky", "6.1": "bookworm"}
#: The same for the host: 7.2 is the first whose KVM has MBEC, for 6.12 kvm-host adds it.
HOST_SUITES = {"7.2": "forky", "6.12": "trixie"}
HOST_SERIES = "7.2"  #: where nobody says
#: Bochs fails VM entries with APICv; the preemption timer runs at a rate that Bochs does not have.
BOCHS_QUIRKS = "enable_apicv=0 preemption_timer=0"
OUR_OPTIONS = "mbecguard=enforce"
UNENFORCED = HERE / "unenforced.patch"
HOST_MIB = 2048
MINIMAL_MIB, SYSTEMD_MIB = 320, 768
#: Guests up to the second may use all of their memory; up to the third, the kernel is told of `SPARSE_MIB` only.
LEAST_MIB, BACKED_MIB, MOST_MIB = 256, HOST_MIB * 3 // 4, 65536
#: What a microvm has below 4 GiB: QEMU puts the initrd at its end.
SPARSE_MIB = 3072
#: In seconds of the machine that the guest's host runs on: a CPU of Bochs spins for 36 G instructions meanwhile.
SILENCE = 120


class Host(Enum):
    """Who answers the guest's hypercalls."""

    OURS = "ours"  #: KVM with our change, under Bochs
    STOCK = "stock"  #: Debian's KVM, under Bochs: MBEC, but nobody to ask for it
    PLAIN = "plain"  #: QEMU TCG on this machine: no hypervisor at all
    UNENFORCED = "unenforced"  #: our KVM on two processors with SVM (QEMU TCG): maps are kept, no page is denied


class Userland(Enum):
    """What runs on the guest's kernel."""

    MINIMAL = "minimal"  #: busybox and the test module
    SYSTEMD = "systemd"  #: Debian's own, agent and shim from this checkout beside it
    INSTALLED = "installed"  #: Debian's own, our packages installed by apt


@dataclass(frozen=True, slots=True)
class Stack:
    """One choice for each layer."""

    kernel: str  #: a key of `GUEST_SUITES`
    host: Host
    cpus: int
    userland: Userland = Userland.MINIMAL
    memory_mib: int = 0  #: of the guest; 0: what its user space needs
    kvm_folder: Path | None = None  #: our KVM's modules; None: what the build of kvm-host left in the cache
    kvm_options: str = ""  #: for our kvm.ko, behind `OUR_OPTIONS`
    silence: int = SILENCE  #: seconds after which a guest that says nothing is given up
    host_kernel: str = HOST_SERIES  #: a key of `HOST_SUITES`
    host_cmdline: str = ""  #: more words for the host's kernel
    native: bool = False  #: on this machine's own KVM, which is ours
    debug: bool = False  #: the host's kernel is built by `debug.config`

    def __post_init__(self) -> None:
        if self.kernel not in GUEST_SUITES:
            die(f"no guest kernel {self.kernel}", hint=f"one of {', '.join(GUEST_SUITES)}")
        if self.host_kernel not in HOST_SUITES:
            die(f"no host kernel {self.host_kernel}", hint=f"one of {', '.join(HOST_SUITES)}")
        if self.userland is Userland.INSTALLED and self.kernel != "6.12":
            die("packages are installed on guests of 6.12 alone", hint="its suite is the user space's")
        if not 1 <= self.cpus <= 8:
            die(f"a guest with {self.cpus} CPUs", hint="1 to 8")
        most = BACKED_MIB if self.host is Host.PLAIN else MOST_MIB
        if not LEAST_MIB <= self.mib <= most:
            die(f"a guest with {self.mib} MiB", hint=f"{LEAST_MIB} to {most}")
        if self.native and (
            self.host is not Host.OURS or self.kvm_folder or self.kvm_options or self.host_cmdline or self.debug
        ):
            die(
                "--native takes the KVM that is loaded on this machine",
                hint="leave out --kvm, --modules, --kvm-options",
            )
        if self.silence < 1:
            die(f"{self.silence} seconds of silence", hint=f"1 or more; the default is {SILENCE}")

    @property
    def systemd(self) -> bool:
        """Whether the guest has a disk with Debian's own user space."""
        return self.userland is not Userland.MINIMAL

    @property
    def mib(self) -> int:
        """The guest's memory."""
        return self.memory_mib or (SYSTEMD_MIB if self.systemd else MINIMAL_MIB)

    @property
    def sparse(self) -> bool:
        """Whether the guest has memory that its host could not give it, and must leave alone."""
        return self.mib > BACKED_MIB

    def __str__(self) -> str:
        host = self.host.value + f"-{self.host_kernel}" * (self.host_kernel != HOST_SERIES)
        host = "native" if self.native else host + "-debug" * self.debug
        return f"{self.kernel}-{host}-{self.cpus}cpu{f'-{self.userland.value}' * self.systemd}"

    @property
    def facts(self) -> Mapping[str, str | re.Pattern[str]]:
        """What the host has to tell of its own kernel."""
        return {} if self.host is Host.PLAIN else {"complaints": "0"}

    def guest(self) -> Kernel:
        """The guest's stock kernel package."""
        return kernel(GUEST_SUITES[self.kernel])

    def host_package(self) -> Kernel:
        """The host's stock kernel package, or the one with all checks."""
        if self.debug:
            return debugkernel.kernel(self.debug_suite, self.host_kernel)
        return kernel(HOST_SUITES[self.host_kernel])

    @property
    def debug_suite(self) -> str:
        """Whose source the host's kernel is built from; empty: it is the stock one."""
        return HOST_SUITES[self.host_kernel] * self.debug


@dataclass(frozen=True, slots=True)
class Kvm:
    """The module files of L1 and the options they are loaded with."""

    files: dict[str, Path]  #: kernel name of a module -> file
    options: dict[str, str]
    vendor: str = "kvm_intel"  #: the module for the processor


def kvm(stack: Stack, release: str) -> Kvm:
    """The stack's KVM for the host kernel `release`."""
    if stack.host is Host.STOCK:
        return Kvm({}, {"kvm_intel": BOCHS_QUIRKS})
    folder = stack.kvm_folder or _modules(stack, release)
    if stack.host is Host.UNENFORCED:
        files = {"kvm": folder / "kvm.ko", "kvm_amd": folder / "kvm-amd.ko"}
        return Kvm(files, {"kvm": f"{OUR_OPTIONS} mbecg_unenforced=1 {stack.kvm_options}"}, "kvm_amd")
    files = {"kvm": folder / "kvm.ko", "kvm_intel": folder / "kvm-intel.ko"}
    return Kvm(files, {"kvm": f"{OUR_OPTIONS} {stack.kvm_options}", "kvm_intel": BOCHS_QUIRKS})


def _modules(stack: Stack, release: str) -> Path:
    patch = UNENFORCED if stack.host is Host.UNENFORCED else None
    if stack.debug or patch:
        return kvmsource.modules(patch, stack.host_kernel, stack.debug_suite)
    return _built_modules(stack.host_kernel, release)


def _built_modules(series: str, release: str) -> Path:
    folder = cache_dir() / "kvm-modules" / series
    ready = folder / "READY"
    if not ready.is_file() or release not in ready.read_text().split():
        die(
            f"no KVM modules of ours for {release} in {folder}",
            hint=f"kvm-host/build-in-root.sh {series} builds them; or give --modules FOLDER, or --kvm stock",
        )
    return folder
