# SPDX-License-Identifier: GPL-2.0-or-later
"""What a person must know about a plan: a closed catalogue of findings.

A finding is data: an id that scripts can match, a severity, one sentence that names the thing, and what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How much a finding matters. Only blockers stop a lock."""

    INFO = "info"
    WARNING = "warning"
    BLOCKER = "blocker"


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One finding, as it stands in the plan's JSON."""

    id: str
    severity: Severity
    text: str
    hint: str


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of finding; `text` and `hint` are format strings."""

    severity: Severity
    text: str
    hint: str


#: Executable pages that no rule knows.
UNEXPLAINED = frozenset({"unexplained-mapping", "unexplained-more", "unexplained-denied", "unexplained-denied-more"})
_B, _W, _I = Severity.BLOCKER, Severity.WARNING, Severity.INFO

CATALOGUE: dict[str, Kind] = {
    "guest-unreadable": Kind(_B, "the guest cannot be surveyed: {problem}", "{advice}"),
    "switched-off": Kind(_B, "locking is switched off: lock.mode is off ({problem})", "{advice}"),
    "host-unusable": Kind(_B, "the host cannot be asked: {problem}", "{advice}"),
    "host-unfit": Kind(_B, "{problem}", "{advice}"),
    "unexplained-mapping": Kind(
        _B,
        "{pages} pages at {va:#x} (physical {pa:#x}) are kernel-executable, and nobody knows why; near {symbol}",
        "wait until modules have settled and try again; kernel.kptr_restrict=1 lets /proc/vmallocinfo name the owner; "
        "--deny-unexplained drops such pages",
    ),
    "unexplained-more": Kind(_B, "{count} more unexplained mappings are not listed", "see those that are listed"),
    "unexplained-denied": Kind(
        _W,
        "{pages} pages at {va:#x} (physical {pa:#x}) are kernel-executable and unexplained; they are dropped as asked",
        "if the kernel runs them after the lock it will crash; nearest symbol {symbol}",
    ),
    "unexplained-denied-more": Kind(
        _W, "{count} more unexplained mappings are dropped and not listed", "see those that are listed"
    ),
    "kernel-image-unusable": Kind(
        _B, "the kernel's image cannot be used: {problem}", "install the package of the running kernel, {release}"
    ),
    "kernel-build-id": Kind(
        _B,
        "the kernel image has build-id {image}, the running kernel {running}",
        "give the image of the kernel that runs ({release}); a kernel that was upgraded needs a reboot first",
    ),
    "kernel-text-size": Kind(
        _B,
        "the image promises {image} bytes of kernel text, the running kernel has {running}",
        "the image is damaged or not the one that runs",
    ),
    "kernel-code-missing": Kind(
        _B,
        '/proc/iomem has no "Kernel code", so the physical place of the kernel cannot be confirmed',
        "record or run with CAP_SYS_ADMIN; a truncated recording has to be made again",
    ),
    "kernel-code-mismatch": Kind(
        _B,
        "by /proc/iomem the kernel text at {va:#x} lies at physical {iomem:#x}, by the page tables at {tables:#x}",
        "the two sources contradict each other: do not trust this guest, or record it again",
    ),
    "promised-not-executable": Kind(
        _B,
        "{section} of {owner} should be code at {va:#x} ({pages} pages), but is not mapped executable",
        "the file is not the one that was loaded, or the page tables were changed",
    ),
    "module-image-unusable": Kind(
        _B, "module {module}: {problem}", "install the file that was loaded, give --modules-dir, or unload the module"
    ),
    "module-build-id": Kind(
        _B,
        "module {module}: the file has build-id {image}, the loaded module {running}",
        "the file was upgraded after it was loaded: reboot, or give the old folder with --modules-dir",
    ),
    "module-layout": Kind(
        _B,
        "module {module}: {section} is loaded at {running:#x}, its file puts it at {image:#x}",
        "the file is not the one that was loaded",
    ),
    "module-busy": Kind(_B, "module {module} is {state}", "wait until it is loaded or gone"),
    "module-hidden": Kind(
        _B,
        "module {module}: /sys/module tells no address of its text",
        "read it as root with kernel.kptr_restrict below 2; a module without text needs no file",
    ),
    "writable-executable": Kind(
        _W,
        "{pages} kept pages at {va:#x} are writable and executable at once",
        "find out who makes such mappings; the lock stops new code pages, not writes to kept ones",
    ),
    "user-mapping": Kind(
        _I,
        "{pages} executable pages at {va:#x} are user-mode addresses in the kernel half",
        "MBEC judges them by user-execute, which stays; they are not kept for the kernel",
    ),
    "dropped": Kind(_W, "{pages} pages of kind {kind} are dropped: {loss}", 'policy.{key} = "keep" keeps them'),
    "crash-kernel-lost": Kind(
        _W,
        "the crash kernel region ({pages} pages) is dropped: a crash dump after the lock will fail",
        'policy.crash_kernel = "keep" keeps the whole region executable',
    ),
    "efi-superset": Kind(
        _I,
        "EFI runtime code is kept by the firmware's map ({pages} pages), because efi_mm could not be read",
        "the page tables of efi_mm would tell the exact pages",
    ),
    "executable-padding": Kind(
        _I,
        "{pages} kept pages hold nothing but int3",
        "policy.tight = true drops them, under a policy that makes no new code",
    ),
    "freeze-left-open": Kind(
        _W, "{knob} will not be frozen, because this guest uses {use}", '{key} = "on" freezes it; open, {risk}'
    ),
    "freeze-loss": Kind(
        _W, "{knob} will be frozen, and with it goes what this guest uses: {use}", '{key} = "auto" or "off" leaves it'
    ),
    "freeze-impossible": Kind(
        _B, "{knob} cannot be frozen, because of {use}", '{key} = "auto" leaves it open; then {risk}'
    ),
    "freeze-missing": Kind(
        _W, "{knob} is not there, or may not be written, so it cannot be frozen", "is debugfs mounted? else {risk}"
    ),
    "physical-space": Kind(
        _I,
        "the whole architectural space of 52 physical address bits is denied",
        "if the guest has fewer, record proc/cpuinfo as well",
    ),
    "shared-frame": Kind(
        _W,
        "physical page {pa:#x} is executable at {first:#x} and at {second:#x}",
        "one page frame with two executable addresses is unusual outside EFI",
    ),
}


def finding(id_: str, **facts: object) -> Finding:
    """A finding of the catalogue with its texts filled in; an id or fact that is missing is a bug."""
    kind = CATALOGUE[id_]
    return Finding(id_, kind.severity, kind.text.format(**facts), kind.hint.format(**facts))
