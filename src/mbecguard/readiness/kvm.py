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
#: Debian's kernels, such as 6.12.115+deb13.1-cloud-amd64: version and flavour. kvm-host/dkms.sh has the same.
DEBIAN = re.compile(r"[0-9.]+\+deb[0-9.]+-((?:cloud-|rt-)?amd64)")
PACKAGE = "mbecguard-kvm"  #: its name in DKMS
MODULES = frozenset({"kvm", "kvm-intel", "kvm-amd"})
SKIPPED = "var/lib/mbecguard-host"  #: where kvm-host/dkms.sh says which kernels keep their own KVM, and why
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
class Skipped:
    """A kernel for which ours could not be built, so that it keeps its own KVM."""

    release: str
    reason: str  #: a key of `findings.SKIPPED`
    problem: str  #: what kvm-host/dkms.sh says, or the last words of build.sh


@dataclass(frozen=True, slots=True)
class Installed:
    """What DKMS has of ours on the disk."""

    package: bool  #: its sources are there
    built: tuple[str, ...]  #: kernels that would load ours
    halves: tuple[str, ...]  #: kernels that have some of our modules, and not all
    skipped: tuple[Skipped, ...]
    older: tuple[Skipped, ...]  #: the same of kernels that have ours, and get no newer one
    next_modes: tuple[str, ...]  #: that modprobe and the kernel command line name
    stock_next: tuple[str, ...]  #: other kernels that would start with their own KVM, and nobody knows why


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
    found = re.match(r"\d+\.\d+", release)
    return found[0] if found else release


def flavour(release: str) -> str:
    """That of a Debian kernel, as the names of its meta packages have it; empty of others."""
    found = DEBIAN.fullmatch(release)
    return found[1] if found else ""


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
    package = any(name.startswith(f"{PACKAGE}-") for name in known(source.names("usr/src"), ()))
    kernels = sorted({running, *_kernels(source)})
    ours = {name: _ours(source, name) for name in kernels}
    built = tuple(name for name in kernels if len(ours[name]) == len(MODULES))
    lacking = [name for name in kernels if name not in built]
    skipped = tuple(one for name in lacking if package and (one := _skipped(source, name)))
    older = tuple(one for name in built if package and (one := _skipped(source, name)))
    told = {running, *(one.release for one in skipped)}
    return Installed(
        package,
        built,
        tuple(name for name in lacking if ours[name]),
        skipped,
        older,
        tuple(sorted(set(_next_modes(source)))),
        tuple(name for name in lacking if package and name not in told),
    )


def _ours(source: Source, release: str) -> set[str]:
    """Those of our modules that modprobe would take for a kernel."""
    names = known(source.names(f"lib/modules/{release}/updates/dkms"), ())
    return {found[1] for name in names if (found := re.fullmatch(r"([\w-]+)\.ko(?:\.\w+)?", name))} & MODULES


def _kernels(source: Source) -> Iterator[str]:
    """Those that can be booted."""
    for name in known(source.names("boot"), ()):
        if found := re.fullmatch(r"vmlinuz-(.+)", name):
            yield found[1]


def _skipped(source: Source, release: str) -> Skipped | None:
    """Lines "NAME VALUE"."""
    text = source.text(f"{SKIPPED}/{release}/state")
    if not isinstance(text, Known):
        return None
    told = dict(re.findall(r"^(\w+) (.*)$", text.value, re.MULTILINE))
    return Skipped(release, told.get("reason", "other"), told.get("problem", "its log says why"))


def configured(source: Source) -> str | None:
    """The mode that KVM is to have: modprobe takes what is said last, and that is the kernel's command line."""
    return next(reversed([*_next_modes(source)]), None)


def _next_modes(source: Source) -> Iterator[str]:
    for folder in ("lib/modprobe.d", "usr/lib/modprobe.d", "run/modprobe.d", "etc/modprobe.d"):
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
