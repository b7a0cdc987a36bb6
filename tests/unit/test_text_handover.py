# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of patch sites that a host gets, of the kernel of tests/textmaker.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mbecguard.guest.procfs import Kallsyms
from mbecguard.host.text import OFFSETS, SiteForm, TextObject, TextSite
from mbecguard.text.frozen import BY_ID, FrozenKeys, keys_of
from mbecguard.text.look import Placed
from mbecguard.text.objects import ENDBR_BYTES, Part, kernel_data, kernel_text, modules_text, target_page
from mbecguard.text.reference import NOWHERE, Reference
from mbecguard.values.errors import UserError
from mbecguard.values.pages import PageRange
from tests import textmaker as made
from tests.elfmaker import TEXT_VA
from tests.unit.test_text_sites import MOVED, module
from tests.unit.test_text_sites import kernel as reference_of

BASE = TEXT_VA + MOVED
PFN = 0x1200
#: Where the toy's tables say that the keys of its branches and of its calls are, from the text on.
RODATA = made.RODATA - TEXT_VA
BRANCH_KEY, SHORT_KEY = RODATA + 8 + 0x5000, RODATA + 24 + 0x5000
CALL_KEY, TAIL_KEY = RODATA + 36 + 0x6000, RODATA + 44 + 0x6000


def symbols(**more: int) -> Kallsyms:
    """/proc/kallsyms of the moved kernel; `more` are data, by how far they are from the text."""
    lines = [f"{va + MOVED:016x} T {name}\n" for name, va in made.SYMBOLS.items()]
    lines += [f"{BASE + offset:016x} D {name}\n" for name, offset in more.items()]
    return Kallsyms("".join(lines).encode())


def kernel(reference: Reference | None = None, base: int = BASE) -> Placed:
    found = reference or reference_of()
    return Placed(found, tuple(base + piece.va - found.pieces[0].va for piece in found.pieces))


def text(*frozen: str, **more: int) -> TextObject:
    return kernel_text(kernel(), symbols(**more), PFN, frozen=frozen)


def site(found: TextObject, place: int) -> TextSite:
    (one,) = (s for s in found.sites if s.offset == place)
    return one


def test_the_sites_are_those_that_are_patched_after_a_boot() -> None:
    found = text()
    assert [tuple(s) for s in found.sites] == [
        (made.BRANCH, made.LABEL, SiteForm.JUMP, 5, False),
        (made.SHORT, made.LABEL, SiteForm.JUMP, 2, False),
        (made.CALL, 0, SiteForm.CALL, 5, False),
        (made.ENTRY, 0, SiteForm.MCOUNT, 5, False),
        (made.TAIL, 0, SiteForm.TAIL_CALL, 5, False),
        (made.TRAMPOLINE, 0, SiteForm.TAIL_CALL, 5, False),
    ]
    assert found.pages == PageRange(PFN, PFN + 1)
    assert found.tracers == (made.TRACER, made.TRACER)  # ftrace_regs_caller: this kernel has none
    assert not found.logs


def test_targets_are_functions_inside_of_the_text() -> None:
    found = text(data=0x10)
    outside = kernel_text(kernel(), Kallsyms(symbols()._data + b"%016x t init\n" % (BASE + made.SIZE)), PFN)
    starts = [0, made.TRAMPOLINE, made.FENTRY, made.THUNK, made.THUNK + 32, made.RETHUNK, made.FUNCTION, made.TRACER]
    assert list(found.targets) == list(outside.targets) == starts


def test_what_calls_xdp_programs_is_a_target_in_both_halves() -> None:
    """kernel/bpf/dispatcher.c: a static call leads to one or the other, and no symbol names the second."""
    place = OFFSETS // 4
    lines = [b"%016x t bpf_dispatcher_xdp\t[bpf]\n", b"%016x t bpf_prog_0123_bpf_dispatcher_xdp\t[bpf]\n"]
    more = b"".join(line % (BASE + place + 0x2000 * n) for n, line in enumerate(lines))
    found = kernel_text(kernel(), Kallsyms(symbols()._data + more), PFN)
    assert set(found.targets) - set(text().targets) == {place, place + 2048}


@pytest.mark.parametrize("moved", [0, 1 << 21])
def test_nothing_depends_on_where_the_kernel_lies(moved: int) -> None:
    lines = b"".join(b"%016x T %s\n" % (va + moved, name.encode()) for name, va in made.SYMBOLS.items())
    assert kernel_text(kernel(base=TEXT_VA + moved), Kallsyms(lines), PFN) == text()


@pytest.mark.parametrize(
    ("name", "key", "place"),
    [
        ("security_hook_active_file_open_0", BRANCH_KEY, made.BRANCH),
        ("security_hook_active_file_open_1", SHORT_KEY, made.SHORT),
        ("__SCK__lsm_static_call_file_open_0", CALL_KEY, made.CALL),
        ("__SCK__lsm_static_call_file_open_1", TAIL_KEY, made.TAIL),
        ("__SCT__lsm_static_call_file_open_1", made.TRAMPOLINE, made.TRAMPOLINE),
    ],
)
def test_sites_of_frozen_keys(name: str, key: int, place: int) -> None:
    assert [s.offset for s in text("lsm", **{name: key}).sites if s.frozen] == [place]
    assert not any(s.frozen for s in text("mitigations", **{name: key}).sites)
    assert not any(s.frozen for s in text("lsm", **{name: key + 64}).sites)
    assert not any(s.frozen for s in text("lsm", other=key).sites)


def test_mitigations() -> None:
    found = text("mitigations", mds_user_clear=SHORT_KEY, mds_idle_clear=BRANCH_KEY)
    assert [s.offset for s in found.sites if s.frozen] == [made.SHORT]


