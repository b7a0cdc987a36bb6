# SPDX-License-Identifier: GPL-2.0-or-later
"""Text as objects of a host: which bytes of kernel and modules the kernel may patch after the lock, and how.

Patches of the boot alone (alternatives, returns, retpolines, ...) are no sites here: what stands there stays.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from mbecguard.guest.dispatchers import entries
from mbecguard.guest.procfs import CODE, Kallsyms
from mbecguard.host.text import OFFSETS, SiteForm, TextObject, TextRun, TextSite
from mbecguard.text.frozen import HOOKED, keys_of
from mbecguard.text.kinds import JUMP_LABEL, STATIC_CALL, TRAMPOLINE
from mbecguard.text.look import Placed
from mbecguard.text.reference import NOWHERE, Sites
from mbecguard.text.tables import matching
from mbecguard.values.errors import die
from mbecguard.values.pages import PAGE_SHIFT, PAGE_SIZE, PageRange

#: By kind, and by how the file's bytes begin: what a host calls it.
_FORMS: dict[str, tuple[tuple[bytes, SiteForm], ...]] = {
    JUMP_LABEL: ((b"", SiteForm.JUMP),),
    STATIC_CALL: ((b"\xe8", SiteForm.CALL), (b"\xe9", SiteForm.TAIL_CALL), (b"\x0f", SiteForm.TAIL_JCC)),
    TRAMPOLINE: ((b"", SiteForm.TAIL_CALL),),
    "function entry": ((b"", SiteForm.MCOUNT),),
    "tracer's call": ((b"", SiteForm.FTRACE_CALL),),
}
_TRACERS = ("ftrace_caller", "ftrace_regs_caller")
_KEY, _SCT = "__SCK__", "__SCT__"  # of a static call: its key, and its trampoline
ENDBR_BYTES = 4


class Part(NamedTuple):
    """Adjacent page frames of a module's text, and the virtual address of the first."""

    va: int
    pages: PageRange

    @property
    def span(self) -> tuple[int, int]:
        """Its virtual addresses, from and to."""
        return self.va, self.va + (len(self.pages) << PAGE_SHIFT)

    def without(self, pfn: int) -> Iterator[Part]:
        """What is left of it without a page frame."""
        if pfn not in self.pages:
            yield self
            return
        for pages in (PageRange(self.pages.start, pfn), PageRange(pfn + 1, self.pages.end)):
            if pages:
                yield Part(self.va + (pages.start - self.pages.start << PAGE_SHIFT), pages)


def target_page(pfn: int, *, logs: bool) -> TextObject:
    """A page of text without any sites."""
    return TextObject(PageRange(pfn, pfn + 1), logs=logs)


