# SPDX-License-Identifier: GPL-2.0-or-later
"""The firmware's memory map."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbecguard.errors import UserError
from mbecguard.guest.efi import RUNTIME_MAP, runtime_code
from mbecguard.guest.tree import Tree
from mbecguard.pages import PageRange


def entry(root: Path, name: str, kind: str, start: str, pages: str) -> None:
    folder = root / RUNTIME_MAP / name
    folder.mkdir(parents=True)
    for field, text in (("type", kind), ("phys_addr", start), ("num_pages", pages)):
        (folder / field).write_text(text + "\n")


def test_type_5_alone_sorted(tmp_path: Path) -> None:
    assert runtime_code(Tree(tmp_path)) == ()
    entry(tmp_path, "0", "0x6", "0x1000", "0x1")
    assert runtime_code(Tree(tmp_path)) == ()
    entry(tmp_path, "1", "0x5", "0x7f9ed000", "0x100")
    entry(tmp_path, "10", "5", "0x2000", "1")
    entry(tmp_path, "2", "0x5", "0x0", "0x10000000000")  # the whole space
    assert runtime_code(Tree(tmp_path)) == (PageRange(0, 1 << 40), PageRange(2, 3), PageRange(0x7F9ED, 0x7FAED))


@pytest.mark.parametrize(
    ("start", "pages"),
    [("0x1001", "1"), ("0x1000", "0"), ("0x1000", "0x10000000000"), ("0xfffffffffffff000", "1")],
)
def test_no_region(tmp_path: Path, start: str, pages: str) -> None:
    entry(tmp_path, "0", "0x5", start, pages)
    with pytest.raises(UserError, match="is not a memory region"):
        runtime_code(Tree(tmp_path))


@pytest.mark.parametrize("field", ["type", "phys_addr", "num_pages"])
def test_missing_and_garbage_fields(tmp_path: Path, field: str) -> None:
    entry(tmp_path, "0", "0x5", "0x1000", "1")
    file = tmp_path / RUNTIME_MAP / "0" / field
    for text in ("", "-4096", "x"):
        file.write_text(text)
        with pytest.raises(UserError, match="does not hold a number"):
            runtime_code(Tree(tmp_path))
    file.unlink()
    with pytest.raises(UserError, match=f"{field} is missing") as caught:
        runtime_code(Tree(tmp_path))
    assert caught.value.hint
