# SPDX-License-Identifier: GPL-2.0-or-later
"""How a guest differs from its seal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass, replace

from mbecguard.audit.value import Code
from mbecguard.guest.execmap import Mapping
from mbecguard.plan.findings import UNEXPLAINED
from mbecguard.plan.planner import Attribution, Nearest, Unexplained
from mbecguard.plan.value import KeepRange, Plan
from mbecguard.records.drift import drift, piece
from mbecguard.records.reasons import Reason, reason
from mbecguard.values.errors import die
from mbecguard.values.findings import Finding
from mbecguard.values.pages import PAGE_SHIFT, PageRange, PageSet

WRITABLE = "writable-code"  #: the finding of it
#: Blockers of a lock that do not keep an audit from comparing: they are what it looks for.
EXPECTED = frozenset({*UNEXPLAINED, WRITABLE})


@dataclass(frozen=True, slots=True)
class Sight:
    """The guest as it is now, by the policy of the seal."""

    found: Attribution
    mappings: tuple[Mapping, ...]
    nearest: Nearest


@dataclass(frozen=True, slots=True)
class Comparison:
    """How a guest differs from its seal, and what that means."""

    new: tuple[Code, ...]
    unexplained: tuple[Code, ...]
    stale: tuple[Code, ...]
    writable: int  #: kept pages of the kernel's own that are writable and executable at once
    reasons: tuple[Reason, ...]

    @property
    def ok(self) -> bool:
        """Whether every executable page is one that the seal knows."""
        return not (self.new or self.unexplained)


def compare(seal: Plan, look: Sight) -> Comparison:
    """Compare a look at a guest with the plan of its seal.

    Dies if that cannot be done and nothing strange was found either.

    Code whose file is gone has no owner today; what the seal keeps at the very same place is known all the same.
    """
    plan = look.found.plan
    found = drift(seal, plan)
    strange = tuple(code for run in _strange(seal, look.found.unexplained) for code in _unknown(run, seal, look))
    unfit = next((blocker for blocker in plan.blockers if blocker.id not in EXPECTED), None)
    if unfit and not found.new and not strange:
        die(f"the guest cannot be compared with its seal: {unfit.text}", unfit.hint)
    return Comparison(
        new=tuple(_kept(kept, look, denied=True) for kept in found.new),
        unexplained=strange,
        stale=tuple(_kept(kept, look, denied=False) for kept in _gone(found.stale, look)),
        writable=sum(int(found.facts["pages"]) for found in plan.findings if found.id == WRITABLE),
        reasons=tuple(_reasons(found.new, strange, plan, unfit)),
    )


def _strange(seal: Plan, unexplained: Iterable[Unexplained]) -> Iterator[Unexplained]:
    """What nobody explains, but for what the seal has at the same place: kept, or denied as unexplained already."""
    runs = [*((k.pages, (k.va >> PAGE_SHIFT) - k.start) for k in seal.keep), *_denied(seal)]
    known: dict[int, list[PageRange]] = {}
    for frames, offset in runs:
        known.setdefault(offset, []).append(frames.shift(offset))
    for run in unexplained:
        for gap in PageSet(known.get(run.offset, ())).gaps(run.virtual):
            yield replace(run, virtual=gap)


def _denied(seal: Plan) -> Iterator[tuple[PageRange, int]]:
    for found in seal.findings:
        if found.id == "unexplained-denied":
            va, pa = (int(str(found.facts[name]), 16) for name in ("va", "pa"))
            yield PageRange.covering(pa, int(found.facts["pages"]) << PAGE_SHIFT), va - pa >> PAGE_SHIFT


def _gone(stale: Iterable[KeepRange], look: Sight) -> Iterator[KeepRange]:
    """Those of which no page is executable now, by whatever name."""
    executable = PageSet(run.virtual.shift(-run.offset) for run in look.found.unexplained)
    return (piece(kept, gap) for kept in stale for gap in executable.gaps(kept.pages))


def _reasons(new: Sized, strange: tuple[Code, ...], plan: Plan, unfit: Finding | None) -> Iterator[Reason]:
    if strange:
        yield reason("audit-unexplained", ranges=len(strange), denied=sum(code.denied for code in strange))
        for untold in (found for found in plan.findings if found.id == "source-unknown"):
            yield reason("audit-incomplete", problem=untold.text, advice=untold.hint)
    if new:
        yield reason("audit-new", ranges=len(new))
    if not strange and not new:
        yield reason("audit-clean")
    if unfit:
        yield reason("audit-incomplete", problem=unfit.text, advice=unfit.hint)


def _kept(kept: KeepRange, look: Sight, *, denied: bool) -> Code:
    code = _code(kept.pages, kept.va, look, denied=denied)
    return replace(code, kind=kept.kind, owner=kept.owner, section=kept.section)


def _unknown(run: Unexplained, seal: Plan, look: Sight) -> Iterator[Code]:
    """A run in pieces: a second mapping of frames that the seal keeps is not denied."""
    frames, kept = run.virtual.shift(-run.offset), PageSet(k.pages for k in seal.keep)
    pieces = [
        *((part, True) for part in kept.gaps(frames)),
        *((part & frames, False) for part in kept.touching(frames)),
    ]
    for part, denied in sorted(pieces):
        yield replace(_code(part, part.start + run.offset << PAGE_SHIFT, look, denied=denied), owner=run.owner)


def _code(frames: PageRange, va: int, look: Sight, *, denied: bool) -> Code:
    virtual = PageRange.covering(va, len(frames) << PAGE_SHIFT)
    mapped = [m for m in look.mappings if len(m.virtual & virtual)]
    return Code(
        pfn_start=frames.start,
        pfn_end=frames.end,
        pa=frames.start << PAGE_SHIFT,
        va=va,
        pages=len(frames),
        kind=None,
        owner="",
        section="",
        symbol=look.nearest(va),
        writable=any(m.writable for m in mapped) if mapped else None,
        denied=denied,
    )
