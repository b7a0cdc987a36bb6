# SPDX-License-Identifier: GPL-2.0-or-later
"""Code by which the kernel calls XDP programs: kernel/bpf/dispatcher.c makes a page of it for the first one, for good.

A program that comes or goes has it written anew, in the other half, and what calls it patched: a static call.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mbecguard.guest.procfs import Symbol
from mbecguard.values.pages import PAGE_SIZE

_NAME = "bpf_dispatcher_"  # those of programs begin with bpf_prog_


def entries(bpf: Iterable[Symbol]) -> tuple[int, ...]:
    """Where dispatchers are called, by the symbols that carry the tag `bpf`."""
    return tuple(va + half for va in _places(bpf) for half in (0, PAGE_SIZE // 2))


def ends(bpf: Iterable[Symbol]) -> tuple[int, ...]:
    """The first and the last byte of each; it begins anywhere in a page."""
    return tuple(va + byte for va in _places(bpf) for byte in (0, PAGE_SIZE - 1))


def _places(bpf: Iterable[Symbol]) -> Iterator[int]:
    return (symbol.va for symbol in bpf if symbol.name.startswith(_NAME))
