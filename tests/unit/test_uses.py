# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest uses, read from its files and symbols."""

from __future__ import annotations

from pathlib import Path

from mbecguard.guest.procfs import Kallsyms
from mbecguard.guest.tree import Tree
from mbecguard.guest.uses import KPROBES, LIVEPATCHES, Uses, uses

TEXT = "ffffffff81000000 T _text\n"
INTERPRETER = "ffffffff81200000 t ___bpf_prog_run\n"
HOOKS = "".join(f"ffffffffc0{n}00000 t bpf_trampoline_64425066{n}\t[bpf]\n" for n in range(3))
PROGRAM = "ffffffffc0900000 t bpf_prog_e8932b6bae2b9745_restrict_filesystems\t[bpf]\n"


def symbols(*parts: str) -> Kallsyms:
    return Kallsyms("".join((TEXT, *parts)).encode())


def test_an_idle_guest_uses_nothing(tmp_path: Path) -> None:
    assert uses(Tree(tmp_path), symbols(INTERPRETER)) == Uses()
    assert uses(Tree(tmp_path), symbols(INTERPRETER, PROGRAM)) == Uses()


def test_hooks_are_counted_by_their_trampolines(tmp_path: Path) -> None:
    assert uses(Tree(tmp_path), symbols(INTERPRETER, HOOKS, PROGRAM)).bpf_trampolines == 3


def test_a_kernel_without_the_interpreter_is_seen(tmp_path: Path) -> None:
    assert not uses(Tree(tmp_path), symbols(HOOKS)).bpf_interpreter


def test_kprobes_and_livepatches_are_read_from_their_folders(tmp_path: Path) -> None:
    (tmp_path / KPROBES).parent.mkdir(parents=True)
    (tmp_path / KPROBES).write_text("ffffffff81000010  k  do_one+0x0\nffffffff81000020  k  two+0x3 [OPTIMIZED]\n")
    (tmp_path / LIVEPATCHES / "fix").mkdir(parents=True)
    found = uses(Tree(tmp_path), symbols(INTERPRETER))
    assert (found.kprobes, found.livepatches) == (2, ("fix",))


def test_a_list_that_may_not_be_read_counts_as_empty(tmp_path: Path) -> None:
    (tmp_path / f"{KPROBES}.xz").parent.mkdir(parents=True)
    (tmp_path / f"{KPROBES}.xz").write_bytes(b"damaged")
    assert uses(Tree(tmp_path), symbols(INTERPRETER)).kprobes == 0
