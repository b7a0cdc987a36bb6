# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that are known to set what a lock freezes: a table, and which of them a guest has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from mbecguard.guest.tree import Tree
from mbecguard.values.facts import known


@dataclass(frozen=True, slots=True)
class Setter:
    """A program that writes a sysctl, whatever it was. `signs`: (folder, pattern) of what it leaves on the disk."""

    name: str
    sysctl: str
    value: str
    when: str
    source: str
    signs: tuple[tuple[str, str], ...]


SETTERS: tuple[Setter, ...] = (
    Setter(
        "Cilium",
        "net.core.bpf_jit_enable",
        "1",
        "whenever its agent starts",
        "cilium/cilium pkg/datapath/loader/base.go Reinitialize(), and bpf/init.sh before that",
        (("etc/cni/net.d", "*cilium*"), ("opt/cni/bin", "cilium-cni"), ("etc/systemd/system", "cilium*.service")),
    ),
    Setter(
        "trace-cmd",
        "kernel.ftrace_enabled",
        "1",
        "whenever somebody records with it",
        "trace-cmd tracecmd_ftrace_enable(), which writes /proc/sys/kernel/ftrace_enabled",
        (("usr/bin", "trace-cmd"),),
    ),
)


def signs(tree: Tree) -> Iterator[tuple[Setter, str]]:
    """Each setter with each path by which it is known to be here."""
    for setter in SETTERS:
        for folder, pattern in setter.signs:
            for name in known(tree.fact_of_names(folder), ()):
                if fnmatchcase(name, pattern):
                    yield setter, f"{folder}/{name}"


def setters(tree: Tree) -> tuple[Setter, ...]:
    """Those that this guest has."""
    return tuple(dict.fromkeys(setter for setter, _ in signs(tree)))
