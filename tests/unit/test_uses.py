# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest uses, read from its files and symbols; and what cannot be known."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbecguard.guest.procfs import Kallsyms
from mbecguard.guest.tree import Tree
from mbecguard.guest.uses import KPROBES, LIVEPATCHES, TRACED, Uses, uses
from mbecguard.values.facts import Known, Unknown

TEXT = "ffffffff81000000 T _text\nffffffff82000000 T _etext\n"
INTERPRETER = "ffffffff81200000 t ___bpf_prog_run\n"
HOOKS = "".join(f"ffffffffc0{n}00000 t bpf_trampoline_64425066{n}\t[bpf]\n" for n in range(3))
PROGRAM = "ffffffffc0900000 t bpf_prog_e8932b6bae2b9745_restrict_filesystems\t[bpf]\n"
PROBE = "ffffffff81000010  k  do_one+0x0\n"


def symbols(*parts: str) -> Kallsyms:
    return Kallsyms("".join((TEXT, *parts)).encode())


def put(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.fixture
def live(tmp_path: Path) -> Path:
    """A running guest with debugfs and tracefs, in which nothing is used."""
    put(tmp_path, KPROBES, "")
    put(tmp_path, TRACED, "")
    put(tmp_path, "proc/sys/net/core/bpf_jit_harden", "0\n")
    put(tmp_path, "proc/sys/net/core/bpf_jit_kallsyms", "1\n")
    return tmp_path


def reason(fact: object) -> str:
    assert isinstance(fact, Unknown)
    assert fact.remedy
    return fact.reason


def test_an_idle_guest_uses_nothing(live: Path) -> None:
    assert uses(Tree(live), symbols(INTERPRETER)) == Uses()
    assert uses(Tree(live), symbols(INTERPRETER, PROGRAM)) == Uses()


def test_hooks_are_counted_by_their_trampolines(live: Path) -> None:
    assert uses(Tree(live), symbols(INTERPRETER, HOOKS, PROGRAM)).bpf_trampolines == Known(3)


@pytest.mark.parametrize(
    ("line", "there"),
    [
        (INTERPRETER, True),
        ("ffffffff81200000 t ___bpf_prog_run.llvm.4242\n", True),
        ("ffffffff81200000 t ___bpf_prog_run.isra.0\n", True),
        ("ffffffff81200000 t __bpf_prog_run352\n", True),
        ("ffffffff81200000 t __bpf_prog_run_args32\n", False),
        ("ffffffff81200000 t my___bpf_prog_run\n", False),
        ("ffffffffc0200000 t ___bpf_prog_run\t[rogue]\n", False),
        (HOOKS, False),
    ],
)
def test_a_kernel_without_the_interpreter_is_seen(live: Path, line: str, there: bool) -> None:
    assert uses(Tree(live), symbols(line)).bpf_interpreter == there


def test_kprobes_and_livepatches_are_read_from_their_folders(live: Path) -> None:
    put(live, KPROBES, f"{PROBE}ffffffff81000020  k  two+0x3 [OPTIMIZED]\nffffffff81000030  k  three+0x0    [FTRACE]\n")
    (live / LIVEPATCHES / "fix").mkdir(parents=True)
    found = uses(Tree(live), symbols(INTERPRETER))
    assert (found.kprobes, found.ftrace_kprobes, found.livepatches) == (Known(3), Known(1), Known(("fix",)))


def test_everybody_who_hooks_functions_is_in_one_list(live: Path) -> None:
    put(live, TRACED, "do_sys_openat2 (2) R   \ttramp: ftrace_regs_caller+0x0/0x65\nvfs_read (1)\n")
    assert uses(Tree(live), symbols(INTERPRETER)).traced == Known(2)
    more = "bpf_lsm_file_open (1) R   D   M \ttramp: ftrace_regs_caller+0x0/0x65\n\tdirect-->bpf_trampoline_6442\n"
    put(live, TRACED, f"{more}vfs_read (1)\n")
    assert uses(Tree(live), symbols(INTERPRETER)).traced == Known(2)


def test_a_list_that_may_not_be_read_is_unknown(tmp_path: Path, live: Path) -> None:
    (live / KPROBES).unlink()
    (live / f"{KPROBES}.xz").write_bytes(b"damaged")
    found = uses(Tree(live), symbols(INTERPRETER))
    assert "kprobes/list" in reason(found.kprobes)
    assert found.ftrace_kprobes == found.kprobes


def test_a_kernel_without_kprobes_has_none_but_where_nothing_is_mounted_nobody_knows(live: Path) -> None:
    (live / KPROBES).unlink()
    assert uses(Tree(live), symbols(INTERPRETER)).kprobes == Known(0)
    (live / KPROBES).parent.rmdir()
    assert "nothing is mounted at /sys/kernel/debug" in reason(uses(Tree(live), symbols(INTERPRETER)).kprobes)
    captured = Tree(live, captured=True, unread={})
    assert uses(captured, symbols(INTERPRETER)).kprobes == Known(0)
    assert "capture" in reason(uses(captured._replace(unread=None), symbols(INTERPRETER)).kprobes)


@pytest.mark.parametrize(
    ("harden", "kallsyms", "word"),
    [
        ("0", "1", ""),
        ("1", "1", "bpf_jit_harden = 1"),
        ("2", "1", "bpf_jit_harden = 2"),
        ("0", "0", "bpf_jit_kallsyms = 0"),
        (None, None, ""),  # a kernel without the JIT
    ],
)
def test_hidden_symbols_are_not_taken_for_none(live: Path, harden: str | None, kallsyms: str | None, word: str) -> None:
    for name, value in (("harden", harden), ("kallsyms", kallsyms)):
        file = live / f"proc/sys/net/core/bpf_jit_{name}"
        file.unlink()
        if value is not None:
            file.write_text(f"{value}\n")
    found = uses(Tree(live), symbols(INTERPRETER)).bpf_trampolines
    assert word in reason(found) if word else found == Known(0)
    assert uses(Tree(live), symbols(INTERPRETER, HOOKS)).bpf_trampolines == Known(3), "they are shown after all"
