# SPDX-License-Identifier: GPL-2.0-or-later
"""What of a running guest is handed over to the host: its tables are only worth what the text was at that moment."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mbecguard.guest.procfs import Kallsyms
from mbecguard.guest.source import Guest
from mbecguard.host.text import HandOver, TextObject
from mbecguard.text.look import KERNEL, look_with_files, spot_told
from mbecguard.text.objects import Part, kernel_data, kernel_text, modules_text, target_page
from mbecguard.values.errors import die
from mbecguard.values.note import Note

DATA = "read-only data"


@dataclass(frozen=True, slots=True)
class Places:
    """Where what is handed over lies, by a plan: page frames, virtual addresses of hooks, parts of modules by name."""

    target_pfn: int
    text_pfn: int
    hooks: tuple[int, int]
    modules: Mapping[str, Sequence[Part]]


def handed_over(
    guest: Guest, cache: Path | None, note: Note, places: Places, *, frozen: Collection[str], logs: bool
) -> HandOver:
    """The page to write to, the kernel's text and read-only data, and its modules' text.

    Dies if the kernel's text cannot be compared, or is not as its file says; of modules, those are left out: some patch
    themselves.
    """
    symbols = Kallsyms(guest.tree.data("proc/kallsyms") or b"")
    found, placed = look_with_files(guest, symbols, cache, note)
    kernel = placed.pop(KERNEL, None)
    if kernel is None:
        die(f"kernel text is not as its file says: {spot_told(found.spots[0])}", "`mbecguard audit` has all of it")
    known = {name: parts for name, parts in places.modules.items() if name in placed}
    # The page to write to is the shim's text, and has been handed over before
    parts = [rest for name in known for part in known[name] for rest in part.without(places.target_pfn)]
    data = kernel_data(symbols, places.text_pfn, logs=logs)
    text = kernel_text(kernel, symbols, places.text_pfn, modules=parts, frozen=frozen, hooks=places.hooks, logs=logs)
    first = (target_page(places.target_pfn, logs=logs), text, *([data] if data else ()))
    late = [modules_text([placed[name] for name in known], parts, kernel, symbols, logs=logs)] if parts else []
    return HandOver(first, tuple(late), tuple(_left(places, known, data)))


def _left(places: Places, known: Collection[str], data: TextObject | None) -> list[str]:
    """What is not handed over."""
    return [*([] if data else [DATA]), *sorted(set(places.modules) - set(known))]
