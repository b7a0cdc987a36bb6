# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's text as it is handed over to the host: which bytes the kernel may patch after the lock, and how.

Patches of the boot alone (alternatives, returns, retpolines, ...) are no sites here: what stands there stays.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from mbecguard.guest.procfs import CODE, Kallsyms
from mbecguard.guest.source import Guest
from mbecguard.host.text import OFFSETS, SiteForm, TextObject, TextSite
from mbecguard.text.frozen import HOOKED, keys_of
from mbecguard.text.kinds import JUMP_LABEL, STATIC_CALL, TRAMPOLINE
from mbecguard.text.look import look_at_kernel, spot_told
from mbecguard.text.reference import NOWHERE, Reference, Sites
from mbecguard.text.tables import matching
from mbecguard.values.errors import die
from mbecguard.values.note import Note
from mbecguard.values.pages import PAGE_SIZE, PageRange

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


def kernel_text(
    reference: Reference,
    symbols: Kallsyms,
    pfn: int,
    *,
    frozen: Collection[str] = (),
    hooks: tuple[int, int] = (0, 0),
    logs: bool = False,
) -> TextObject:
    """The text of a kernel whose `_text` is at page frame `pfn`; sites of the keys of `frozen` take no patch.

    `hooks` are addresses: from where to where there are trampolines of BPF programs.

    Dies if what the file says of its sites contradicts itself, or the kernel hides its symbols.
    """
    base = symbols.address("_text") or die("/proc/kallsyms hides addresses", "read it as root")
    text = reference.pieces[0]
    own, _ = symbols.lines()
    marks = _Marks(base, own, keys_of(frozen))
    sites = sorted(site for found in reference.sites for site in _sites(reference, found, marks))
    return TextObject(
        PageRange(pfn, pfn + -(-text.bytes // PAGE_SIZE)),
        tuple(_apart(sites)),
        _starts(base, own, text.bytes),
        _tracers(symbols, base),
        _span(hooks, base),
        logs,
    )


def handed_over(
    guest: Guest,
    cache: Path | None,
    note: Note,
    *,
    target_pfn: int,
    text_pfn: int,
    hooks: tuple[int, int],
    frozen: Collection[str],
    logs: bool,
) -> tuple[TextObject, ...]:
    """The page to write to, and the kernel's text, whose table is only worth what the text was at that moment.

    Dies if it is not as its file says, or cannot be compared.
    """
    symbols = Kallsyms(guest.tree.data("proc/kallsyms") or b"")
    found, reference = look_at_kernel(guest, symbols, cache, note)
    if found.spots:
        die(f"kernel text is not as its file says: {spot_told(found.spots[0])}", "`mbecguard audit` has all of it")
    kernel = kernel_text(reference, symbols, text_pfn, frozen=frozen, hooks=hooks, logs=logs)
    return target_page(target_pfn, logs=logs), kernel


def target_page(pfn: int, *, logs: bool) -> TextObject:
    """A page of text without any sites."""
    return TextObject(PageRange(pfn, pfn + 1), logs=logs)


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


def _sites(reference: Reference, found: Sites, marks: _Marks) -> Iterator[TextSite]:
    forms, end = _FORMS.get(found.kind, ()), reference.pieces[0].bytes
    for place, length, argument, extra in zip(found.where, found.length, found.argument, found.extra, strict=True):
        if not forms or place >= end:
            continue
        form = next((form for begin, form in forms if reference.blob.startswith(begin, place)), None)
        form = SiteForm.HOOK if form is SiteForm.MCOUNT and marks.hooked(place) else form
        target = argument if form is SiteForm.JUMP else 0
        if form and target != NOWHERE:
            yield TextSite(place, target, form, length, marks.frozen(found.kind, place, extra))


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


def _starts(base: int, lines: Iterable[bytes], size: int) -> tuple[int, ...]:
    """Where functions of the kernel proper start, that run once excepted."""
    offsets = {(int(line[:16], 16) - base) % OFFSETS for line in lines if line[17] in CODE}
    return tuple(sorted(offset for offset in offsets if offset < size))


def _span(hooks: tuple[int, int], base: int) -> tuple[int, int]:
    start, end = hooks
    return ((start - base) % OFFSETS, (end - base) % OFFSETS) if start < end else (0, 0)


def _tracers(symbols: Kallsyms, base: int) -> tuple[int, int]:
    """Ftrace's trampolines; a kernel without it has no site for them, and none is patched to lead anywhere."""
    first, second = ((symbols.address(name) or base) - base for name in _TRACERS)
    return first % OFFSETS, second % OFFSETS
