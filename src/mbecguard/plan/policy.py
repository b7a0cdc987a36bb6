# SPDX-License-Identifier: GPL-2.0-or-later
"""What may stay executable: the kinds of kernel code, and the policy over them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mbecguard.settings import Settings


class CodeKind(StrEnum):
    """Why a page is kernel code."""

    KERNEL_TEXT = "kernel-text"
    MODULE_TEXT = "module-text"
    EXECMEM = "execmem"
    ITS_THUNK = "its-thunk"
    BPF = "bpf"
    FTRACE = "ftrace"
    KPROBE = "kprobe"
    TRAMPOLINE = "trampoline"
    EFI_RUNTIME = "efi-runtime"
    KEXEC = "kexec"
    HYPERCALL = "hypercall"
    CANARY = "canary"  #: never kept: it exists to be denied


@dataclass(frozen=True, slots=True)
class Choice:
    """A kind that a policy may drop: its setting, and what is lost then."""

    key: str
    loss: str


CHOICES: dict[CodeKind, Choice] = {
    CodeKind.BPF: Choice("bpf", "every BPF program that is already compiled faults when it runs next"),
    CodeKind.FTRACE: Choice("ftrace", "the tracer that owns them faults; stop it before the lock"),
    CodeKind.KPROBE: Choice("kprobe", "probes in the middle of a function fault; remove them before the lock"),
    CodeKind.TRAMPOLINE: Choice("trampoline", "no CPU can be brought online, nor the guest resume from suspend"),
    CodeKind.EFI_RUNTIME: Choice("efi_runtime", "EFI variables, reboot and panic records through EFI fault"),
    CodeKind.KEXEC: Choice("kexec", "the loaded kexec or crash kernel cannot be started"),
}


@dataclass(frozen=True, slots=True)
class Policy:
    """The decisions of one administrator."""

    dropped: tuple[CodeKind, ...] = (CodeKind.KEXEC,)
    keep_crash_kernel: bool = False
    tight: bool = False
    deny_unexplained: bool = False

    def keeps(self, kind: CodeKind) -> bool:
        """Whether pages of that kind stay kernel-executable."""
        return kind is not CodeKind.CANARY and kind not in self.dropped


def from_settings(settings: Settings) -> Policy:
    """The policy part of the settings."""
    return Policy(
        dropped=tuple(kind for kind, choice in CHOICES.items() if settings.text(f"policy.{choice.key}") == "drop"),
        keep_crash_kernel=settings.text("policy.crash_kernel") == "keep",
        tight=settings.enabled("policy.tight"),
        deny_unexplained=settings.enabled("policy.deny_unexplained"),
    )
