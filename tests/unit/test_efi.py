# SPDX-License-Identifier: GPL-2.0-or-later
"""The firmware's memory map."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbecguard.guest.efi import FIRMWARE, NO_EFI, RUNTIME_MAP, Efi, firmware
from mbecguard.guest.execmap import Mapping
from mbecguard.guest.tree import Tree
from mbecguard.values.facts import Absent, Known, Unknown
from mbecguard.values.pages import PageRange


def entry(root: Path, name: str, kind: str, start: str, pages: str) -> None:
    folder = root / RUNTIME_MAP / name
    folder.mkdir(parents=True)
    for field, text in (("type", kind), ("phys_addr", start), ("num_pages", pages)):
        (folder / field).write_text(text + "\n")


def test_code_is_told_from_data_both_sorted(tmp_path: Path) -> None:
    entry(tmp_path, "0", "0x6", "0x1000", "0x1")
    assert firmware(Tree(tmp_path), ()) == Efi(Known(()), (PageRange(1, 2),))
    entry(tmp_path, "1", "0x5", "0x7f9ed000", "0x100")
    entry(tmp_path, "10", "5", "0x2000", "1")
    entry(tmp_path, "2", "0x5", "0x0", "0x10000000000")  # the whole space
    entry(tmp_path, "3", "11", "0x0", "1")
    code = (PageRange(0, 1 << 40), PageRange(2, 3), PageRange(0x7F9ED, 0x7FAED))
    assert firmware(Tree(tmp_path), ()) == Efi(Known(code), (PageRange(0, 1), PageRange(1, 2)))


def test_without_a_map_it_matters_whether_efi_has_started_the_guest(tmp_path: Path) -> None:
    assert firmware(Tree(tmp_path), ()) == NO_EFI == Efi(Absent())
    window = Mapping(0xFFFFFFFEFF6C6000, 0x7FAC6000, 4096)
    assert isinstance(firmware(Tree(tmp_path), (window,)).code, Unknown)
    assert firmware(Tree(tmp_path), (Mapping(0xFFFFFFFF81000000, 0x1000000, 4096),)) == NO_EFI
    (tmp_path / FIRMWARE / "vars").mkdir(parents=True)
    found = firmware(Tree(tmp_path), ()).code
    assert isinstance(found, Unknown)
    assert "runtime-map" in found.reason
    assert found.remedy


@pytest.mark.parametrize(
    ("start", "pages"),
    [("0x1001", "1"), ("0x1000", "0"), ("0x1000", "0x10000000000"), ("0xfffffffffffff000", "1")],
)
def test_no_region(tmp_path: Path, start: str, pages: str) -> None:
    entry(tmp_path, "0", "0x5", start, pages)
    found = firmware(Tree(tmp_path), ()).code
    assert isinstance(found, Unknown)
    assert "is not a memory region" in found.reason


@pytest.mark.parametrize("field", ["type", "phys_addr", "num_pages"])
def test_missing_and_garbage_fields(tmp_path: Path, field: str) -> None:
    entry(tmp_path, "0", "0x5", "0x1000", "1")
    file = tmp_path / RUNTIME_MAP / "0" / field
    for text in ("", "-4096", "x"):
        file.write_text(text)
        found = firmware(Tree(tmp_path), ()).code
        assert isinstance(found, Unknown)
        assert "does not hold a number" in found.reason
    file.unlink()
    found = firmware(Tree(tmp_path), ()).code
    assert isinstance(found, Unknown)
    assert f"{field} is missing" in found.reason
    assert found.remedy
