# SPDX-License-Identifier: GPL-2.0-or-later
"""Which KVM a host has loaded, which one it would load next, and what its Secure Boot wants of modules."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from mbecguard.readiness.source import Source
from mbecguard.values.facts import Absent, Fact, Known, known

#: Kernel series that kvm-host has patches for; dkms.conf says the same.
SERIES = ("7.2", "6.12")
PACKAGE = "mbecguard-kvm"  #: its name in DKMS
DKMS = f"var/lib/dkms/{PACKAGE}"
KEY = "var/lib/dkms/mok.pub"
EFI = "sys/firmware/efi/efivars"
SECURE_BOOT = f"{EFI}/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
ENROLLED = f"{EFI}/MokListRT-605dab50-e046-4300-abb6-3dd810dd8b23"


class Origin(StrEnum):
    """Whose KVM is loaded."""

    NONE = "none"
    STOCK = "stock"
    OURS = "mbecguard"


@dataclass(frozen=True, slots=True)
class Kvm:
    """KVM as it is loaded. What a module does not tell is None."""

    origin: Origin
    builtin: bool  #: part of the kernel, so no module takes its place
    mode: str | None  #: off, audit or enforce
    mbec: bool | None
    ept: bool | None
    eptad: bool | None  #: EPT with accessed and dirty bits
    nested: bool | None  #: machines may get VMX


@dataclass(frozen=True, slots=True)
class Installed:
    """What DKMS has of ours on the disk."""

    package: bool  #: its sources are there
    built: bool  #: for the running kernel
    problem: str  #: what the last build that failed said
    next_modes: tuple[str, ...]  #: that modprobe and the kernel command line name
    stock_next: tuple[str, ...]  #: other kernels that would start with their own KVM


@dataclass(frozen=True, slots=True)
class Signing:
    """Whether modules have to be signed with a key that this machine knows. None: nobody can tell."""

    secure_boot: bool | None
    enforced: bool | None
    enrolled: bool | None  #: the key that DKMS signs with is one of those


def release(source: Source) -> str:
    """The kernel that runs."""
    return known(source.text("proc/sys/kernel/osrelease"), "unknown")


def series(release: str) -> str:
    """The series of a kernel, such as 6.12."""
    return ".".join(release.split(".")[:2])


def loaded(source: Source) -> Kvm:
    """The KVM that is loaded."""
    module = "sys/module/kvm"
    if not source.there(module):
        return Kvm(Origin.NONE, False, None, None, None, None, None)
    mode = source.text(f"{module}/parameters/mbecguard")
    flags = (
        _flag(source.text(f"sys/module/kvm_intel/parameters/{name}")) for name in ("mbec", "ept", "eptad", "nested")
    )
    return Kvm(
        Origin.STOCK if isinstance(mode, Absent) else Origin.OURS,
        not source.there(f"{module}/initstate"),
        known(mode, None),
        *flags,
    )


def installed(source: Source, running: str) -> Installed:
    """What is on the disk."""
    sources = known(source.names("usr/src"), ())
    package = any(name.startswith(f"{PACKAGE}-") for name in sources)
    others = tuple(name for name in _kernels(source) if name != running and not has_ours(source, name))
    return Installed(
        package,
        has_ours(source, running),
        _failure(source, running),
        tuple(sorted(set(_next_modes(source)))),
        others if package else (),
    )


def has_ours(source: Source, release: str) -> bool:
    """Whether modprobe would take our KVM for that kernel."""
    names = known(source.names(f"lib/modules/{release}/updates/dkms"), ())
    return any(re.fullmatch(r"kvm\.ko(\.\w+)?", name) for name in names)


def _kernels(source: Source) -> Iterator[str]:
    """Those that can be booted."""
    for name in known(source.names("boot"), ()):
        if found := re.fullmatch(r"vmlinuz-(.+)", name):
            yield found[1]


def _failure(source: Source, release: str) -> str:
    """The last words of build.sh in the log of a build that was not finished; DKMS keeps that of the last kernel."""
    for version in known(source.names(DKMS), ()):
        log = known(source.text(f"{DKMS}/{version}/build/make.log"), "")
        said = re.findall(r"^build\.sh: (.+)$", log, re.MULTILINE)
        if said and f" for kernel {release} " in log.partition("\n")[0]:
            return str(said[-1])
    return ""


def _next_modes(source: Source) -> Iterator[str]:
    for folder in ("etc/modprobe.d", "run/modprobe.d", "usr/lib/modprobe.d", "lib/modprobe.d"):
        for name in known(source.names(folder), ()):
            if name.endswith(".conf"):
                yield from re.findall(
                    r"^\s*options\s+kvm\s(?:.*\s)?mbecguard=(\w+)",
                    known(source.text(f"{folder}/{name}"), ""),
                    re.MULTILINE,
                )
    yield from re.findall(r"(?:^|\s)kvm\.mbecguard=(\w+)", known(source.text("proc/cmdline"), ""))


def signing(source: Source) -> Signing:
    """What the firmware and the kernel want of modules."""
    variable = source.data(SECURE_BOOT)
    secure = variable.value[4:5] == b"\1" if isinstance(variable, Known) else _absent(variable)
    enforced = _flag(source.text("sys/module/module/parameters/sig_enforce"))
    return Signing(secure, enforced, _enrolled(source.data(KEY), source.data(ENROLLED)))


def _enrolled(key: Fact[bytes], list_: Fact[bytes]) -> bool | None:
    """Lists of the firmware hold certificates as they are, in DER."""
    if isinstance(key, Known) and isinstance(list_, Known):
        return key.value in list_.value
    return False if isinstance(key, Absent) or isinstance(list_, Absent) else None


def _absent(fact: Fact[bytes]) -> bool | None:
    return False if isinstance(fact, Absent) else None


def _flag(fact: Fact[str]) -> bool | None:
    """A parameter of a module: Y, N, or a number."""
    return fact.value not in ("N", "0") if isinstance(fact, Known) else None
