# SPDX-License-Identifier: GPL-2.0-or-later
"""How a guest differs from its seal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass, replace

from mbecguard.guest.execmap import Mapping
from mbecguard.plan.findings import UNEXPLAINED
from mbecguard.plan.planner import Attribution, KeepRange, Nearest, Plan, Unexplained
from mbecguard.plan.policy import CodeKind
from mbecguard.records.chain import Entry
from mbecguard.records.reasons import Reason, reason
from mbecguard.values.clock import now
from mbecguard.values.codec import Hex
from mbecguard.values.errors import Exit, die
from mbecguard.values.findings import Finding
from mbecguard.values.pages import PAGE_SHIFT, PageRange, PageSet

SCHEMA = "mbecguard.audit/2"


@dataclass(frozen=True, slots=True)
class Drift:
    """What two plans of one guest keep, and the other does not."""

    new: tuple[KeepRange, ...]  #: code now, unknown to the seal: it faults when it runs
    stale: tuple[KeepRange, ...]  #: kept by the seal, but no code any more


def drift(sealed: Plan, now: Plan) -> Drift:
    """Compare two plans of one policy."""
    return Drift(new=_only_in(now, sealed), stale=_only_in(sealed, now))


def _only_in(one: Plan, other: Plan) -> tuple[KeepRange, ...]:
    known = PageSet(k.pages for k in other.keep)
    return tuple(_part(k, gap) for k in one.keep for gap in known.gaps(k.pages))


def _part(kept: KeepRange, frames: PageRange) -> KeepRange:
    va = kept.va + (frames.start - kept.start << PAGE_SHIFT)
    return replace(kept, start=frames.start, end=frames.end, va=va)


@dataclass(frozen=True, slots=True)
class Code:
    """Page frames `[pfn_start, pfn_end)` that are code, or were; `pa` and `va` are the addresses of the first byte."""

    pfn_start: Hex
    pfn_end: Hex
    pa: Hex
    va: Hex
    pages: int
    kind: CodeKind | None  #: None: nobody knows
    owner: str
    section: str
    symbol: str  #: nearest to `va`
    writable: bool | None  #: mapped writable and executable at once; None if not mapped executable now
    denied: bool  #: by the seal: what runs there faults


@dataclass(frozen=True, slots=True)
class Audit:
    """A guest compared with its seal. It is `ok` if every executable page is one that the seal knows."""

    ok: bool
    reasons: tuple[Reason, ...]
    new: tuple[Code, ...]  #: explained, but unknown to the seal
    unexplained: tuple[Code, ...]  #: executable, unknown to the seal, and nobody knows why
    stale: tuple[Code, ...]  #: kept by the seal, but no code any more
    time: str  #: UTC, ISO 8601
    boot_id: str
    sealed: str  #: when
    simulated: bool  #: the seal protects nothing
    record_digest: str  #: of the seal
    plan_digest: str  #: of the seal
    schema: str = SCHEMA

    @property
    def exit(self) -> Exit:
        """How a command ends that shows it."""
        return Exit.OK if self.ok else Exit.DRIFT

    @property
    def unknown(self) -> int:
        """How many executable ranges the seal does not know."""
        return len(self.new) + len(self.unexplained)


@dataclass(frozen=True, slots=True)
class Look:
    """The guest as it is now, by the policy of the seal."""

    found: Attribution
    mappings: tuple[Mapping, ...]
    nearest: Nearest


def audit(entry: Entry, seal: Plan, look: Look) -> Audit:
    """Compare a look at a guest with its seal: the record, and the plan that it names.

    Dies if that cannot be done and nothing strange was found either.

    Code whose file is gone has no owner today; what the seal keeps at the very same place is known all the same.
    """
    record, plan = entry.record, look.found.plan
    found = drift(seal, plan)
    strange = tuple(code for run in _strange(seal, look.found.unexplained) for code in _unknown(run, seal, look))
    unfit = next((blocker for blocker in plan.blockers if blocker.id not in UNEXPLAINED), None)
    if unfit and not found.new and not strange:
        die(f"the guest cannot be compared with its seal: {unfit.text}", unfit.hint)
    return Audit(
        ok=not (found.new or strange),
        reasons=tuple(_reasons(found.new, strange, plan, unfit)),
        new=tuple(_kept(kept, look, denied=True) for kept in found.new),
        unexplained=strange,
        stale=tuple(_kept(kept, look, denied=False) for kept in _gone(found.stale, look)),
        time=now(),
        boot_id=record.boot_id,
        sealed=record.time,
        simulated=record.simulated,
        record_digest=entry.digest,
        plan_digest=seal.digest,
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


def _gone(stale: Iterable[KeepRange], look: Look) -> Iterator[KeepRange]:
    """Those of which no page is executable now, by whatever name."""
    executable = PageSet(run.virtual.shift(-run.offset) for run in look.found.unexplained)
    return (_part(kept, gap) for kept in stale for gap in executable.gaps(kept.pages))


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


def _kept(kept: KeepRange, look: Look, *, denied: bool) -> Code:
    code = _code(kept.pages, kept.va, look, denied=denied)
    return replace(code, kind=kept.kind, owner=kept.owner, section=kept.section)


def _unknown(run: Unexplained, seal: Plan, look: Look) -> Iterator[Code]:
    """A run in pieces: a second mapping of frames that the seal keeps is not denied."""
    frames, kept = run.virtual.shift(-run.offset), PageSet(k.pages for k in seal.keep)
    pieces = [
        *((part, True) for part in kept.gaps(frames)),
        *((part & frames, False) for part in kept.touching(frames)),
    ]
    for part, denied in sorted(pieces):
        yield replace(_code(part, part.start + run.offset << PAGE_SHIFT, look, denied=denied), owner=run.owner)


def _code(frames: PageRange, va: int, look: Look, *, denied: bool) -> Code:
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
