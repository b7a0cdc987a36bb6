# SPDX-License-Identifier: GPL-2.0-or-later
"""One scenario: what the guest does, and what has to be seen."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..layers import Host, Userland
from ..machines import MICROVM, Machine
from ..verdict import Expected

ALL_HOSTS = frozenset(Host) - {Host.UNENFORCED}
OURS = frozenset({Host.OURS})
ENOSYS = "-1000"
EPERM, E2BIG, EFAULT, EINVAL, EOPNOTSUPP = "-1", "-7", "-14", "-22", "-95"
DENIED = "trap 14 cr2 canary+0"
#: What comes first in each user space: its words, and that it is ready.
WORDS = {
    Userland.MINIMAL: "",
    Userland.SYSTEMD: ". /lab/product\nprepare\n",
    Userland.INSTALLED: ". /lab/product\n. /lab/service\n",
}


def same(names: str, value: str | re.Pattern[str]) -> dict[str, str | re.Pattern[str]]:
    """The same value for each of some facts."""
    return dict.fromkeys(names.split(), value)


def staged(*stages: str) -> str:
    """A script for a guest's boots in a row, each with a text of its own: it restarts after all but the last."""
    texts = [f"{text}\nrestart\n" for text in stages[:-1]] + [f"{stages[-1]}\n"]
    cases = "".join(f"{number})\n{text};;\n" for number, text in enumerate(texts, 1))
    return f"case $stage in\n{cases}esac\n"


@dataclass(frozen=True, slots=True)
class Setting:
    """What is different about the host. Scenarios of one setting share a guest, and L1 starts one after the other."""

    kvm: str = ""  #: options of our kvm.ko, behind the stack's own: the later one wins
    kvm_intel: str = ""
    stock: bool = False  #: Debian's own KVM, although the stack has ours
    liar: bool = False  #: our KVM with liar.patch, whose parameter `mbecg_lie` says how it lies
    memory_mib: int = 0  #: of the guest; 0: the stack's
    cmdline: str = ""  #: more words for the guest's kernel
    counts_boots: bool = False  #: UEFI and systemd-boot start the guest, which counts; only without a host
    hugetlb: bool = False  #: the host has the guest's memory in huge pages of 2 MiB, and no more of them
    machine: Machine = MICROVM
    smm: bool = False  #: the guest has system management mode; on a microvm in plain memory
    own_guest: str = ""  #: a name: nobody else's guest, for what cannot be taken back
    cpu: str = "host,-vmx"  #: QEMU's -cpu. A guest that sees VMX may switch it on, and is then refused by the host


@dataclass(frozen=True, slots=True)
class Scenario:
    """A shell script in the words of `guest/words` and of its user space, and the facts it must tell, each once."""

    name: str
    about: str
    script: str
    expect: Expected
    hosts: frozenset[Host] = OURS
    variants: Mapping[Host, Expected] = field(default_factory=dict)  #: other facts on some hosts
    slow: bool = False  #: runs only when it is named
    cpus: int = 1  #: the guest needs so many
    userland: Userland = Userland.MINIMAL  #: it also runs in those that have more
    setting: Setting = Setting()

    @property
    def text(self) -> str:
        """All that the guest runs."""
        return WORDS[self.userland] + self.script

    def expected_on(self, host: Host) -> Expected:
        """The facts that this host must show."""
        return {**self.expect, **self.variants.get(host, {})}

    def obstacle(self, host: Host, cpus: int, userland: Userland = Userland.MINIMAL) -> str:
        """Why a guest of `host` with so many CPUs and this user space cannot run it; empty if it can."""
        if host not in self.hosts:
            return f"not for {host.value}"
        if list(Userland).index(self.userland) > list(Userland).index(userland):
            return f"needs --guest {self.userland.value}"
        return f"needs {self.cpus} CPUs" if cpus < self.cpus else ""


def alone(name: str, about: str, script: str, expect: Expected, userland: Userland) -> Scenario:
    """What cannot be taken back: in a guest of its own, and therefore slow."""
    setting = Setting(own_guest=name)
    return Scenario(name, about, script, expect, userland=userland, slow=True, setting=setting)
