# SPDX-License-Identifier: GPL-2.0-or-later
"""The host behind the shim's device: a device made of the simulated hypervisor, and user code that really runs."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from errno import EACCES, EBUSY, EFAULT, EINTR, EINVAL, EIO, ENOENT, ENOMEM, ENOTTY, EOPNOTSUPP, EPERM
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbecguard import settings
from mbecguard.audit.record import EXPECTED, State
from mbecguard.ept import Ept, Mode
from mbecguard.errors import Exit, UserError
from mbecguard.host import ioctl, shim
from mbecguard.host.base import HostErrno, HostMode, HostRefusedError, Outcome, Permission, Protection
from mbecguard.host.hypervisor import Hypervisor, Options
from mbecguard.host.ioctl import Call, InfoFlag, MapFlag, ProbeKind, Seen, ShimDevice, ShimError, ShimMapping, Sight
from mbecguard.host.shim import QUERIES, ShimHost
from mbecguard.host.wire import PINS, Limits
from mbecguard.pages import PageRange
from mbecguard.session import Places, Session
from tests.guestcalls import ask
from tests.lockbench import AFTER, Bench
from tests.plans import CANARY, kept_frames, make_plan

HEADER = Path(__file__).parents[2] / "hypercall-shim/mbecguard.h"
BITS = 32
PFNS = 1 << 20  #: the smallest guest-physical space of the shim
OPTIONS = Options(limits=Limits(max_pfn=PFNS))
TEXT_VA, CANARY_VA, ALIAS_VA, USER_VA = 0xFFFFFFFF81000000, 0xFFFFFFFFC0A80000, 0xFFFF888000002000, 0xFFFFC90000000000
RETURNS = b"\xb8\x42\x4d\x00\x00\xc3"  # mov $0x4d42, %eax; ret
RETURNS_7, HANGS, FAULTS, ILLEGAL = b"\xb8\x07\0\0\0\xc3", b"\xeb\xfe", b"\xa0" + bytes(8) + b"\xc3", b"\x0f\x0b"
R, W, X, IMM = Permission.READ, Permission.WRITE, Permission.EXEC, Permission.IMMUTABLE

U8, U32, U64, S64 = ctypes.c_uint8, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int64


def structure(name: str, **fields: Any) -> Any:
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


STRUCTURES = {
    "info": structure(
        "info", size=U32, abi=U32, flags=U32, physical_bits=U32, canary_pa=U64, page_offset=U64,
        refused_modules=U64, hypervisor=U8 * 16,
    ),
    "mapping": structure("mapping", va=U64, pa=U64, bytes=U64, flags=U32, reserved=U32),
    "mappings": structure("mappings", size=U32, flags=U32, from_va=U64, mappings=U64, count=U32, reserved=U32),
    "range": structure("range", pa=U64, epa=U64, permissions=U64),
    "protect": structure("protect", size=U32, count=U32, ranges=U64, result=S64),
    "query": structure("query", size=U32, reserved=U32, result=S64),
    "pin": structure("pin", size=U32, cr=U32, bits=U64, result=S64),
    "probe": structure(
        "probe", size=U32, kind=U32, va=U64, cr=U32, outcome=U32, bits=U64, cr2=U64, trap=U32, reserved=U32
    ),
    "hold": structure("hold", size=U32, held=U32),
}  # fmt: skip
CALLS: dict[str, Call] = {
    name: getattr(ioctl, name.upper()) for name in ("info", "mappings", "query", "protect", "pin", "probe", "hold")
}


@pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
def test_layouts_and_numbers_are_those_of_the_header(tmp_path: Path) -> None:
    numbers = {
        "ABI": ioctl.ABI,
        "MAX_RANGES": ioctl.MAX_RANGES,
        "MAPPINGS_CONTENT": ioctl.MAPPINGS_CONTENT,
        "CANARY_VALUE": ioctl.CANARY_VALUE,
        **{f"INFO_{flag.name}": flag.value for flag in InfoFlag},
        **{f"MAP_{flag.name}": flag.value for flag in MapFlag},
        **{str(p.name): p.value for p in Permission},
        **{seen.name: seen.value for seen in Seen},
        **{f"PROBE_{kind.name}": kind.value for kind in ProbeKind},
        **{f"IOCTL_{name.upper()}": call.request for name, call in CALLS.items()},
    }
    expected = {f"MBECGUARD_{name}": value for name, value in numbers.items()}
    # Nothing that the header defines is left out.
    assert set(expected) == set(re.findall(r"^#define (MBECGUARD_\w+)[ \t]", HEADER.read_text(), re.MULTILINE))
    assert set(STRUCTURES) == set(re.findall(r"^struct mbecguard_(\w+) \{$", HEADER.read_text(), re.MULTILINE))
    for name, kind in STRUCTURES.items():
        expected[f"sizeof(struct mbecguard_{name})"] = ctypes.sizeof(kind)
        for entry in kind._fields_:
            expected[f"offsetof(struct mbecguard_{name}, {entry[0]})"] = getattr(kind, entry[0]).offset
    lines = "".join(f'\tprintf("%lu\\n", (unsigned long)({expression}));\n' for expression in expected)
    code = tmp_path / "numbers.c"
    code.write_text(
        f'#include <stddef.h>\n#include <stdio.h>\n#include "{HEADER}"\nint main(void)\n{{\n{lines}\treturn 0;\n}}\n'
    )
    subprocess.run(["gcc", "-Wall", "-Werror", "-o", tmp_path / "numbers", code], check=True)
    printed = subprocess.run([tmp_path / "numbers"], capture_output=True, check=True, text=True).stdout.split()
    assert dict(zip(expected, map(int, printed), strict=True)) == expected


def test_structures_are_as_long_as_the_layouts() -> None:
    assert {name: ctypes.sizeof(STRUCTURES[name]) for name in CALLS} == {n: c.layout.size for n, c in CALLS.items()}
    assert ctypes.sizeof(STRUCTURES["mapping"]) == ioctl._MAPPING.size


Entry = tuple[int, int, int, int]


@dataclass
class FakeShim:
    """What the C side does, over a hypervisor in memory; `errors` are raised, one a call (0: none)."""

    hypervisor: Hypervisor = field(default_factory=lambda: Hypervisor(OPTIONS))
    flags: InfoFlag = InfoFlag.KVM
    abi: int = 1
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
        s.page_offset, s.refused_modules = 0xFFFF888000000000, 3
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
        s.result = self._answered(self.hypervisor.hypercall(14, 0, int.from_bytes(b"HEKIQERY", "little")))

    def _protect(self, s: Any) -> None:
        assert 1 <= s.count <= 5408
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
        tries = (self._run_canary, self._fetch, self._clear)
        sight = self.sights.pop(0) if self.sights else tries[s.kind](s)
        s.outcome, s.trap, s.cr2 = sight.seen, sight.trap, sight.cr2

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


@pytest.fixture(autouse=True)
def cpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cpus:
    """Two CPUs, whatever machine this is."""
    two = Cpus([0, 5])
    (tmp_path / "online").write_text("0,5\n")
    monkeypatch.setattr(shim, "ONLINE", tmp_path / "online")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: two.mask)
    monkeypatch.setattr(os, "sched_setaffinity", two.move)
    return two


@pytest.fixture
def fake() -> FakeShim:
    return FakeShim()


def nothing() -> int:
    """A descriptor."""
    return os.open(os.devnull, os.O_RDONLY)


def device_of(fake: FakeShim, fd: int | None = None) -> ShimDevice:
    return ShimDevice(nothing() if fd is None else os.dup(fd), fake.ioctl)


def host_of(fake: FakeShim, fd: int | None = None) -> ShimHost:
    return ShimHost(device_of(fake, fd))


def test_a_device_that_nobody_holds_is_closed(fake: FakeShim) -> None:
    fd = nothing()
    host = ShimHost(ShimDevice(fd, fake.ioctl))
    os.fstat(fd)
    del host
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.fixture
def page() -> Iterator[Callable[[bytes], int]]:
    """Makes a file of one page that can be mapped to run, as the canary's can."""
    made = []

    def make(code: bytes) -> int:
        made.append(os.memfd_create("canary"))
        os.write(made[-1], code.ljust(4096, b"\xcc"))
        return made[-1]

    yield make
    for fd in made:
        os.close(fd)


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


