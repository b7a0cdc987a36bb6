# SPDX-License-Identifier: GPL-2.0-or-later
"""A hypervisor in memory: the hypercall interface of the host ABI over an EPT model, for one guest.

Nothing is protected by it. It is stricter than a real host wherever the ABI leaves a choice.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

from mbecguard.host.base import HostErrno, HostMode, HostRefusedError, HostStatus, Protection, TextMode
from mbecguard.host.simulated.ept import Mode, Violation
from mbecguard.host.simulated.eptmodel import ENFORCED, EptModel
from mbecguard.host.simulated.textmodel import TextState, read_list
from mbecguard.host.wire import (
    ABI_VERSION,
    CR0_PG,
    CR0_WP,
    CR4_SMAP,
    CR4_SMEP,
    CR4_UMIP,
    CR4_VMXE,
    LOCK_CR_UPDATE,
    PROTECT_MEMORY,
    QUERY_MAGIC,
    TEXT_MAGIC,
    TEXT_VERSION,
    Limits,
    Word,
    decode,
    digest_words,
    encode_status,
)
from mbecguard.values.pages import PAGE_SHIFT

CR0_PE, CR4_PAE = 1 << 0, 1 << 5
_PINNABLE = {0: CR0_WP | CR0_PG, 4: CR4_SMEP | CR4_SMAP | CR4_UMIP}
_SEALED_ONES = {0: CR0_PG, 4: CR4_SMEP}  # either of them at 0 turns denied pages into user-mode ones
_SEALED_ZEROS = {0: 0, 4: CR4_VMXE}  # a nested guest would run what its host is denied


@dataclass(frozen=True, slots=True)
class Options:
    """What kind of host to be."""

    mode: HostMode = HostMode.ENFORCE
    mbec: bool = True  #: False: supervisor and user fetches cannot be told apart
    honest: bool = False  #: without MBEC: refuse with NOT_SUPPORTED; Heki v2 said 0 and did nothing
    no_query: bool = False  #: a Heki v2 host
    limits: Limits = field(default_factory=Limits)
    smm_open: bool = False  #: SMRAM is memory of the guest: no seal
    max_grants: int = 4096  #: pages that audit mode remembers as granted
    generation: int = 0  #: the first one; real hosts take one at random
    abi: int = ABI_VERSION
    text: TextMode = TextMode.LOG  #: what it makes of bad stores to text

    def __post_init__(self) -> None:
        if self.mode is HostMode.UNKNOWN:
            raise ValueError("a host knows its own mode")


@dataclass(frozen=True, slots=True)
class ControlRegister:
    """A control register of the guest, and the bits of it that are pinned at 1."""

    value: int
    pinned: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.value < 1 << 64 or self.pinned & ~self.value:
            raise ValueError(f"no control register: {self.value:#x}, pinned {self.pinned:#x}")


@dataclass(frozen=True, slots=True)
class Denial:
    """One denied fetch: the GPA in bytes and the violation."""

    gpa: int
    violation: Violation


@dataclass(frozen=True, slots=True)
class VmState:
    """All that the hypervisor keeps of a VM."""

    regions: tuple[Protection, ...]
    generation: int
    cr0: ControlRegister
    cr4: ControlRegister
    granted: tuple[int, ...]  #: GFNs that audit mode let run
    violations: int
    denials: tuple[Denial, ...]  #: the last ones
    text: TextState = field(default_factory=TextState)


class Hypervisor:
    """One guest's hypervisor; `memory` is the guest memory that it can read: GPA in bytes -> 4 KiB page."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.memory: dict[int, bytes] = {}
        self.reset()

    def reset(self) -> None:
        """The VM is reset: every restriction, pin and grant is gone."""
        self.ept = EptModel(self.options.limits, self.options.generation)
        self.violations = 0
        self.refused = 0
        self.text = TextState()
        self.denials: deque[Denial] = deque(maxlen=16)
        self._granted: set[int] = set()
        self._registers = {
            0: ControlRegister(CR0_PE | CR0_WP | CR0_PG),
            4: ControlRegister(CR4_PAE | CR4_SMEP | CR4_SMAP | CR4_UMIP),
        }

    def hypercall(self, nr: int, a0: int, a1: int, *, cpl: int = 0, long_mode: bool = True) -> int:
        """The result as the guest sees it in RAX, signed: a negative `HostErrno` if refused."""
        try:
            return self._dispatch(nr, a0, a1, cpl, long_mode)
        except HostRefusedError as refused:
            return -refused.errno

    def fetch(self, gpa: int, mode: Mode) -> Violation | None:
        """Fetch from `gpa` (bytes) through a linear address of that mode: the violation, None if it runs.

        Audit mode counts the violation, grants the page and lets it run.
        """
        gfn, audit = gpa >> PAGE_SHIFT, self.options.mode is HostMode.AUDIT
        violation = self.ept.fetch(gpa, mode, cr0_pg=bool(self.read_cr(0) & CR0_PG))
        if violation is None or (audit and gfn in self._granted):
            return None
        self.violations += 1
        self.denials.append(Denial(gpa, violation))
        if not audit:
            return violation
        if len(self._granted) < self.options.max_grants:
            self._granted.add(gfn)
        return None

    def read_cr(self, number: int) -> int:
        """CR0 or CR4 of the guest."""
        return self._registers[number].value

    def write_cr(self, number: int, value: int) -> bool:
        """MOV to CR0 or CR4; False if the guest gets #GP for it and nothing changes."""
        register = self._registers[number]
        zeros = _SEALED_ZEROS[number] if self.ept.sealed else 0
        if register.value & ~value & self._ones(number) or value & ~register.value & zeros:
            self.refused += 1
            return False
        self._registers[number] = replace(register, value=value)
        return True

    def _ones(self, number: int) -> int:
        """What of CR0 or CR4 cannot be cleared."""
        return self._registers[number].pinned | (_SEALED_ONES[number] if self.ept.sealed else 0)

    def status(self) -> HostStatus:
        """What the query answers."""
        ept = self.ept
        return HostStatus(
            self.options.mode,
            ENFORCED,
            ept.generation,
            ept.restricted,
            ept.sealed,
            abi=self.options.abi,
            smm_open=self.options.smm_open,
        )

    def _word(self, number: int) -> int:
        """One of the extended query, which a host of version 1 takes for an empty list."""
        if number == Word.STATUS:
            return encode_status(self.status())
        if self.options.abi < 2:
            return 0
        words = digest_words(Word.DIGEST, self.ept.digest)
        words |= {Word.DENIED: self.violations, Word.REFUSED: self.refused}
        words |= {Word.CR0: self._ones(0), Word.CR4: self._ones(4)}
        words |= {Word.LIST_PAGES: self.options.limits.list_pages, Word.BOUNDARIES: self.options.limits.boundaries}
        return (words | self.text.words(self.options.text, self.options.abi)).get(number, 0)

    def save(self) -> VmState:
        """The state of the VM, to be given to `restore`."""
        return VmState(
            regions=self.ept.regions,
            generation=self.ept.generation,
            cr0=self._registers[0],
            cr4=self._registers[4],
            granted=tuple(sorted(self._granted)),
            violations=self.violations,
            denials=tuple(self.denials),
            text=self.text,
        )

    def restore(self, state: VmState) -> None:
        """Take over a saved state. Raises ValueError if it is not one of a VM of this size."""
        self.ept = EptModel.restored(self.options.limits, state.regions, state.generation)
        self._registers = {0: state.cr0, 4: state.cr4}
        self._granted = set(state.granted)
        self.violations = state.violations
        self.denials.extend(state.denials)
        self.text = state.text

    def _dispatch(self, nr: int, a0: int, a1: int, cpl: int, long_mode: bool) -> int:
        # KVM looks at the CPL before it looks at the number.
        if cpl:
            raise _refused(HostErrno.PERM)
        if self.options.mode is HostMode.OFF or nr not in (LOCK_CR_UPDATE, PROTECT_MEMORY):
            raise _refused(HostErrno.NO_HYPERCALL)
        if not long_mode:
            raise _refused(HostErrno.NOT_SUPPORTED)
        return self._pin(a0, a1) if nr == LOCK_CR_UPDATE else self._protect(a0, a1)

    def _pin(self, number: int, mask: int) -> int:
        register = self._registers.get(number)
        if register is None or not mask or mask & ~(_PINNABLE[number] & register.value):
            raise _refused(HostErrno.INVALID)
        self._registers[number] = replace(register, pinned=register.pinned | mask)
        return 0

    def _protect(self, list_gpa: int, magic: int) -> int:
        if not self.options.mbec and not self.options.honest:
            return 0
        if not self._enforceable():
            raise _refused(HostErrno.NOT_SUPPORTED)
        if list_gpa and magic == TEXT_MAGIC:
            self._take_text(list_gpa)
        elif list_gpa:
            request = decode(self.memory.get, list_gpa, self.options.limits)
            self.ept.apply(request, may_seal=not self.options.smm_open)
        elif 0 <= magic - QUERY_MAGIC <= max(Word) and not self.options.no_query:
            return self._word(magic - QUERY_MAGIC)
        return 0

    def store(self, gpa: int) -> bool:
        """A store of the guest that is no patch; whether it is done."""
        self.text = self.text.storing(gpa)
        return not self.text.covers(gpa) or self.text.logs

    def _take_text(self, list_gpa: int) -> None:
        if self.options.abi < TEXT_VERSION:
            raise _refused(HostErrno.INVALID)
        if self.options.text is TextMode.NONE:
            raise _refused(HostErrno.NOT_SUPPORTED)
        text = read_list(self.memory.get, list_gpa)
        frames = (gfn for run in text.runs for gfn in range(run.pages.start, run.pages.end))
        if not text.data and any(not self.ept.runs(gfn) for gfn in frames):
            raise _refused(HostErrno.INVALID)
        self.text = self.text.taking(text, self.options.text)

    def _enforceable(self) -> bool:
        cr0, cr4 = self.read_cr(0), self.read_cr(4)
        smep_missing = cr0 & CR0_PG and not cr4 & CR4_SMEP
        return self.options.mbec and not smep_missing and not cr4 & CR4_VMXE


def _refused(errno: HostErrno) -> HostRefusedError:
    return HostRefusedError(errno, "hypercall")