def kernel_text(
    kernel: Placed,
    symbols: Kallsyms,
    pfn: int,
    *,
    modules: Iterable[Part] = (),
    frozen: Collection[str] = (),
    hooks: tuple[int, int] = (0, 0),
    logs: bool = False,
) -> TextObject:
    """The text of a kernel whose `_text` is at page frame `pfn`; sites of the keys of `frozen` take no patch.

    Functions of `modules` may be called from it, and what calls XDP programs. `hooks` are addresses: from where to
    where there are trampolines of BPF programs. Dies if what the file says of its sites contradicts itself, or the
    kernel hides its symbols.
    """
    base, size = _base(symbols), kernel.reference.pieces[0].bytes
    own, others = symbols.lines()
    starts = _starts(base, chain(own, others), [(base, base + size), *(part.span for part in modules)])
    called = ((va - base) % OFFSETS for va in entries(symbols.tagged("bpf")))
    sites = _sites(kernel, (base, base + size), base, _Marks(base, own, keys_of(frozen)))
    return TextObject(
        PageRange(pfn, pfn + -(-size // PAGE_SIZE)),
        tuple(_apart(sorted(sites))),
        tuple(sorted({*starts, *called})),
        _tracers(symbols, base),
        _span(hooks, base),
        logs,
    )


def kernel_data(symbols: Kallsyms, pfn: int, *, logs: bool = False) -> TextObject | None:
    """What a kernel, whose `_text` is at page frame `pfn`, made read-only when it had booted; None: nothing tells."""
    start, end = (symbols.address(name) for name in ("__start_rodata", "__end_rodata"))
    if start is None or end is None or end - start < PAGE_SIZE:
        return None
    base = _base(symbols)
    pages = PageRange(pfn + -(-(start - base) // PAGE_SIZE), pfn + (end - base) // PAGE_SIZE)
    return TextObject(pages, logs=logs, data=True)


def modules_text(
    modules: Sequence[Placed], parts: Sequence[Part], kernel: Placed, symbols: Kallsyms, *, logs: bool = False
) -> TextObject:
    """The text of all modules, in `parts`, as one object. Raises ValueError if a site is in none of them."""
    parts = sorted(parts)
    base, text = parts[0].va, _base(symbols)
    nothing = _Marks(base, (), ())
    sites = (_sites(module, (base, parts[-1].span[1]), base, nothing) for module in modules)
    kernels = text, text + kernel.reference.pieces[0].bytes
    return TextObject(
        parts[0].pages,
        tuple(_apart(sorted(chain.from_iterable(sites)))),
        _starts(base, chain.from_iterable(symbols.lines()), [kernels, *(part.span for part in parts)]),
        _tracers(symbols, base),
        logs=logs,
        more=tuple(TextRun(part.pages, part.va - base) for part in parts[1:]),
    )


def _base(symbols: Kallsyms) -> int:
    return symbols.address("_text") or die("/proc/kallsyms hides addresses", "read it as root")


class _Marks:
    """What symbols say of sites: which keys are frozen, by how far they are from the text, and trampolines of static
    calls by their place; which functions BPF programs hook.
    """

    def __init__(self, base: int, lines: Iterable[bytes], patterns: tuple[str, ...]) -> None:
        named = [(line[19:].decode(errors="replace"), (int(line[:16], 16) - base) % OFFSETS) for line in lines]
        calls = tuple(pattern.replace(_KEY, _SCT) for pattern in patterns if pattern.startswith(_KEY))
        self.keys, self.trampolines, self._hooked = (
            frozenset(offset for name, offset in named if any(matching(pattern, name) for pattern in meant))
            for meant in (patterns, calls, HOOKED.keys)
        )

    def hooked(self, place: int) -> bool:
        """Whether the entry of a function at a place is a hook; an ENDBR can be in front of it."""
        return place in self._hooked or place - ENDBR_BYTES in self._hooked

    def frozen(self, kind: str, place: int, key: int) -> bool:
        """Whether a site of that kind at that place, with that key, is."""
        return (
            place in self.trampolines if kind == TRAMPOLINE else kind in (JUMP_LABEL, STATIC_CALL) and key in self.keys
        )


class _Addresses:
    """From places of a file to virtual addresses; None for what is not inside of a span, and does not stay."""

    def __init__(self, placed: Placed, span: tuple[int, int]) -> None:
        self._pieces, self._addresses, self._span = placed.reference.pieces, placed.addresses, span
        self._starts = [piece.start for piece in self._pieces]

    def at(self, place: int) -> int | None:
        """That of a place."""
        number = bisect_right(self._starts, place) - 1
        piece = self._pieces[number]
        if place == NOWHERE or place >= piece.end or not piece.kept:
            return None
        va = self._addresses[number] + place - piece.start
        return va if self._span[0] <= va < self._span[1] else None


def _sites(placed: Placed, span: tuple[int, int], base: int, marks: _Marks) -> Iterator[TextSite]:
    addresses = _Addresses(placed, span)
    for found in placed.reference.sites:
        forms = _FORMS.get(found.kind, ())
        for place, length, argument, extra in _columns(found) if forms else ():
            va = addresses.at(place)
            form = next((form for begin, form in forms if placed.reference.blob.startswith(begin, place)), None)
            leads = addresses.at(argument) if form is SiteForm.JUMP else base
            if va is None or form is None or leads is None:
                continue
            offset = va - base
            form = SiteForm.HOOK if form is SiteForm.MCOUNT and marks.hooked(offset) else form
            frozen = marks.frozen(found.kind, offset, extra)
            yield TextSite(offset, leads - base, form, length, frozen)


def _columns(found: Sites) -> Iterator[tuple[int, int, int, int]]:
    return zip(found.where, found.length, found.argument, found.extra, strict=True)


def _apart(sites: Iterable[TextSite]) -> Iterator[TextSite]:
    """The sites, each once; a place that two of them claim takes no patch."""
    last: TextSite | None = None
    for site in sites:
        if last and site.offset < last.offset + last.bytes:
            if site[:4] != last[:4]:
                die(f"two patch sites lie at {site.offset:#x} of the text", "report it, with the kernel's release")
            continue
        if last:
            yield last
        last = site
    if last:
        yield last


def _starts(base: int, lines: Iterable[bytes], spans: Iterable[tuple[int, int]]) -> tuple[int, ...]:
    """Where functions start that are inside of the spans of addresses."""
    spans = sorted(spans)
    starts, offsets = [start for start, _ in spans], set()
    for line in lines:
        if line[17] in CODE:
            va = int(line[:16], 16)
            number = bisect_right(starts, va) - 1
            if number >= 0 and va < spans[number][1]:
                offsets.add((va - base) % OFFSETS)
    return tuple(sorted(offsets))


def _span(hooks: tuple[int, int], base: int) -> tuple[int, int]:
    start, end = hooks
    return ((start - base) % OFFSETS, (end - base) % OFFSETS) if start < end else (0, 0)


def _tracers(symbols: Kallsyms, base: int) -> tuple[int, int]:
    """Ftrace's trampolines. Where one is missing, the other; a kernel without both has no site that leads there."""
    found = [va for name in _TRACERS if (va := symbols.address(name))] or [base]
    return (found[0] - base) % OFFSETS, (found[-1] - base) % OFFSETS
