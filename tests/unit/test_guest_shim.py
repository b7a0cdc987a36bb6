# SPDX-License-Identifier: GPL-2.0-or-later
"""The page tables by the shim: the same guest as by /proc/kcore, and what is left where that may not be read."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from mbecguard.device import ShimDevice
from mbecguard.guest import kcore as kcore_module
from mbecguard.guest import shimsource
from mbecguard.guest.execmap import Mapping
from mbecguard.guest.live import KcoreSource
from mbecguard.guest.procfs import Kallsyms
from mbecguard.guest.shimsource import ShimSource
from mbecguard.values.errors import UserError
from mbecguard.values.facts import Absent, Known, Unknown, known
from mbecguard.values.pages import PAGE_SIZE, PageRange
from tests.coremaker import Core
from tests.fakeshim import FakeShim
from tests.unit.test_kcore import (
    DIRECT_MAP,
    EFI,
    EFI_MM,
    EMPTY,
    HEADER,
    HYPERCALL,
    INIT,
    INT3,
    TEXT,
    THUNK,
    guest,
    saved,
)

WRITABLE, USER, INT3_FLAG, THUNKS_FLAG = 1, 2, 4, 8
NAMES = {"efi_mm": EFI_MM, "real_mode_header": HEADER, "hv_hypercall_pg": HYPERCALL}
MODULE = 0xFFFFFFFFC0100000


def symbols(*names: str) -> Kallsyms:
    found = {"_text": TEXT} | {name: NAMES[name] for name in names}
    return Kallsyms("".join(f"{va:016x} D {name}\n" for name, va in found.items()).encode())


def seen_by_shim() -> FakeShim:
    """What the shim tells of the guest in the core file."""
    content = {INT3: INT3_FLAG | THUNKS_FLAG, THUNK: THUNKS_FLAG}
    return FakeShim(table=[(m.va, m.pa, m.bytes, m.writable * WRITABLE | content.get(m.pa, 0)) for m in INIT])


def source(folder: Path, fake: FakeShim, core: Core | bytes | None = None) -> ShimSource:
    """The shim, and a kcore file if `core` is given."""
    kcore = folder / "missing" if core is None else saved(folder, core)

    def open_device(path: Path) -> ShimDevice:
        assert path == folder / "device"
        return ShimDevice(os.open(os.devnull, os.O_RDWR), fake.ioctl)

    return ShimSource(folder / "device", kcore, open_device)


@pytest.mark.parametrize(
    "names", [("efi_mm", "real_mode_header", "hv_hypercall_pg"), ("real_mode_header",), ()], ids=len
)
@pytest.mark.parametrize("room", [1, 3, 99])
def test_shim_and_kcore_tell_the_same(tmp_path: Path, names: tuple[str, ...], room: int) -> None:
    core, there = guest(), symbols(*names)
    core.write(EFI[0].pa, b"\xcc" * PAGE_SIZE)  # content of what only efi_mm maps
    by_shim = source(tmp_path, replace(seen_by_shim(), room=room), core).read(there)
    assert by_shim == KcoreSource(saved(tmp_path, core)).read(there)
    assert len(known(by_shim.facts.int3_pages, ())) == (2 if "efi_mm" in names else 1)


@pytest.mark.parametrize("core", [None, b"damaged", replace(guest(), note_name=b"OTHER")], ids=["none", "bad", "bare"])
def test_without_kcore_the_kernels_own_pages_are_known(tmp_path: Path, core: Core | bytes | None) -> None:
    memory = source(tmp_path, seen_by_shim(), core).read(symbols(*NAMES))
    assert memory.mappings == INIT
    facts = memory.facts
    assert facts.page_offset == DIRECT_MAP
    assert facts.int3_pages == Known((PageRange.covering(INT3, 4096),))
    assert facts.thunk_pages == Known((PageRange.covering(THUNK, 4096),))
    assert isinstance(facts.efi_tables, Unknown)
    assert facts.efi_tables.reason


def test_the_trampoline_needs_no_walk(tmp_path: Path) -> None:
    core = replace(guest(), note_name=b"OTHER")  # without VMCOREINFO no page table is found
    facts = source(tmp_path, seen_by_shim(), core).read(symbols("real_mode_header", "hv_hypercall_pg")).facts
    assert (facts.trampoline, facts.hypercall_page) == (Known(PageRange(0x99, 0x9B)), Known(0xFFFFC90000001000))
    assert facts.efi_tables == Absent()  # the kernel has no efi_mm


def test_lockdown_forbids_kcore_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    made = source(tmp_path, seen_by_shim(), guest())
    assert set(made.read(symbols(*NAMES)).mappings) == {*INIT, *EFI}
    monkeypatch.setattr(kcore_module, "FileIO", refuse)
    locked = made.read(symbols(*NAMES))
    assert locked.mappings == INIT
    for fact in (locked.facts.trampoline, locked.facts.hypercall_page, locked.facts.efi_tables):
        assert isinstance(fact, Unknown)
        assert "may not be read" in fact.reason
        assert "lockdown" in fact.remedy


@pytest.mark.parametrize(
    ("second", "joined"),
    [
        ((MODULE + 0x2000, 0x132000, 0x1000, INT3_FLAG | THUNKS_FLAG), True),
        ((MODULE + 0x2000, 0x132000, 0x1000, THUNKS_FLAG), True),
        ((MODULE + 0x2000, 0x132000, 0x1000, WRITABLE), False),
        ((MODULE + 0x2000, 0x132000, 0x1000, USER), False),
        ((MODULE + 0x2000, 0x133000, 0x1000, 0), False),
        ((MODULE + 0x3000, 0x132000, 0x1000, 0), False),
    ],
    ids=range(6),
)
def test_extents_are_split_by_content_only_for_the_facts(
    tmp_path: Path, second: tuple[int, int, int, int], joined: bool
) -> None:
    first = (MODULE, 0x130000, 0x2000, 0)
    after = (second[0] + 0x1000, second[1] + 0x1000, 0x1000, second[3] & (WRITABLE | USER))
    memory = source(tmp_path, FakeShim(table=[first, second, after])).read(symbols())
    rest = Mapping(second[0], second[1], 0x2000, bool(second[3] & WRITABLE), bool(second[3] & USER))
    whole = (Mapping(MODULE, 0x130000, 0x4000),)
    assert memory.mappings == (whole if joined else (Mapping(MODULE, 0x130000, 0x2000), rest))
    page = (PageRange.covering(second[1], second[2]),)
    assert memory.facts.int3_pages == Known(page if second[3] & INT3_FLAG else ())
    assert memory.facts.thunk_pages == Known(page if second[3] == THUNKS_FLAG else ())


def test_pages_that_hold_anything_else_are_no_facts(tmp_path: Path) -> None:
    facts = source(tmp_path, seen_by_shim()).read(symbols()).facts
    runs = (*known(facts.int3_pages, ()), *known(facts.thunk_pages, ()))
    frames = {frame for run in runs for frame in range(run.start, run.end)}
    assert frames == {INT3 >> 12, THUNK >> 12}
    assert EMPTY >> 12 not in frames


def test_too_many_mappings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shimsource, "LEAF_LIMIT", len(INIT))
    assert source(tmp_path, seen_by_shim()).read(symbols()).mappings == INIT
    monkeypatch.setattr(shimsource, "LEAF_LIMIT", len(INIT) - 1)
    with pytest.raises(UserError, match="more than 4 executable mappings") as caught:
        source(tmp_path, seen_by_shim()).read(symbols())
    assert "noexec" in caught.value.hint


def test_the_device_is_closed_whatever_happens(tmp_path: Path) -> None:
    opened: list[int] = []

    def open_device(_path: Path) -> ShimDevice:
        opened.append(os.open(os.devnull, os.O_RDWR))
        return ShimDevice(opened[-1], fake.ioctl)

    for fake in (seen_by_shim(), replace(seen_by_shim(), abi=2)):
        made = ShimSource(tmp_path, tmp_path, open_device)
        if fake.abi == 3:
            assert made.read(symbols()).mappings == INIT
        else:
            with pytest.raises(UserError, match="version 2"):
                made.read(symbols())
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(opened[-1])


def test_a_missing_device_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no host interface") as caught:
        ShimSource(tmp_path / "none").read(symbols())
    assert "modprobe" in caught.value.hint
