# SPDX-License-Identifier: GPL-2.0-or-later
"""The shim's device made of the simulated hypervisor, and the CPUs of a machine that is not this one."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from errno import EBUSY, EINVAL
from typing import Any, NoReturn

import pytest

from mbecguard import device
from mbecguard.device import Call, InfoFlag, MapFlag, Seen, ShimDevice, Sight
from mbecguard.host.base import HostErrno, Permission, Protection
from mbecguard.host.shim import ShimHost
from mbecguard.host.simulated.ept import Mode
from mbecguard.host.simulated.hypervisor import Hypervisor, Options
from mbecguard.host.wire import Limits
from mbecguard.values.errors import UserError
from mbecguard.values.pages import PageRange
from tests.guestcalls import ask
from tests.plans import CANARY

BITS = 32


PFNS = 1 << 20  #: the smallest guest-physical space of the shim


OPTIONS = Options(limits=Limits(max_pfn=PFNS))


TEXT_VA, CANARY_VA, ALIAS_VA, USER_VA = 0xFFFFFFFF81000000, 0xFFFFFFFFC0A80000, 0xFFFF888000002000, 0xFFFFC90000000000
TARGET, STORE_VA = CANARY - 1, 0xFFFFC90000800000  #: the page to write to, and where the shim maps it


RETURNS = b"\xb8\x42\x4d\x00\x00\xc3"  # mov $0x4d42, %eax; ret


RETURNS_7, HANGS, FAULTS, ILLEGAL = b"\xb8\x07\0\0\0\xc3", b"\xeb\xfe", b"\xa0" + bytes(8) + b"\xc3", b"\x0f\x0b"


R, W, X, IMM = Permission.READ, Permission.WRITE, Permission.EXEC, Permission.IMMUTABLE


U8, U32, U64, S64 = ctypes.c_uint8, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int64


def structure(name: str, **fields: Any) -> Any:
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


STRUCTURES = {
    "info": structure(
        "info", size=U32, abi=U32, flags=U32, physical_bits=U32, canary_pa=U64, target_pa=U64, page_offset=U64,
        refused_modules=U64, hypervisor=U8 * 16,
    ),
    "mapping": structure("mapping", va=U64, pa=U64, bytes=U64, flags=U32, reserved=U32),
    "mappings": structure("mappings", size=U32, flags=U32, from_va=U64, mappings=U64, count=U32, reserved=U32),
    "range": structure("range", pa=U64, epa=U64, permissions=U64),
    "protect": structure("protect", size=U32, count=U32, ranges=U64, result=S64),
    "query": structure("query", size=U32, word=U32, result=S64),
    "pin": structure("pin", size=U32, cr=U32, bits=U64, result=S64),
    "probe": structure(
        "probe", size=U32, kind=U32, va=U64, cr=U32, outcome=U32, bits=U64, cr2=U64, trap=U32, reserved=U32
    ),
    "hold": structure("hold", size=U32, held=U32),
    "text": structure("text", size=U32, count=U32, pages=U64, result=S64),
}  # fmt: skip


CALLS: dict[str, Call] = {
    name: getattr(device, name.upper())
    for name in ("info", "mappings", "query", "protect", "pin", "probe", "hold", "text")
}


Entry = tuple[int, int, int, int]


@dataclass
class FakeShim:
    """What the C side does, over a hypervisor in memory; `errors` are raised, one a call (0: none)."""

    hypervisor: Hypervisor = field(default_factory=lambda: Hypervisor(OPTIONS))
    flags: InfoFlag = InfoFlag.KVM
    abi: int = 3
    bits: int = BITS
    canary: int = CANARY
    signature: bytes = b"KVMKVMKVM\0\0\0"
    table: list[Entry] = field(
        default_factory=lambda: [
            (ALIAS_VA, 0x2000, 4096, 1),
            (USER_VA, 8 << 12, 4096, 2),
            (TEXT_VA, 8 << 12, 4 * 4096, 0),
            (TEXT_VA + 4 * 4096, 20 << 12, 4096, 0),
            (CANARY_VA, CANARY << 12, 4096, 0),
        ]
    )
    room: int = 2  #: mappings given by one call at most
    held: bool = False
    answer: int | None = None  #: of every hypercall
    unready: int = 0  #: queries that find a CPU without SMEP first
    errors: list[int] = field(default_factory=list)
    sights: list[Sight] = field(default_factory=list)  #: seen by the next probes, instead of trying
    calls: list[str] = field(default_factory=list)

    def ioctl(self, request: int, data: bytearray) -> None:
        nr = request & 0xFF
        name = list(CALLS)[nr - 0xE0]
        kind = STRUCTURES[name]
        assert request == (1 if name == "hold" else 3) << 30 | ctypes.sizeof(kind) << 16 | 0x6D00 | nr
        s = kind.from_buffer(data)
        assert s.size == len(data) == ctypes.sizeof(kind)
        assert not getattr(s, "reserved", 0)
        self.calls.append(name)
        if self.errors and (number := self.errors.pop(0)):
            raise OSError(number, os.strerror(number))
        getattr(self, f"_{name}")(s)

    def _info(self, s: Any) -> None:
        s.abi, s.flags, s.physical_bits, s.canary_pa = self.abi, self.flags, self.bits, self.canary << 12
        s.target_pa, s.page_offset, s.refused_modules = TARGET << 12, 0xFFFF888000000000, 3
        ctypes.memmove(s.hypervisor, self.signature, len(self.signature))

    def _mappings(self, s: Any) -> None:
        assert s.count > 0
        found = [entry for entry in sorted(self.table) if entry[0] >= s.from_va]
        given = found[: min(s.count, self.room)]
        if not s.flags & 1:
            given = [(va, pa, size, flags & 3) for va, pa, size, flags in given]
        entry = STRUCTURES["mapping"]
        given_array = (entry * len(given))(*[entry(*fields, 0) for fields in given])
        ctypes.memmove(s.mappings, given_array, ctypes.sizeof(given_array))
        s.count = len(given)
        s.from_va = found[len(given)][0] if len(found) > len(given) else 0

    def _query(self, s: Any) -> None:
        if self.unready:
            self.unready -= 1
            s.result = -HostErrno.NOT_SUPPORTED
            return
        s.result = self._answered(self.hypervisor.hypercall(14, 0, int.from_bytes(b"HEKIQERY", "little") + s.word))

    def _protect(self, s: Any) -> None:
        assert 1 <= s.count <= device.MAX_RANGES
        ranges = (STRUCTURES["range"] * s.count).from_address(s.ranges)
        s.result = self._answered(
            ask(
                self.hypervisor,
                *(Protection(PageRange(r.pa >> 12, r.epa >> 12), Permission(r.permissions)) for r in ranges),
            )
        )

    def _pin(self, s: Any) -> None:
        s.result = self._answered(self.hypervisor.hypercall(13, s.cr, s.bits))

    def _answered(self, result: int) -> int:
        return result if self.answer is None else self.answer

    def _probe(self, s: Any) -> None:
        tries = (self._run_canary, self._fetch, self._clear, self._store)
        sight = self.sights.pop(0) if self.sights else tries[s.kind](s)
        s.outcome, s.trap, s.cr2, s.va = sight.seen, sight.trap, sight.cr2, sight.va

    def _run_canary(self, s: Any) -> Sight:
        assert (s.va, s.cr, s.bits) == (0, 0, 0)
        return self._run(self.canary << 12, CANARY_VA)

    def _fetch(self, s: Any) -> Sight:
        for va, pa, size, flags in self.table:
            if va <= s.va < va + size and va != ALIAS_VA and not flags & MapFlag.USER:
                return self._run(pa + s.va - va, s.va + 0x123)
        raise OSError(EINVAL, "Invalid argument")

    def _run(self, gpa: int, va: int) -> Sight:
        denied = self.hypervisor.fetch(gpa, Mode.SUPERVISOR)
        return Sight(Seen.TRAPPED, 14, va) if denied else Sight(Seen.RAN, 0, 0)

    def _clear(self, s: Any) -> Sight:
        before = self.hypervisor.read_cr(s.cr)
        assert before & s.bits == s.bits
        cleared = self.hypervisor.write_cr(s.cr, before & ~s.bits)
        self.hypervisor.write_cr(s.cr, before)
        return Sight(Seen.RAN, 0, 0) if cleared else Sight(Seen.TRAPPED, 13, 0)

    def _store(self, s: Any) -> Sight:
        assert (s.va, s.cr, s.bits) == (0, 0, 0)
        done = self.hypervisor.store(TARGET << 12)
        return Sight(Seen.RAN, 0, 0, STORE_VA) if done else Sight(Seen.TRAPPED, 14, STORE_VA, STORE_VA)

    def _text(self, s: Any) -> None:
        """The links of the pages are the shim's."""
        room = ctypes.string_at(s.pages, s.count * 4096)
        places = [(1 << 20) + 4096 * number for number in range(s.count)]
        for place, following, start in zip(places, (*places[1:], 0), range(0, len(room), 4096), strict=True):
            links = bytes(8) + following.to_bytes(8, "little") + bytes(8)
            self.hypervisor.memory[place] = links + room[start + 24 : start + 4096]
        s.result = self._answered(self.hypervisor.hypercall(14, places[0], int.from_bytes(b"HEKITEXT", "little")))

    def _hold(self, s: Any) -> None:
        if self.hypervisor.ept.sealed and not s.held:
            raise OSError(EBUSY, "Device or resource busy")
        self.held = bool(s.held)