def test_what_the_shim_tells(fake: FakeShim) -> None:
    info = device_of(replace(fake, flags=InfoFlag.KVM | InfoFlag.HELD)).info()
    assert (info.flags, info.hypervisor, info.refused_modules) == (InfoFlag.KVM | InfoFlag.HELD, "KVMKVMKVM", 3)
    assert (info.physical_bits, info.canary_pa, info.page_offset) == (BITS, CANARY << 12, 0xFFFF888000000000)
    host = host_of(fake)
    assert (host.name, host.simulated, host.max_pfn, host.canary_pfn) == ("shim", False, PFNS, CANARY)


@pytest.mark.parametrize(
    ("broken", "message", "status"),
    [
        ({"flags": InfoFlag.KVM | InfoFlag.OFF}, "switched off", Exit.REFUSED),
        ({"flags": InfoFlag(0), "signature": b"Microsoft Hv"}, "calls itself 'Microsoft Hv'", Exit.REFUSED),
        ({"flags": InfoFlag(0), "signature": b""}, "no virtual machine", Exit.REFUSED),
        ({"abi": 2}, "version 2 of its interface, the agent 1", Exit.REFUSED),
        ({"errors": [EINVAL]}, "another version", Exit.REFUSED),
        ({"errors": [ENOTTY]}, "another version", Exit.REFUSED),
        ({"errors": [ENOMEM]}, "Cannot allocate memory", Exit.ERROR),
        ({"bits": 31}, "31 physical address bits", Exit.ERROR),
        ({"bits": 53}, "53 physical address bits", Exit.ERROR),
        ({"canary": PFNS}, "a canary at 0x100000000", Exit.ERROR),
    ],
    ids=range(10),
)
def test_hosts_that_cannot_be_used(fake: FakeShim, broken: dict[str, Any], message: str, status: Exit) -> None:
    assert host_of(fake).canary_pfn == CANARY
    error = fails(lambda: host_of(replace(fake, **broken)))
    assert message in error.message
    assert error.status is status


