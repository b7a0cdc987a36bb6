# SPDX-License-Identifier: GPL-2.0-or-later
"""The host behind the shim's device: a device made of the simulated hypervisor, and user code that really runs."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from dataclasses import replace
from errno import EACCES, EBUSY, EFAULT, EINTR, EINVAL, ENOMEM, ENOTTY, EOPNOTSUPP, EPERM
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbecguard import device
from mbecguard.device import InfoFlag, MapFlag, ProbeKind, Seen, ShimDevice, ShimError, ShimMapping
from mbecguard.host.base import HostErrno, HostMode, HostRefusedError, Permission
from mbecguard.host.shim import QUERIES, ShimHost
from mbecguard.host.simulated.ept import Ept
from mbecguard.host.simulated.hypervisor import Hypervisor
from mbecguard.host.wire import CR0_PG, CR0_WP, CR4_SMAP, CR4_SMEP, CR4_UMIP, LEAST_RANGES, Limits
from mbecguard.values.errors import Exit
from tests.fakeshim import (
    BITS,
    CALLS,
    DENY_ALL,
    IMM,
    OPTIONS,
    PFNS,
    STRUCTURES,
    TEXT_VA,
    Cpus,
    FakeShim,
    R,
    W,
    X,
    device_of,
    fails,
    host_of,
    nothing,
    part,
    raising,
)
from tests.plans import CANARY

pytestmark = pytest.mark.usefixtures("cpus")

HEADER = Path(__file__).parents[2] / "hypercall-shim/mbecguard.h"


@pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
def test_layouts_and_numbers_are_those_of_the_header(tmp_path: Path) -> None:
    numbers = {
        "ABI": device.ABI,
        "MAX_RANGES": device.MAX_RANGES,
        "MAX_TEXT_PAGES": device.MAX_TEXT_PAGES,
        "TEXT_LINKS": device.TEXT_LINKS,
        "MAX_WORD": device.MAX_WORD,
        "MAPPINGS_CONTENT": device.MAPPINGS_CONTENT,
        "CANARY_VALUE": device.CANARY_VALUE,
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
    assert ctypes.sizeof(STRUCTURES["mapping"]) == device._MAPPING.size


def test_a_device_that_nobody_holds_is_closed(fake: FakeShim) -> None:
    fd = nothing()
    host = ShimHost(ShimDevice(fd, fake.ioctl))
    os.fstat(fd)
    del host
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


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
        ({"abi": 2}, "version 2 of its interface, the agent 3", Exit.REFUSED),
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


@pytest.mark.parametrize(
    ("signature", "option", "element"),
    [
        (b"Microsoft Hv", "hv-...", "<hyperv>"),
        (b"XenVMMXenVMM", "xen-version", "<xen>"),
        (b"KVMKVMKVM", "SEV or TDX", "<launchSecurity>"),
        (b"TCGTCGTCGTCG", "-accel kvm", "<domain type='kvm'>"),
        (b"Somebody", "kvm=off", "<hidden state='on'/>"),
    ],
)
def test_who_answers_in_kvm_s_place(fake: FakeShim, signature: bytes, option: str, element: str) -> None:
    """The hint names what the host's administrator has to change."""
    error = fails(lambda: host_of(replace(fake, flags=InfoFlag(0), signature=signature)))
    assert option in error.hint
    assert element in error.hint


@pytest.mark.parametrize("bits", [32, 52])
def test_sizes_of_the_guest_physical_space(fake: FakeShim, bits: int) -> None:
    assert host_of(replace(fake, bits=bits)).max_pfn == 1 << (bits - 12)


@pytest.mark.parametrize(("value", "shut"), [("1\n", True), ("0\n", False), (None, False)])
def test_a_shim_that_the_kernel_no_longer_lets_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None, shut: bool
) -> None:
    monkeypatch.setattr(device, "MODULES_DISABLED", tmp_path / "modules_disabled")
    if value:
        (tmp_path / "modules_disabled").write_text(value)
    missing = fails(lambda: ShimHost.at(tmp_path / "none"))
    assert ("kernel.modules_disabled = 1" in missing.message, "/etc/modules-load.d" in missing.hint) == (shut, shut)
    assert ("modprobe mbecguard_shim" in missing.hint) is not shut
    assert missing.status is Exit.REFUSED


def test_devices_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "MODULES_DISABLED", tmp_path / "none")
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
    most = [part(2 * i, 2 * i + 1, R) for i in range(host.most_ranges())]
    host.protect(most)
    assert not fake.hypervisor.ept.leaf(2 * len(most) - 2) & Ept.XS
    assert fake.hypervisor.ept.leaf(2 * len(most) - 1) & Ept.XS
    error = fails(lambda: host.protect([*most, part(0, 1, R)]))
    assert "43265 ranges" in error.message
    assert error.status is Exit.REFUSED
    assert fake.calls.count("protect") == 1


def test_a_host_tells_how_long_a_request_may_be(fake: FakeShim) -> None:
    host = host_of(fake)
    assert host.most_ranges() == device.MAX_RANGES
    for limits, most in (({"list_pages": 40}, 40 * 169), ({"boundaries": 6000}, 3000), ({"list_pages": 999}, 43264)):
        fake.hypervisor.options = replace(fake.hypervisor.options, limits=Limits(PFNS, **limits))
        assert host.most_ranges() == most
    fake.hypervisor.options = replace(fake.hypervisor.options, abi=1)
    assert host.most_ranges() == LEAST_RANGES == 5408


def test_pins(fake: FakeShim, cpus: Cpus) -> None:
    host = host_of(fake)
    assert not host.pinned()
    assert host.pin() == ("CR0.WP", "CR0.PG", "CR4.SMEP", "CR4.SMAP", "CR4.UMIP")
    assert host.pinned()
    pinned = {cr: fake.hypervisor._registers[cr].pinned for cr in (0, 4)}
    assert pinned == {0: CR0_WP | CR0_PG, 4: CR4_SMEP | CR4_SMAP | CR4_UMIP}
    assert cpus.visited == [0, 5, 0, 5]
    assert cpus.mask == {0, 5}


@pytest.mark.parametrize(("off", "names"), [(CR4_SMAP, "CR4.SMAP"), (CR4_UMIP, "CR4.UMIP")])
def test_what_the_guest_has_off_is_not_pinned(fake: FakeShim, off: int, names: str) -> None:
    assert fake.hypervisor.write_cr(4, fake.hypervisor.read_cr(4) & ~off)
    assert {"CR4.SMAP", "CR4.UMIP"} - {*host_of(fake).pin()} == {names}


def test_without_smep_there_is_no_pin(fake: FakeShim) -> None:
    assert fake.hypervisor.write_cr(4, fake.hypervisor.read_cr(4) & ~CR4_SMEP)
    assert "INVALID" in fails(host_of(fake).pin).message


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
