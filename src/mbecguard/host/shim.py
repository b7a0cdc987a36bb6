# SPDX-License-Identifier: GPL-2.0-or-later
"""The real host: the hypervisor as the kernel shim reaches it, and the probes that only ring 0 can make.

It remembers nothing: all state is the hypervisor's and the shim's, so that a killed agent leaves none behind.
"""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from errno import EINVAL
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mbecguard.device import (
    CANARY_VALUE,
    DEVICE,
    MAX_RANGES,
    Info,
    InfoFlag,
    MapFlag,
    ProbeKind,
    Seen,
    ShimDevice,
    ShimError,
    Sight,
    open_device,
)
from mbecguard.host.base import HostDetails, HostErrno, HostStatus, HostText, Outcome, Protection
from mbecguard.host.patch import patch
from mbecguard.host.wire import CR4_SMEP, Word, ask_details, ask_most, ask_text, checked, decode_status, pin_all
from mbecguard.values.cpus import cpu_list
from mbecguard.values.errors import Exit, die
from mbecguard.values.pages import PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:  # only a lock hands text over
    from mbecguard.host.text import TextObject

ONLINE = Path("/sys/devices/system/cpu/online")
QUERIES, QUERY_PAUSE = 4, 0.05  #: seconds between them
KILL_SECONDS = 5.0
USER_SECONDS = 20.0  #: for a fork and one call; emulated machines are slow

#: What to do about who answers in KVM's place, by how he calls himself.
OTHERS = {
    "Microsoft Hv": "have its machine started without Hyper-V's interface (QEMU: no `hv-...` in `-cpu`; libvirt: no "
    "`<hyperv>` in `<features>`): only Windows gains by it. On Hyper-V itself there is no KVM to ask",
    "XenVMMXenVMM": "have its machine started without Xen's interface (QEMU: no `xen-version` in `-accel kvm`; "
    "libvirt: no `<xen>` in `<features>`). On Xen itself there is no KVM to ask",
    "KVMKVMKVM": "have its machine started without SEV or TDX (libvirt: no `<launchSecurity>`): the host cannot see "
    "the state of a confidential guest",
    "TCGTCGTCGTCG": "have its machine started on KVM (QEMU: `-accel kvm`; libvirt: `<domain type='kvm'>`)",
}
HIDDEN = (
    "a guest of KVM is needed; one that does not know KVM has it hidden (QEMU: no `kvm=off` in `-cpu`; libvirt: no "
    "`<hidden state='on'/>` in `<kvm>`)"
)

_GP, _PF = 13, 14
_RETURNED, _FAILED, _NOT_MAPPED = range(3)  # exit statuses of the child


