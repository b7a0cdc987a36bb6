# SPDX-License-Identifier: GPL-2.0-or-later
"""What of a running guest is handed over, and what is left: the guest of test_text_look.py, in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mbecguard.guest.source import Guest
from mbecguard.guest.tree import Tree
from mbecguard.host.text import HandOver, SiteForm
from mbecguard.text.handover import DATA, Places, handed_over
from mbecguard.text.objects import Part
from mbecguard.values.errors import UserError
from mbecguard.values.note import unnoted
from mbecguard.values.pages import PageRange
from tests import textmaker as made
from tests.unit.test_text_look import BASE, MODULE, RELEASE, Memory, Source, live, module_text, root

__all__ = ["root"]
TARGET, PFN = 7, 0x1200
PLACES = Places(TARGET, PFN, (0, 0), {"toy_net": (Part(MODULE & ~0xFFF, PageRange(0x90, 0x91)),)})


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A difference is looked at again, but not later."""
    monkeypatch.setattr("mbecguard.text.look.PAUSE", 0)


def given(root: Path, kernel: bytes, module: bytes, *, logs: bool = False, places: Places = PLACES) -> HandOver:
    memory = Memory({BASE: kernel, MODULE: module})
    guest = Guest(Tree(root), Source(memory), (root / "boot/vmlinuz",), (root / "lib/modules" / RELEASE,), live=True)
    return handed_over(guest, None, unnoted, places, frozen=(), logs=logs)


def with_data(root: Path) -> None:
    symbols = root / "proc/kallsyms"
    lines = (f"{BASE + offset:016x} R {name}\n" for name, offset in (("__start_rodata", 4096), ("__end_rodata", 12288)))
    symbols.write_text("".join(lines) + symbols.read_text())


def test_kernel_data_and_modules(root: Path) -> None:
    with_data(root)
    found = given(root, live(), module_text())
    target, text, data = found.first
    assert (target.pages, text.pages, data.pages) == (
        PageRange(TARGET, TARGET + 1),
        PageRange(PFN, PFN + 1),
        PageRange(PFN + 1, PFN + 3),
    )
    assert [one.data for one in found.first] == [False, False, True]
    (modules,) = found.modules
    assert [site.form for site in modules.sites] == [SiteForm.MCOUNT, SiteForm.JUMP]
    assert modules.pages == PageRange(0x90, 0x91)
    assert len(text.targets) == 9  # the module's `local` is one of them
    assert found.left == ()
    assert not any(one.logs for one in (*found.first, *found.modules))


@pytest.mark.parametrize(
    ("frames", "left"),
    [
        ((5, 9), [(PageRange(5, 7), 0), (PageRange(8, 9), 0x3000)]),
        ((7, 9), [(PageRange(8, 9), 0)]),
        ((5, 8), [(PageRange(5, 7), 0)]),
        ((8, 9), [(PageRange(8, 9), 0)]),
    ],
)
def test_the_page_to_write_to_is_not_handed_over_twice(
    root: Path, frames: tuple[int, int], left: list[tuple[PageRange, int]]
) -> None:
    """It is a page of the shim's text."""
    shim = Part(MODULE - 0x10000, PageRange(*frames))
    places = replace(PLACES, modules={**PLACES.modules, "toy_net": (shim, *PLACES.modules["toy_net"])})
    (modules,) = given(root, live(), module_text(), places=places).modules
    assert [tuple(run) for run in modules.runs[:-1]] == left
    assert modules.runs[-1].pages == PageRange(0x90, 0x91)


def test_all_of_it_logs(root: Path) -> None:
    with_data(root)
    found = given(root, live(), module_text(), logs=True)
    assert all(one.logs for one in (*found.first, *found.modules))


def test_a_module_that_differs_is_left(root: Path) -> None:
    changed = bytearray(module_text())
    changed[0x72] ^= 0x80
    found = given(root, live(), bytes(changed))
    assert found.modules == ()
    assert found.left == (DATA, "toy_net")
    assert len(found.first[1].targets) == 8


def test_a_module_without_its_file_is_left(root: Path) -> None:
    with_data(root)
    (root / "lib/modules" / RELEASE / "kernel/toy_net.ko").unlink()
    found = given(root, live(), module_text())
    assert (found.modules, found.left) == ((), ("toy_net",))


def test_a_kernel_that_differs_is_not_handed_over(root: Path) -> None:
    with pytest.raises(UserError, match=r"kernel text is not as its file says: function\+0x3"):
        given(root, live((made.FUNCTION + 3, b"\xf4")), module_text())