@dataclass
class Cpus:
    """The CPUs that a host saw, in order, and where the caller may run."""

    online: list[int]
    visited: list[int] = field(default_factory=list)
    mask: set[int] = field(default_factory=lambda: {0, 5})

    def move(self, pid: int, mask: set[int]) -> None:
        assert pid == 0
        if not mask & {*self.online, 0}:
            raise OSError(EINVAL, "Invalid argument")
        self.mask = mask
        if len(mask) == 1:
            self.visited += mask


def nothing() -> int:
    """A descriptor."""
    return os.open(os.devnull, os.O_RDONLY)


def device_of(fake: FakeShim, fd: int | None = None) -> ShimDevice:
    return ShimDevice(nothing() if fd is None else os.dup(fd), fake.ioctl)


def host_of(fake: FakeShim, fd: int | None = None) -> ShimHost:
    return ShimHost(device_of(fake, fd))


def part(start: int, end: int, permissions: Permission) -> Protection:
    return Protection(PageRange(start, end), permissions)


def fails(act: Callable[[], object]) -> UserError:
    with pytest.raises(UserError) as caught:
        act()
    assert caught.value.hint
    return caught.value


def raising(number: int) -> Callable[..., NoReturn]:
    def act(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return act


DENY_ALL = part(0, PFNS, R | W)
GP, PF = Sight(Seen.TRAPPED, 13, 0), Sight(Seen.TRAPPED, 14, CANARY_VA)
RAN, LOOPED = Sight(Seen.RAN, 0, 0), Sight(Seen.LOOPED, 0, 0)
UNCHANGED, UNSUITABLE = Sight(Seen.UNCHANGED, 0, 0), Sight(Seen.UNSUITABLE, 0, 0)