class ShimHost:
    """A `Host` over /dev/mbecguard. Dies if the shim is switched off, or its hypercalls reach no KVM."""

    name = "shim"
    simulated = False

    def __init__(self, device: ShimDevice) -> None:
        self._device = device
        info = device.info()
        _refuse_unfit(info)
        self.max_pfn = 1 << (info.physical_bits - PAGE_SHIFT)
        self.canary_pfn = info.canary_pa >> PAGE_SHIFT
        self.target_pfn = info.target_pa >> PAGE_SHIFT

    @classmethod
    def at(cls, path: Path = DEVICE) -> ShimHost:
        """The host behind a device; it stays open as long as the process lives."""
        return cls(open_device(path))

    def query(self) -> HostStatus:
        """Ask for mode, enforced bits and generation. Changes nothing.

        A CPU that is just coming up has paging, and not yet SMEP: for a moment the host cannot enforce, and says so.
        """
        return decode_status(self._ask(Word.STATUS))

    def details(self) -> HostDetails | None:
        """Ask for the digest of the map, counts and pins; None: this host does not tell. Changes nothing."""
        return ask_details(self._ask)

    def most_ranges(self) -> int:
        """How many ranges a lock's request may have: host and shim have a bound each."""
        return min(MAX_RANGES, ask_most(self._ask))

    def text(self) -> HostText | None:
        """Ask what the host holds of text; None: it knows nothing of text. Changes nothing."""
        return ask_text(self._ask)

    def foreign(self) -> int:
        """Page frames of text that somebody other than the guest has written to; the host compares all of it."""
        return self._ask(Word.FOREIGN)

    def _ask(self, word: int) -> int:
        answer = self._device.query(word)
        for _ in range(QUERIES - 1):
            if answer != -HostErrno.NOT_SUPPORTED:
                break
            time.sleep(QUERY_PAUSE)
            answer = self._device.query(word)
        return _granted(answer, "query")

    def protect(self, request: Sequence[Protection]) -> None:
        """Change permissions by one hypercall, all or nothing; an empty request asks for nothing."""
        if len(request) > MAX_RANGES:
            die(
                f"the request has {len(request)} ranges, the shim takes {MAX_RANGES}",
                "`mbecguard check` tells what to do about it",
                Exit.REFUSED,
            )
        ranges = [(p.pages.start << PAGE_SHIFT, p.pages.end << PAGE_SHIFT, int(p.permissions)) for p in request]
        if ranges:
            _granted(self._device.protect(ranges), "protect")

    def hand_over(self, text: TextObject) -> None:
        """Give the host a range of text by one hypercall; only a reset takes it back."""
        from mbecguard.host.text import LIST_PAGES, encode

        pages = encode(text)
        if len(pages) > LIST_PAGES:
            die(f"the list of text has {len(pages)} pages, one hypercall takes {LIST_PAGES}", "report it", Exit.REFUSED)
        _granted(self._device.text(pages), "hand over text")

    def pin(self) -> tuple[str, ...]:
        """Pin CR0.WP, CR0.PG and CR4.SMEP at 1 until reset, CR4.SMAP and UMIP where they are on; what is pinned."""
        return pin_all(lambda cr, bits: _known(self._device.pin(cr, bits), "pin"))

    def pinned(self) -> bool:
        """Try to clear CR4.SMEP, as an attacker would, on every CPU; True if each got #GP for it."""
        sights = self._everywhere(ProbeKind.CLEAR, cr=4, bits=CR4_SMEP)
        return bool(sights) and all(sight.seen is Seen.TRAPPED and sight.trap == _GP for sight in sights)

    def hold_modules(self, hold: bool) -> None:
        """Refuse (True) or allow (False) text of new modules."""
        self._device.hold(hold)

    def run_canary(self) -> Outcome:
        """Execute the canary page in supervisor mode on every CPU; no verdict if they differ."""
        outcomes = {_outcome(s, 0, s.cr2 % PAGE_SIZE) for s in self._everywhere(ProbeKind.CANARY)}
        return outcomes.pop() if len(outcomes) == 1 else Outcome.NO_VERDICT

    def run_user(self, pfn: int) -> Outcome:
        """Execute the canary's page frame, the only one that has a user page, in a child that may die or hang."""
        if pfn != self.canary_pfn:
            return Outcome.NO_VERDICT
        status = _ending(os.fork() or self._child())
        if status == _NOT_MAPPED:
            die("the canary cannot be mapped as user code", f"is {DEVICE.parent} mounted with noexec?")
        return {_RETURNED: Outcome.RAN, -signal.SIGSEGV: Outcome.DENIED}.get(status, Outcome.NO_VERDICT)

    def run_kept(self, pfn: int) -> Outcome:
        """Execute a RET in a page frame, through the first supervisor-mode address where the shim finds one."""
        pa = pfn << PAGE_SHIFT
        for m in self._device.mappings(content=False):
            if m.pa <= pa < m.pa + m.bytes and MapFlag.USER not in m.flags:
                outcome = self._fetch(m.va + pa - m.pa)
                if outcome is not Outcome.NO_VERDICT:
                    return outcome
        return Outcome.NO_VERDICT

    def run_store(self) -> Outcome:
        """Write to the target page through a writable mapping: RAN if it has changed, and was put back."""
        sight = self._device.probe(ProbeKind.STORE)
        return _outcome(sight, sight.va, sight.cr2)

    def run_patch(self) -> Outcome:
        """Have the kernel patch its own text, in a child, which a refused patch kills."""
        status = _ending(os.fork() or _patching())
        return {_RETURNED: Outcome.RAN, -signal.SIGKILL: Outcome.DENIED}.get(status, Outcome.NO_VERDICT)

    def _fetch(self, va: int) -> Outcome:
        try:
            sight = self._device.probe(ProbeKind.FETCH, va=va)
        except ShimError as error:
            if error.errno != EINVAL:  # neither the kernel's text nor a module's, as in the direct map
                raise
            return Outcome.NO_VERDICT
        return _outcome(sight, va >> PAGE_SHIFT, sight.cr2 >> PAGE_SHIFT)

    def _everywhere(self, kind: ProbeKind, *, cr: int = 0, bits: int = 0) -> list[Sight]:
        before = os.sched_getaffinity(0)
        sights = []
        try:
            for cpu in online_cpus():
                if _moved_to(cpu):
                    sights.append(self._device.probe(kind, cr=cr, bits=bits))
        finally:
            with suppress(OSError):  # all of them may be offline by now; then the kernel has chosen others
                os.sched_setaffinity(0, before)
        return sights

    def _child(self) -> NoReturn:
        status = _FAILED
        try:
            faulthandler.disable()  # where it is on it would tell of the fault on our terminal
            status = _RETURNED if self._device.call_canary() == CANARY_VALUE else _FAILED
        except OSError:
            status = _NOT_MAPPED
        finally:
            os._exit(status)