@pytest.mark.parametrize("bits", [32, 52])
def test_sizes_of_the_guest_physical_space(fake: FakeShim, bits: int) -> None:
    assert host_of(replace(fake, bits=bits)).max_pfn == 1 << (bits - 12)


def test_devices_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = fails(lambda: ShimHost.at(tmp_path / "none"))
    assert ("is missing" in missing.message, missing.status) == (True, Exit.REFUSED)
    assert "modprobe mbecguard_shim" in missing.hint
    assert "mbecguard-shim-dkms" in missing.hint
    assert "cannot be opened: Is a directory" in fails(lambda: ShimHost.at(tmp_path)).message
    other = fails(lambda: ShimHost.at(Path("/dev/null")))  # the real ioctl
    assert "another version" in other.message
    for number in (EACCES, EPERM):
        monkeypatch.setattr(os, "open", raising(number))
        forbidden = fails(lambda: ShimHost.at(tmp_path))
        assert "root" in forbidden.hint
        assert forbidden.status is Exit.ERROR


@pytest.mark.parametrize(
    ("number", "message", "status"),
    [
        (EPERM, "switched off, or this is not root", Exit.REFUSED),
        (EOPNOTSUPP, "not KVM", Exit.REFUSED),
        (EBUSY, "sealed", Exit.REFUSED),
        (EFAULT, "Bad address", Exit.ERROR),
    ],
)
def test_the_shim_refuses(fake: FakeShim, number: int, message: str, status: Exit) -> None:
    host = host_of(fake)
    for call in (host.query, lambda: host.protect([DENY_ALL]), host.pin, host.pinned, lambda: host.hold_modules(True)):
        fake.errors.append(number)
        error = fails(call)
        assert isinstance(error, ShimError)
        assert (error.errno, error.status) == (number, status)
        assert message in error.message
    assert host.query().generation == 0


def test_interrupted_calls_are_repeated(fake: FakeShim) -> None:
    host = host_of(fake)
    fake.errors += [EINTR, EINTR]
    host.protect([DENY_ALL])
    assert fake.calls == ["info", "protect", "protect", "protect"]
    assert host.query().generation == 1


