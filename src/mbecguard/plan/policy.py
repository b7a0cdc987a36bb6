# SPDX-License-Identifier: GPL-2.0-or-later
"""What may stay executable: the kinds of kernel code, and the policy over them."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from mbecguard.settings.declared import BY_KEY, FROZEN_KEYS, Setting
from mbecguard.settings.load import Settings
from mbecguard.values.facts import Fact, Known

if TYPE_CHECKING:  # a policy is kept in every record: who only reads those surveys nothing
    from mbecguard.guest.processors import Processors
    from mbecguard.guest.survey import Survey


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
    EFI_DATA = "efi-data"  #: never kept: old firmware has the kernel map its data executable
    KEXEC = "kexec"
    HYPERCALL = "hypercall"
    CANARY = "canary"  #: never kept: it exists to be denied


#: The kinds that a policy may drop, and their settings.
DROPPABLE: dict[CodeKind, Setting] = {
    CodeKind.BPF: BY_KEY["policy.bpf"],
    CodeKind.FTRACE: BY_KEY["policy.ftrace"],
    CodeKind.KPROBE: BY_KEY["policy.kprobe"],
    CodeKind.TRAMPOLINE: BY_KEY["policy.trampoline"],
    CodeKind.EFI_RUNTIME: BY_KEY["policy.efi_runtime"],
    CodeKind.KEXEC: BY_KEY["policy.kexec"],
}
_NEVER = (CodeKind.CANARY, CodeKind.EFI_DATA)
#: Code that is not the kernel's own: nobody but its maker knows what of it is used.
FOREIGN = (CodeKind.EFI_RUNTIME, CodeKind.KEXEC)
#: The kinds with free space that `policy.tight = "auto"` drops: whoever would use it later is frozen by these switches.
#: mm/execmem.c: slots of kprobes, and text of modules, which the shim holds back in any case. kernel/bpf/core.c
#: bpf_prog_pack_alloc(): programs; trampolines and dispatchers as well, which nothing freezes.
FREE_SPACE: dict[CodeKind, tuple[str, ...]] = {
    CodeKind.EXECMEM: ("freeze.kprobes",),
    CodeKind.BPF: ("freeze.bpf_jit",),
}


class Level(StrEnum):
    """What a lock protects."""

    EXEC = "exec"  #: no new kernel code
    TEXT_LOG = "text-log"  #: and devices cannot change the kernel's text; stores of the guest are counted
    TEXT = "text"  #: and nothing but the kernel's own patches is stored to it


class Policy(NamedTuple):
    """The decisions of one administrator; what is `open` the guest decides, see `settled`."""

    dropped: tuple[CodeKind, ...] = (CodeKind.KEXEC,)
    keep_crash_kernel: bool = False
    tight: bool = False  #: free space is dropped, of every kind but BPF, which may need what is reserved for it
    deny_unexplained: bool = False
    open: tuple[CodeKind, ...] = ()  #: none in records: a rerun and an audit plan as the seal was planned
    free: tuple[CodeKind, ...] = ()  #: kinds whose free space is dropped, if not that of all
    level: Level = Level.EXEC
    frozen_keys: tuple[str, ...] = ()  #: whose patch sites take no patch any more, see `text/frozen.py`

    def keeps(self, kind: CodeKind) -> bool:
        """Whether pages of that kind stay kernel-executable."""
        return kind not in _NEVER and kind not in self.dropped

    def drops_free(self, kind: CodeKind) -> bool:
        """Whether pages of that kind that nobody uses become non-executable."""
        return kind in self.free or (self.tight and kind not in (*FOREIGN, CodeKind.BPF))

    def settled(self, survey: Survey, frozen: Collection[str] = ()) -> Policy:
        """The same with nothing left open; `frozen` are the settings of the switches that are set before the seal."""
        drops = CodeKind.TRAMPOLINE in self.open and not may_start(survey.processors)
        free = (kind for kind, users in FREE_SPACE.items() if kind in self.open and set(users) <= set(frozen))
        dropped = (*self.dropped, CodeKind.TRAMPOLINE) if drops else self.dropped
        return self._replace(dropped=dropped, open=(), free=(*self.free, *free))

    @property
    def roomy(self) -> Policy:
        """The same, but all free space stays."""
        return self._replace(tight=False, free=(), open=tuple(kind for kind in self.open if kind not in FREE_SPACE))

    @property
    def exec_only(self) -> Policy:
        """The same at level exec."""
        return self._replace(level=Level.EXEC, frozen_keys=())


def may_start(processors: Fact[Processors]) -> bool:
    """Whether another processor can come online; what nobody can tell may be."""
    return not isinstance(processors, Known) or processors.value.possible > processors.value.online


#: Kinds whose free space goes if what would use it is frozen, by the choice; that of the others goes with `on` anyway.
_TIGHT: dict[str, tuple[CodeKind, ...]] = {"auto": tuple(FREE_SPACE), "on": (CodeKind.BPF,), "off": ()}


def from_settings(settings: Settings) -> Policy:
    """The policy part of the settings."""
    return Policy(
        dropped=_chosen(settings, "drop"),
        keep_crash_kernel=settings.text("policy.crash_kernel") == "keep",
        tight=settings.text("policy.tight") == "on",
        deny_unexplained=settings.enabled("policy.deny_unexplained"),
        open=(*_chosen(settings, "auto"), *_TIGHT[settings.text("policy.tight")]),
        level=(level := Level(settings.text("policy.level"))),
        frozen_keys=() if level is Level.EXEC else FROZEN_KEYS[settings.text("policy.frozen_keys")],
    )


def _chosen(settings: Settings, choice: str) -> tuple[CodeKind, ...]:
    return tuple(kind for kind, setting in DROPPABLE.items() if settings.text(setting.key) == choice)