def test_groups_of_keys() -> None:
    assert keys_of(()) == ()
    assert keys_of(("lsm", "mitigations")) == (*BY_ID["lsm"].keys, *BY_ID["mitigations"].keys)
    with pytest.raises(UserError, match="'all'"):
        keys_of(("all",))
    assert all(isinstance(one, FrozenKeys) and one.reason and one.source for one in BY_ID.values())


@pytest.mark.parametrize("endbr", [0, 4])
def test_a_hook_of_bpf(endbr: int) -> None:
    """What systemd hangs its program on: the entry, or what comes behind its ENDBR."""
    lines = symbols()._data + b"%016x T bpf_lsm_file_open\n" % (BASE + made.ENTRY - endbr)
    found = kernel_text(kernel(), Kallsyms(lines), PFN, hooks=(BASE - 0x1000, BASE + 0x40000000))
    assert site(found, made.ENTRY).form is SiteForm.HOOK
    assert found.hooks == (OFFSETS - 0x1000, 0x40000000)
    other = symbols()._data + b"%016x T bpf_lsm_file_open\n" % (BASE + made.ENTRY - 8)
    assert site(kernel_text(kernel(), Kallsyms(other), PFN), made.ENTRY).form is SiteForm.MCOUNT


def test_a_branch_to_nowhere_is_no_site() -> None:
    reference = reference_of()
    jumps = next(found for found in reference.sites if found.kind == "jump label")
    jumps.argument[1] = NOWHERE
    assert made.SHORT not in [s.offset for s in kernel_text(kernel(reference), symbols(), PFN).sites]


def test_two_kinds_at_one_place_are_a_contradiction() -> None:
    reference = reference_of()
    jumps = next(found for found in reference.sites if found.kind == "jump label")
    jumps.where[1] = made.BRANCH + 1
    with pytest.raises(UserError, match="two patch sites"):
        kernel_text(kernel(reference), symbols(), PFN)


def test_a_site_that_is_listed_twice_is_one() -> None:
    reference = reference_of()
    twice = replace(reference, sites=(*reference.sites, *reference.sites))
    assert kernel_text(kernel(twice), symbols(), PFN) == text()


def test_the_page_to_write_to() -> None:
    assert target_page(7, logs=True) == TextObject(PageRange(7, 8), logs=True)
    assert ENDBR_BYTES == 4


#: Where the toy's module is: its text begins sixteen bytes before the end of a page, and goes on in a frame elsewhere.
MODULE_VA = 0xFFFFFFFFC0200000
PARTS = (Part(MODULE_VA, PageRange(0x90, 0x91)), Part(MODULE_VA + 0x1000, PageRange(0x40, 0x41)))


def loaded(va: int = MODULE_VA + 0xFF0) -> Placed:
    reference = module()
    return Placed(reference, tuple(va + piece.start for piece in reference.pieces))


def with_module(*names: tuple[str, int]) -> Kallsyms:
    lines = (b"%016x t %s\t[toy]\n" % (MODULE_VA + offset, name.encode()) for name, offset in names)
    return Kallsyms(symbols()._data + b"".join(lines))


def test_modules_are_one_object() -> None:
    found = modules_text([loaded()], [PARTS[1], PARTS[0]], kernel(), with_module(("entry", 0xFF0), ("exit", 0x1050)))
    assert [tuple(run) for run in found.runs] == [(PageRange(0x90, 0x91), 0), (PageRange(0x40, 0x41), 0x1000)]
    assert [tuple(s) for s in found.sites] == [
        (0xFF0 + made.MODULE_ENTRY, 0, SiteForm.MCOUNT, 5, False),
        (0xFF0 + made.MODULE_BRANCH, 0xFF0 + 0x60, SiteForm.JUMP, 5, False),
    ]
    text_at = (BASE - MODULE_VA) % OFFSETS
    assert found.tracers == (((text_at + made.TRACER) % OFFSETS,) * 2)
    assert {0xFF0, 0x1050, (text_at + made.FUNCTION) % OFFSETS} <= set(found.targets)
    assert not found.data


def test_functions_of_modules_may_be_called_by_the_kernel() -> None:
    """What hangs on a tracepoint may be a module's: register_trace_*(), as drop_monitor does."""
    known = with_module(("probe", 0xFF8), ("elsewhere", 0x2000))
    found = kernel_text(kernel(), known, PFN, modules=PARTS)
    assert set(found.targets) - set(text().targets) == {(MODULE_VA + 0xFF8 - BASE) % OFFSETS}
    assert kernel_text(kernel(), known, PFN) == text()


def test_a_module_outside_of_its_parts_is_a_contradiction() -> None:
    with pytest.raises(ValueError, match="outside"):
        modules_text([loaded()], [PARTS[0], Part(MODULE_VA + 0x2000, PageRange(0x40, 0x41))], kernel(), symbols())


def test_read_only_data() -> None:
    named = symbols(__start_rodata=0x2000, __end_rodata=0x5000)
    assert kernel_data(named, PFN) == TextObject(PageRange(PFN + 2, PFN + 5), data=True)
    inwards = symbols(__start_rodata=0x2001, __end_rodata=0x4FFF)
    assert kernel_data(inwards, PFN) == TextObject(PageRange(PFN + 3, PFN + 4), data=True)
    assert kernel_data(symbols(), PFN) is kernel_data(symbols(__start_rodata=0x2000), PFN) is None
    assert kernel_data(symbols(__start_rodata=0x2000, __end_rodata=0x2000), PFN) is None