def test_query(fake: FakeShim) -> None:
    host = host_of(fake)
    before = host.query()
    assert (before.mode, before.generation, before.restricted, before.sealed) == (HostMode.ENFORCE, 0, False, False)
    host.protect([part(0, PFNS, R | W | IMM)])
    after = host.query()
    assert (after.generation, after.restricted, after.sealed, after.enforced) == (1, True, True, X | IMM)


def test_a_heki_host_has_no_mode() -> None:
    assert host_of(FakeShim(Hypervisor(replace(OPTIONS, no_query=True)))).query().mode is HostMode.UNKNOWN


@pytest.mark.parametrize(("unready", "good"), [(1, True), (QUERIES - 1, True), (QUERIES, False)])
def test_a_cpu_that_is_coming_up_is_waited_for(fake: FakeShim, unready: int, good: bool) -> None:
    fake.unready = unready
    if good:
        assert host_of(fake).query().mode is HostMode.ENFORCE
    else:
        with pytest.raises(HostRefusedError):
            host_of(fake).query()


@pytest.mark.parametrize("errno", HostErrno)
def test_refusals_of_the_host_keep_their_reason(fake: FakeShim, errno: HostErrno) -> None:
    host = host_of(replace(fake, answer=-errno.value))
    for name, call in (("query", host.query), ("protect", lambda: host.protect([DENY_ALL])), ("pin", host.pin)):
        with pytest.raises(HostRefusedError) as refused:
            call()
        assert (refused.value.errno, refused.value.call) == (errno, name)


@given(st.integers(-(2**63), -1).filter(lambda number: -number not in list(HostErrno)))
def test_unknown_errors_of_the_host_are_named(number: int) -> None:
    host = host_of(FakeShim(answer=number))
    for call in (host.query, lambda: host.protect([DENY_ALL]), host.pin):
        error = fails(call)
        assert f"the host answered {number}" in error.message
        assert error.status is Exit.REFUSED


def test_requests_arrive_in_list_order(fake: FakeShim) -> None:
    host = host_of(fake)
    host.protect([])
    assert fake.calls == ["info"]
    host.protect([DENY_ALL, part(8, 12, R | W | X), part(10, 11, R), part(PFNS - 1, PFNS, X)])
    leaves = {gfn: fake.hypervisor.ept.leaf(gfn) for gfn in (7, 8, 9, 10, 11, 12, PFNS - 2, PFNS - 1)}
    assert [gfn for gfn, leaf in leaves.items() if Ept.XS in leaf] == [8, 9, 11, PFNS - 1]
    assert fake.hypervisor.ept.generation == 1


def test_long_requests(fake: FakeShim) -> None:
    host = host_of(fake)
    most = [part(2 * i, 2 * i + 1, R) for i in range(5408)]
    host.protect(most)
    assert not fake.hypervisor.ept.leaf(2 * 5407) & Ept.XS
    assert fake.hypervisor.ept.leaf(2 * 5407 + 1) & Ept.XS
    error = fails(lambda: host.protect([*most, part(0, 1, R)]))
    assert "5409 ranges" in error.message
    assert "policy.tight" in error.hint
    assert error.status is Exit.REFUSED
    assert fake.calls.count("protect") == 1
    assert any(s.key == "policy.tight" for s in settings.SETTINGS)


def test_pins(fake: FakeShim, cpus: Cpus) -> None:
    host = host_of(fake)
    assert not host.pinned()
    host.pin()
    assert host.pinned()
    assert {cr: fake.hypervisor._registers[cr].pinned for cr in (0, 4)} == PINS
    assert cpus.visited == [0, 5, 0, 5]
    assert cpus.mask == {0, 5}


GP, PF = Sight(Seen.TRAPPED, 13, 0), Sight(Seen.TRAPPED, 14, CANARY_VA)
RAN, LOOPED = Sight(Seen.RAN, 0, 0), Sight(Seen.LOOPED, 0, 0)
UNCHANGED, UNSUITABLE = Sight(Seen.UNCHANGED, 0, 0), Sight(Seen.UNSUITABLE, 0, 0)