def _patching() -> NoReturn:
    status = _FAILED
    try:
        status = _RETURNED if patch() else _FAILED
    finally:
        os._exit(status)


def online_cpus() -> list[int]:
    """Numbers of the CPUs that are online."""
    try:
        text = ONLINE.read_text()
    except OSError as error:
        die(f"{ONLINE} cannot be read: {error.strerror}", "mount sysfs at /sys")
    try:
        return cpu_list(text)
    except ValueError:
        die(f"{ONLINE} is no list of CPUs: {text[:80]!r}", "is this sysfs?")


def _moved_to(cpu: int) -> bool:
    """Whether this runs on a CPU now; not if it was taken offline since. Dies if it is online, and not for us."""
    try:
        os.sched_setaffinity(0, {cpu})
    except OSError as error:
        if cpu not in online_cpus():
            return False
        die(
            f"the agent cannot run on CPU {cpu}: {error.strerror}",
            "every CPU has to be tried: lift AllowedCPUs=, CPUAffinity= and cpusets, and take no CPU offline meanwhile",
        )
    return True


def _refuse_unfit(info: Info) -> None:
    if InfoFlag.OFF in info.flags:
        die("the shim is switched off", "boot without mbecguard=off", Exit.REFUSED)
    if InfoFlag.KVM not in info.flags:
        what = f"the hypervisor calls itself {info.hypervisor!r}" if info.hypervisor else "this is no virtual machine"
        hint = OTHERS.get(info.hypervisor, HIDDEN) if info.hypervisor else "a guest of KVM is needed"
        die(f"no hypercall reaches KVM: {what}", hint, Exit.REFUSED)
    if not 32 <= info.physical_bits <= 52 or info.canary_pa >> info.physical_bits:
        die(
            f"the shim tells {info.physical_bits} physical address bits and a canary at {info.canary_pa:#x}",
            "reinstall the shim; if it stays so, report it",
        )


def _granted(result: int, call: str) -> int:
    return checked(_known(result, call), call)


def _known(result: int, call: str) -> int:
    """The result of a hypercall; dies if it is an error that nobody knows."""
    if result < 0 and -result not in {*HostErrno}:
        die(
            f"{call}: the host answered {result}, an error that this ABI does not know",
            "ask the host's administrator whether it supports mbecguard, and which version",
            Exit.REFUSED,
        )
    return result


def _outcome(sight: Sight, tried: int, faulted: int) -> Outcome:
    """The verdict, given the place that was tried and the one that a page fault names, in the same unit."""
    if sight.seen is Seen.RAN:
        return Outcome.RAN
    # Other hosts than ours may inject #GP, which names no place.
    stopped = sight.trap == _GP or (sight.trap == _PF and tried == faulted)
    return Outcome.DENIED if sight.seen is Seen.TRAPPED and stopped else Outcome.NO_VERDICT


def _ending(pid: int) -> int:
    """Exit status of a child, negative: the signal that ended it; SIGKILL if it took too long.

    One that hangs in the kernel, as for a lock that a dead one holds, is left to itself.
    """
    process, reaped, status = os.pidfd_open(pid), 0, 0
    try:
        select.select([process], [], [], USER_SECONDS)
    finally:
        os.kill(pid, signal.SIGKILL)  # of no effect on one that has ended
        select.select([process], [], [], KILL_SECONDS)
        os.close(process)
        reaped, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if reaped else -signal.SIGKILL
