# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of patch sites that a host gets, of the kernel of tests/textmaker.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mbecguard.guest.procfs import Kallsyms
from mbecguard.host.text import OFFSETS, SiteForm, TextObject, TextSite
from mbecguard.text import handover
from mbecguard.text.frozen import BY_ID, FrozenKeys, keys_of
from mbecguard.text.handover import kernel_text, target_page
from mbecguard.text.reference import NOWHERE
from mbecguard.values.errors import UserError
from mbecguard.values.pages import PageRange
from tests import textmaker as made
from tests.elfmaker import TEXT_VA
from tests.unit.test_text_sites import MOVED, kernel

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
    assert found.tracers == (made.TRACER, 0)  # ftrace_regs_caller: this kernel has none
    assert not found.logs


def test_targets_are_functions_inside_of_the_text() -> None:
    found = text(data=0x10)
    outside = kernel_text(kernel(), Kallsyms(symbols()._data + b"%016x t init\n" % (BASE + made.SIZE)), PFN)
    starts = [0, made.TRAMPOLINE, made.FENTRY, made.THUNK, made.THUNK + 32, made.RETHUNK, made.FUNCTION, made.TRACER]
    assert list(found.targets) == list(outside.targets) == starts


@pytest.mark.parametrize("moved", [0, 1 << 21])
def test_nothing_depends_on_where_the_kernel_lies(moved: int) -> None:
    lines = b"".join(b"%016x T %s\n" % (va + moved, name.encode()) for name, va in made.SYMBOLS.items())
    assert kernel_text(kernel(), Kallsyms(lines), PFN) == text()


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
    reference = kernel()
    jumps = next(found for found in reference.sites if found.kind == "jump label")
    jumps.argument[1] = NOWHERE
    assert made.SHORT not in [s.offset for s in kernel_text(reference, symbols(), PFN).sites]


def test_two_kinds_at_one_place_are_a_contradiction() -> None:
    reference = kernel()
    jumps = next(found for found in reference.sites if found.kind == "jump label")
    jumps.where[1] = made.BRANCH + 1
    with pytest.raises(UserError, match="two patch sites"):
        kernel_text(reference, symbols(), PFN)


def test_a_site_that_is_listed_twice_is_one() -> None:
    reference = kernel()
    twice = replace(reference, sites=(*reference.sites, *reference.sites))
    assert kernel_text(twice, symbols(), PFN) == text()


def test_the_page_to_write_to() -> None:
    assert target_page(7, logs=True) == TextObject(PageRange(7, 8), logs=True)
    assert handover.ENDBR_BYTES == 4