@pytest.mark.parametrize(
    ("sights", "pinned"),
    [([GP, GP], True), ([GP, RAN], False), ([RAN, GP], False), ([GP, UNCHANGED], False), ([GP, PF], False)],
    ids=range(5),
)
def test_pinned_is_pinned_everywhere(fake: FakeShim, sights: list[Sight], pinned: bool) -> None:
    assert host_of(replace(fake, sights=sights)).pinned() is pinned


@pytest.mark.parametrize(
    ("sights", "outcome"),
    [
        ([RAN, RAN], Outcome.RAN),
        ([PF, PF], Outcome.DENIED),
        ([GP, GP], Outcome.DENIED),
        ([PF, GP], Outcome.DENIED),
        ([PF, RAN], Outcome.NO_VERDICT),
        ([RAN, PF], Outcome.NO_VERDICT),
        ([LOOPED, LOOPED], Outcome.NO_VERDICT),
        ([PF, LOOPED], Outcome.NO_VERDICT),
        ([PF, replace(PF, cr2=CANARY_VA + 1)], Outcome.NO_VERDICT),  # something else faulted
        ([replace(PF, trap=6)] * 2, Outcome.NO_VERDICT),
        ([replace(PF, seen=Seen.LOOPED)] * 2, Outcome.NO_VERDICT),
    ],
    ids=range(11),
)
def test_the_canary_on_every_cpu(fake: FakeShim, cpus: Cpus, sights: Sequence[Sight], outcome: Outcome) -> None:
    assert host_of(replace(fake, sights=list(sights))).run_canary() is outcome
    assert cpus.visited == [0, 5]
    assert cpus.mask == {0, 5}


def test_the_canary_is_denied_and_its_neighbour_runs(fake: FakeShim) -> None:
    host = host_of(fake)
    frames = (8, 9, 10, 11, 20)
    assert [host.run_canary(), *map(host.run_kept, frames)] == [Outcome.RAN] * 6
    host.protect([DENY_ALL, part(8, 12, X), part(10, 11, R)])
    assert host.run_canary() is Outcome.DENIED
    assert [pfn for pfn in frames if host.run_kept(pfn) is Outcome.RAN] == [8, 9, 11]
    assert [pfn for pfn in frames if host.run_kept(pfn) is Outcome.DENIED] == [10, 20]


def test_cpus_that_cannot_be_tried(fake: FakeShim, cpus: Cpus, monkeypatch: pytest.MonkeyPatch) -> None:
    host = host_of(fake)
    cpus.online = [0]
    error = fails(host.run_canary)
    assert "CPU 5" in error.message
    assert cpus.mask == {0, 5}
    fake.errors.append(ENOMEM)
    fails(host.run_canary)
    assert cpus.mask == {0, 5}  # given back also when the probe fails
    monkeypatch.setattr(shim, "ONLINE", Path("/dev/null/online"))
    assert "cannot be read" in fails(host.pinned).message


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", [0]), ("0-3", [0, 1, 2, 3]), ("0,2-3,17\n", [0, 2, 3, 17]), ("4-4", [4])],
)
def test_lists_of_cpus(text: str, expected: list[int]) -> None:
    shim.ONLINE.write_text(text)
    assert shim.online_cpus() == expected


@pytest.mark.parametrize("text", ["", "0-", "a", "0,,1", "1-2-3", "-1", "999999"])
def test_what_is_no_list_of_cpus(text: str) -> None:
    shim.ONLINE.write_text(text)
    assert "no list of CPUs" in fails(shim.online_cpus).message


def test_this_machine_has_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert len(shim.online_cpus()) == os.sysconf("SC_NPROCESSORS_ONLN")


def test_kept_frames_are_found_by_their_addresses(fake: FakeShim) -> None:
    host = host_of(fake)
    fake.table += [(TEXT_VA + 0x100000, 2 << 12, 4096, 0)]
    # 2: an alias of the direct map, where the shim tries nothing, and then text. 8: a user-mode address comes first.
    assert [host.run_kept(pfn) for pfn in (2, 8, 11, 20)] == [Outcome.RAN] * 4
    assert [host.run_kept(pfn) for pfn in (7, 12, 21)] == [Outcome.NO_VERDICT] * 3
    assert fake.calls.count("probe") == 5


