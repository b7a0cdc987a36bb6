# SPDX-License-Identifier: GPL-2.0-or-later
"""sysctl.d: which file counts, and what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbecguard.guest.sysctlfiles import Assignment, assignments, files
from mbecguard.guest.tree import Tree

JIT, FTRACE = "net.core.bpf_jit_enable", "kernel.ftrace_enabled"


def put(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("net.core.bpf_jit_enable=1", "1"),
        ("  net.core.bpf_jit_enable  =  1  ", "1"),
        ("-net.core.bpf_jit_enable = 1", "1"),
        ("- net/core/bpf_jit_enable = 1", "1"),
        ("net.core.bpf_jit_* = 1", "1"),
        ("net/core/bpf_jit_enable = 1", "1"),
        ("net.core/bpf_jit_enable = 1", None),  # a dot came first: the slash is part of a name
        ("# net.core.bpf_jit_enable = 1", None),
        ("; net.core.bpf_jit_enable = 1", None),
        ("net.core.bpf_jit_enable", None),
        ("net.core.bpf_jit_harden = 1", None),
    ],
)
def test_a_line_of_a_file(tmp_path: Path, line: str, value: str | None) -> None:
    put(tmp_path, "etc/sysctl.d/a.conf", f"kernel.sysrq = 0\n{line}\n")
    expected = {JIT: Assignment(value, "etc/sysctl.d/a.conf", 2)} if value else {}
    assert assignments(Tree(tmp_path), (JIT, FTRACE)) == expected


def test_the_later_name_wins_and_sysctl_conf_is_last(tmp_path: Path) -> None:
    put(tmp_path, "usr/lib/sysctl.d/50-b.conf", f"{JIT} = 1\n{FTRACE} = 1\n")
    put(tmp_path, "etc/sysctl.d/10-a.conf", f"{JIT} = 2\n")
    assert assignments(Tree(tmp_path), (JIT,)) == {JIT: Assignment("1", "usr/lib/sysctl.d/50-b.conf")}
    put(tmp_path, "etc/sysctl.conf", f"{JIT} = 0\n")
    found = assignments(Tree(tmp_path), (JIT, FTRACE))
    assert found == {JIT: Assignment("0", "etc/sysctl.conf"), FTRACE: Assignment("1", "usr/lib/sysctl.d/50-b.conf", 2)}


def test_of_one_name_the_first_folder_counts(tmp_path: Path) -> None:
    put(tmp_path, "usr/lib/sysctl.d/50-b.conf", f"{JIT} = 1\n")
    put(tmp_path, "usr/lib/sysctl.d/README", f"{JIT} = 1\n")
    put(tmp_path, "run/sysctl.d/50-b.conf", f"{JIT} = 2\n")
    assert files(Tree(tmp_path)) == ("run/sysctl.d/50-b.conf", "etc/sysctl.conf")
    (tmp_path / "etc/sysctl.d").mkdir(parents=True)
    (tmp_path / "etc/sysctl.d/50-b.conf").symlink_to("/dev/null")  # how systemd says: not that one
    assert assignments(Tree(tmp_path), (JIT,)) == {}


def test_a_name_outdoes_a_pattern_and_may_be_left_out_of_it(tmp_path: Path) -> None:
    """sysctl.d(5), CONFIGURATION FORMAT."""
    put(tmp_path, "etc/sysctl.d/10-a.conf", f"{JIT} = 2\n")
    put(tmp_path, "etc/sysctl.d/20-b.conf", "net.core.bpf_jit_* = 1\nkernel.ftrace* = 1\n")
    put(tmp_path, "etc/sysctl.d/30-c.conf", f"-{FTRACE}\n")
    found = assignments(Tree(tmp_path), (JIT, FTRACE))
    assert found == {JIT: Assignment("2", "etc/sysctl.d/10-a.conf")}
    assert found[JIT].place == "/etc/sysctl.d/10-a.conf:1"
