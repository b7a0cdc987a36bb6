# SPDX-License-Identifier: GPL-2.0-or-later
"""Why a page is kept or denied: from what an oops or a report shows to page frames, and what a plan says of them.

One notation: `pfn:0x1f800` is a page frame, `0x1f800000` an address in bytes, virtual from the kernel half on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mbecguard.guest.procfs import KERNEL_HALF, Kallsyms
from mbecguard.plan.rules import REASONS
from mbecguard.plan.value import KeepRange, Plan
from mbecguard.values.codec import Hex
from mbecguard.values.errors import die
from mbecguard.values.pages import PAGE_SHIFT

SCHEMA = "mbecguard.explain/2"

# What stands before an address in an oops: the register, the code segment, and the mark of a guess.
_BEFORE = re.compile(r"(?:RIP: )?(?:0010:)?(?:\? )?")
_FRAME = re.compile(r"pfn:(?:0x([0-9a-f]{1,16})|([0-9]{1,19}))|([0-9]{1,15})", re.IGNORECASE)
_ADDRESS = re.compile(r"0x([0-9a-f]{1,16})|([0-9a-f]{16})", re.IGNORECASE)
# `name+0x12/0x70 [module]`; newer kernels print the module's build-id behind its name.
_SYMBOL = re.compile(
    r"(\S+?)(?:\+(0x[0-9a-f]{1,16}|[0-9]{1,19})(?:/0x[0-9a-f]{1,16})?)?(?: \[(\S+?)(?: [0-9a-f]+)?\])?"
)


@dataclass(frozen=True, slots=True)
class Place:
    """One place that was asked for: a page frame, a physical or a virtual address in bytes; `name` if it was one."""

    pfn: int | None = None
    va: int | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """What a plan says of one page. `pfn` is None where nobody knows which frame lies at a virtual address."""

    pfn: Hex | None
    va: Hex | None
    symbol: str  #: nearest to the address, empty if no address of it is known
    kept: KeepRange | None  #: None: the kernel may not execute it
    reason: str  #: why pages of that kind are kept
    today: bool | None = None  #: whether a plan of today would keep it; None if that is what was asked

    @property
    def differs(self) -> bool:
        """Whether a plan of today would say otherwise than the seal."""
        return self.today is not None and self.today != (self.kept is not None)


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer to one question; several pages if several functions have the name."""

    what: str
    pages: tuple[Page, ...]
    sealed: str | None  #: since when the plan that answers is in force; None for one of today
    simulated: bool = False  #: a seal that protects nothing
    schema: str = SCHEMA


@dataclass(frozen=True, slots=True)
class Ground:
    """What is needed to find the page frame of an address, and the name of a place."""

    symbols: Kallsyms
    plans: tuple[Plan, ...]  #: the one that answers first
    page_offset: int | None = None  #: of the direct map
    sealed: str | None = None  #: since when, if the first plan is that of a seal
    simulated: bool = False  #: the seal

    @property
    def plan(self) -> Plan:
        """The plan that answers."""
        return self.plans[0]


def explain(what: str, ground: Ground) -> Explanation:
    """What the plan says of `what`; dies if that is no place in this guest."""
    pages = tuple(_page(place, ground) for place in places(what, ground.symbols))
    return Explanation(what, pages, ground.sealed, ground.simulated)


def places(what: str, symbols: Kallsyms) -> tuple[Place, ...]:
    """The places that a text means. Dies if there is none."""
    text = what.strip()
    text = text[_BEFORE.match(text).end() :]  # type: ignore[union-attr]  # it matches nothing, too
    if frame := _FRAME.fullmatch(text):
        return (Place(pfn=int(frame[1], 16) if frame[1] else int(frame[2] or frame[3])),)
    if address := _ADDRESS.fullmatch(text):
        number = int(address[1] or address[2], 16)
        return (Place(va=number) if number >= KERNEL_HALF else Place(pfn=number >> PAGE_SHIFT),)
    return tuple(_named(text, symbols)) or die(
        f"no kernel symbol {what!r}", "see /proc/kallsyms; give 0x... for an address, pfn:0x... for a page frame"
    )


def _named(text: str, symbols: Kallsyms) -> Iterator[Place]:
    found = _SYMBOL.fullmatch(text)
    if not found:
        return
    name, offset, module = found[1], int(found[2] or "0", 0), found[3]
    for symbol in symbols.named(name):
        if module in (None, symbol.tag):
            shown = f"{name}+{offset:#x}" + (f" [{symbol.tag}]" if symbol.tag else "")
            yield Place(va=(symbol.va + offset) % 2**64, name=shown)


def _page(place: Place, ground: Ground) -> Page:
    pfn = place.pfn if place.va is None else _frame(place.va, ground)
    if pfn is not None and pfn >= ground.plan.max_pfn:
        die(f"pfn:{pfn:#x} lies beyond the guest's physical space", f"it ends at pfn:{ground.plan.max_pfn:#x}")
    kept = ground.plan.kept(pfn) if pfn is not None else None
    va = place.va if place.va is not None or pfn is None else _address(pfn, ground)
    today = [plan.kept(pfn) is not None for plan in ground.plans[1:]] if pfn is not None else []
    return Page(
        pfn=pfn,
        va=va,
        symbol=place.name or (ground.symbols.nearest(va) if va is not None else ""),
        kept=kept,
        reason=REASONS[kept.kind] if kept else "",
        today=today[0] if today else None,
    )


def _frame(va: int, ground: Ground) -> int | None:
    """The page frame at a virtual address: where a plan has code there, in the kernel's image, or in the direct map."""
    page = va >> PAGE_SHIFT
    for kept in (k for plan in ground.plans for k in plan.keep):
        if 0 <= page - (kept.va >> PAGE_SHIFT) < len(kept.pages):
            return kept.start + page - (kept.va >> PAGE_SHIFT)
    image, size = _image(ground)
    if 0 <= va - image < size:
        return ground.plan.kernel.text_pa + va - image >> PAGE_SHIFT
    if ground.page_offset is not None and 0 <= va - ground.page_offset < ground.plan.max_pfn << PAGE_SHIFT:
        return va - ground.page_offset >> PAGE_SHIFT
    return None


def _address(pfn: int, ground: Ground) -> int | None:
    """A virtual address of a page frame: where a plan has code in it, or that of the kernel's image."""
    for kept in (k for plan in ground.plans for k in plan.keep if pfn in k.pages):
        return kept.va + (pfn - kept.start << PAGE_SHIFT)
    image, size = _image(ground)
    offset = (pfn << PAGE_SHIFT) - ground.plan.kernel.text_pa
    return image + offset if 0 <= offset < size else None


def _image(ground: Ground) -> tuple[int, int]:
    """Address and bytes of the kernel's image, which lies in one piece in physical memory as well."""
    start = ground.plan.kernel.text_va
    end = ground.symbols.address("_end") or ground.symbols.address("_etext") or start
    return start, end - start