@pytest.mark.parametrize(
    ("sight", "outcome"),
    [
        (UNSUITABLE, Outcome.NO_VERDICT),
        (LOOPED, Outcome.NO_VERDICT),
        (Sight(Seen.TRAPPED, 14, TEXT_VA + 0xFFF), Outcome.DENIED),
        (Sight(Seen.TRAPPED, 14, TEXT_VA + 0x1000), Outcome.NO_VERDICT),
        (Sight(Seen.TRAPPED, 3, TEXT_VA), Outcome.NO_VERDICT),
    ],
    ids=range(5),
)
def test_fetches_without_a_clear_verdict(fake: FakeShim, sight: Sight, outcome: Outcome) -> None:
    fake.sights.append(sight)
    assert host_of(fake).run_kept(8) is outcome
    assert host_of(fake).run_kept(8) is Outcome.RAN


def test_a_fetch_that_fails_otherwise_is_an_error(fake: FakeShim) -> None:
    host = host_of(fake)
    fake.errors += [0, 0, EIO]  # the second page of mappings brings kernel text
    assert "probe" in fails(lambda: host.run_kept(8)).message


def test_mappings_go_on_where_they_ended(fake: FakeShim) -> None:
    fake.table[2] = (TEXT_VA, 8 << 12, 4 * 4096, 12)
    for room in (1, 2, 5, 9):
        fake.room = room
        assert list(device_of(fake).mappings(content=True)) == [
            ShimMapping(va, pa, size, MapFlag(flags)) for va, pa, size, flags in fake.table
        ]
    assert [m.flags for m in device_of(fake).mappings(content=False)][2] == MapFlag(0)
    fake.table.clear()
    assert list(device_of(fake).mappings(content=True)) == []


def test_mappings_that_never_end() -> None:
    def turn(_request: int, data: bytearray) -> None:
        s: Any = STRUCTURES["mappings"].from_buffer(data)
        s.from_va, s.count = TEXT_VA, 0

    assert "goes on at" in fails(lambda: list(ShimDevice(nothing(), turn).mappings(content=True))).message


def test_user_code_runs(fake: FakeShim, page: Callable[[bytes], int]) -> None:
    host = host_of(fake, page(RETURNS))
    assert [host.run_user(CANARY), host.run_user(CANARY)] == [Outcome.RAN] * 2
    assert [host.run_user(CANARY + 1), host.run_user(8)] == [Outcome.NO_VERDICT] * 2


@pytest.mark.parametrize(
    ("code", "outcome"),
    [(FAULTS, Outcome.DENIED), (RETURNS_7, Outcome.NO_VERDICT), (ILLEGAL, Outcome.NO_VERDICT)],
    ids=["faults", "another value", "illegal"],
)
def test_user_code_that_does_not_return_well(
    fake: FakeShim, page: Callable[[bytes], int], code: bytes, outcome: Outcome
) -> None:
    assert host_of(fake, page(code)).run_user(CANARY) is outcome


def test_user_code_that_hangs_is_ended(
    fake: FakeShim, page: Callable[[bytes], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shim, "USER_SECONDS", 0.3)
    assert host_of(fake, page(HANGS)).run_user(CANARY) is Outcome.NO_VERDICT
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)  # nothing is left behind


def test_user_code_that_cannot_be_mapped(fake: FakeShim) -> None:
    reading, writing = os.pipe()
    try:
        error = fails(lambda: host_of(fake, reading).run_user(CANARY))
    finally:
        os.close(reading)
        os.close(writing)
    assert "noexec" in error.hint


@pytest.mark.parametrize(("code", "status"), [(RETURNS, 0), (RETURNS_7, 1), (None, 2)], ids=["good", "bad", "none"])
def test_the_child_tells_how_it_went(
    fake: FakeShim, page: Callable[[bytes], int], monkeypatch: pytest.MonkeyPatch, code: bytes | None, status: int
) -> None:
    """The child's part of `run_user`, in this process."""

    def leave(given: int) -> NoReturn:
        raise SystemExit(given)

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(faulthandler, "disable", lambda: None)
    host: Any = host_of(fake, page(code) if code else None)
    with pytest.raises(SystemExit) as left:
        host._child()
    assert left.value.code == status


def test_modules_are_held(fake: FakeShim) -> None:
    host, states = host_of(fake), [fake.held]
    for hold in (True, True, False, False, True):
        host.hold_modules(hold)
        states.append(fake.held)
    assert states == [False, True, True, False, False, True]
    host.protect([part(0, 1, R | IMM)])
    host.hold_modules(True)
    assert "sealed" in fails(lambda: host.hold_modules(False)).message
    assert fake.held


PLAN = make_plan(max_pfn=PFNS)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(os, "fsync", lambda _fd: None)
    return Bench(tmp_path, plans=[PLAN])


def test_a_lock_over_the_shim_ends_sealed(bench: Bench, fake: FakeShim, page: Callable[[bytes], int]) -> None:
    fd = page(RETURNS)
    record = bench.lock(host_of(fake, fd))
    assert (record.state, record.host, record.simulated, record.pinned) == (State.SEALED, "shim", False, True)
    assert {e.probe: e.outcome for e in record.evidence} == EXPECTED
    low = [gfn for gfn in range(64) if Ept.XS in fake.hypervisor.ept.leaf(gfn)]
    assert set(low) == kept_frames(PLAN) - {CANARY}
    assert fake.hypervisor.ept.sealed
    assert fake.held
    assert bench.values() == AFTER
    # The next agent of this boot finds it so and has nothing to do.
    again = Bench(bench.folder, plans=[PLAN])
    assert again.lock(host_of(fake, fd)).state is State.SEALED
    assert again.status(host_of(fake)).state is State.SEALED


def test_a_host_that_enforces_nothing_is_found_out(bench: Bench, page: Callable[[bytes], int]) -> None:
    fake = FakeShim(Hypervisor(replace(OPTIONS, mbec=False)))  # as Heki v2: every request is granted
    error = bench.fails(host_of(fake, page(RETURNS)))
    assert error.status is Exit.NOT_ENFORCED
    assert not fake.held


@pytest.mark.parametrize("code", [FAULTS, RETURNS_7], ids=["denied", "no verdict"])
def test_a_host_that_denies_user_code_is_found_out(bench: Bench, page: Callable[[bytes], int], code: bytes) -> None:
    fake = FakeShim()
    assert bench.fails(host_of(fake, page(code))).status is Exit.NOT_ENFORCED
    assert not fake.hypervisor.ept.restricted
    assert not fake.held


def test_a_canary_denied_on_one_cpu_alone_is_no_proof(bench: Bench, page: Callable[[bytes], int]) -> None:
    fake = FakeShim(sights=[RAN, RAN, PF, RAN])
    assert bench.fails(host_of(fake, page(RETURNS))).status is Exit.NOT_ENFORCED
    assert not fake.hypervisor.ept.restricted


@pytest.mark.parametrize("number", [ENOMEM, EINVAL])
def test_a_shim_that_fails_at_any_call_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: Callable[[bytes], int], number: int
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _fd: None)
    fd, outcomes = page(RETURNS), set()
    for at in range(1, 40, 3):
        fake = FakeShim(room=99, errors=[0] * at + [number])
        bench = Bench(tmp_path / str(at), plans=[PLAN])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ShimDevice, "call_canary", lambda _self: ioctl.CANARY_VALUE)
            try:
                sealed = bench.lock(host_of(fake, fd)).state is State.SEALED
            except UserError:
                sealed = fake.hypervisor.ept.sealed
                assert sealed or not (fake.hypervisor.ept.restricted or fake.held)
        outcomes.add(sealed)
    assert outcomes == {True, False}


def test_the_session_asks_the_shim_for_the_running_guest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = FakeShim()
    monkeypatch.setattr(shim, "open_device", lambda _path: device_of(fake))
    places = Places(tmp_path / "state", tmp_path / "cache")
    for choice in ("auto", "shim"):
        session = Session(settings.load(overrides=[f"lock.host={choice}"]), places)
        assert isinstance(session.host, ShimHost)
    recorded = Session(settings.load(overrides=["lock.host=shim"]), places, folder=tmp_path)
    assert "simulator" in fails(lambda: recorded.host).hint
    monkeypatch.undo()
    monkeypatch.setattr(os, "open", raising(ENOENT))
    missing = fails(lambda: Session(settings.load(), places).host)
    assert (missing.status, "--host simulator" in missing.hint) == (Exit.REFUSED, True)
