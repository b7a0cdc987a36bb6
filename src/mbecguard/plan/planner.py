# SPDX-License-Identifier: GPL-2.0-or-later
"""The planner: Survey + Policy -> Plan. Pure, and deterministic to the byte."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from mbecguard.errors import die
from mbecguard.guest.execmap import Mapping
from mbecguard.guest.survey import Survey
from mbecguard.pages import ADDRESS_SPACE_PAGES, PAGE_SHIFT, PageMap, PageRange, PageSet
from mbecguard.plan.checks import contradictions, physical_text
from mbecguard.plan.findings import Finding, Severity, finding
from mbecguard.plan.policy import CHOICES, CodeKind, Policy
from mbecguard.plan.rules import RULES, Claim, Ground
from mbecguard.serial import decode, digest, encode

SCHEMA = "mbecguard.plan/1"
UNEXPLAINED_LIMIT = 256  #: unexplained mappings that are listed one by one

Nearest = Callable[[int], str]


@dataclass(frozen=True, slots=True)
class PlanKernel:
    """Which kernel a plan is for; addresses in bytes."""

    release: str
    build_id: str
    text_va: int
    text_pa: int


@dataclass(frozen=True, slots=True)
class KeepRange:
    """Page frames `[start, end)` that stay kernel-executable, and why; `va` is the virtual address of `start`."""

    start: int
    end: int
    kind: CodeKind
    owner: str
    section: str
    va: int

    @property
    def pages(self) -> PageRange:
        """The frames as a range."""
        return PageRange(self.start, self.end)


@dataclass(frozen=True, slots=True)
class Totals:
    """Pages and ranges kept, and 2 MiB regions that are partly kept (each costs 512 EPT entries)."""

    keep_pages: int
    keep_ranges: int
    mixed_2m: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What stays executable. `keep` and `deny` are sorted and disjoint, and tile [0, max_pfn)."""

    kernel: PlanKernel
    keep: tuple[KeepRange, ...]
    deny: tuple[PageRange, ...]
    totals: Totals
    findings: tuple[Finding, ...]
    digest: str = ""
    schema: str = SCHEMA

    @property
    def max_pfn(self) -> int:
        """End of the guest-physical space that the plan covers."""
        return max([k.end for k in self.keep[-1:]] + [d.end for d in self.deny[-1:]], default=0)

    @property
    def blockers(self) -> tuple[Finding, ...]:
        """Findings that stop a lock."""
        return tuple(f for f in self.findings if f.severity is Severity.BLOCKER)

    def kept(self, pfn: int) -> KeepRange | None:
        """The kept range that holds a page frame, None if the frame is denied."""
        return next((k for k in self.keep if pfn in k.pages), None)

    def to_json(self) -> dict[str, Any]:
        """JSON-able objects, the digest included."""
        data: dict[str, Any] = encode(self)
        return data


def plan_from_json(data: object) -> Plan:
    """The inverse of `Plan.to_json`; dies if the digest does not match, or the ranges do not tile the space."""
    try:
        plan = decode(Plan, data)
        pieces = sorted((*(k.pages for k in plan.keep), *plan.deny))
        if [p.start for p in pieces] != [0, *(p.end for p in pieces[:-1])]:
            raise ValueError("keep and deny do not tile the physical space")
    except ValueError as error:
        die(f"not a plan: {error}", "make it again with `mbecguard plan --json`")
    if plan.digest != _digest(plan):
        die("the plan's digest does not match its content", "it was changed after it was made")
    return plan


def build_plan(survey: Survey, policy: Policy, nearest: Nearest = lambda _va: "unknown") -> Plan:
    """Attribute every executable page, apply the policy, and tile the guest-physical space.

    `nearest` names the symbol at an address, for findings. Dies if a mapping lies outside the physical space.
    """
    ground = Ground(survey)
    claims = tuple(claim for rule in RULES for claim in rule.claims(ground))
    engine = _Engine(survey, policy, nearest, _claimed(claims))
    for mapping in ground.mappings:
        if mapping.frames.end > survey.kernel.max_pfn:
            die(
                f"a mapping at {mapping.va:#x} leads to {mapping.pa:#x}, outside the guest's physical space",
                "the page tables or proc/cpuinfo are wrong; record the guest again",
            )
        engine.attribute(mapping)
    engine.keep_physical(efi_is_exact=any(claim.kind is CodeKind.EFI_RUNTIME for claim in claims))
    return engine.plan([*contradictions(survey), *_promises(claims, ground.runs), *_notes(survey)])


def _claimed(claims: Iterable[Claim]) -> PageMap[Claim]:
    explained: PageMap[Claim] = PageMap()
    for claim in reversed(tuple(claims)):  # later puts win, so the first rule comes last
        explained.put(claim.pages, claim)
    return explained


def _promises(claims: Iterable[Claim], runs: PageSet) -> Iterator[Finding]:
    for claim in claims:
        for gap in runs.gaps(claim.pages) if claim.promised else ():
            yield finding(
                "promised-not-executable",
                section=claim.section,
                owner=claim.owner,
                va=gap.start << PAGE_SHIFT,
                pages=len(gap),
            )


def _notes(survey: Survey) -> Iterator[Finding]:
    for m in survey.mappings:
        if m.user:
            yield finding("user-mapping", pages=len(m.virtual), va=m.va)
    if survey.kernel.max_pfn == ADDRESS_SPACE_PAGES:
        yield finding("physical-space")


@dataclass(frozen=True, slots=True)
class _Reason:
    """Why a frame is kept; equal reasons coalesce only where virtual addresses go on as well."""

    kind: CodeKind
    owner: str
    section: str
    offset: int  # virtual page number minus frame number


class _Engine:
    """Collects kept frames and findings while the mappings pass by."""

    def __init__(self, survey: Survey, policy: Policy, nearest: Nearest, explained: PageMap[Claim]) -> None:
        self._survey, self._policy, self._nearest, self._explained = survey, policy, nearest, explained
        self._kept: PageMap[_Reason] = PageMap()
        self._int3 = PageSet(survey.memory.int3_pages)
        self._dropped: dict[CodeKind, list[PageRange]] = {}
        self._unexplained: list[tuple[PageRange, int]] = []
        self._findings: list[Finding] = []

    def attribute(self, mapping: Mapping) -> None:
        """Decide about one executable mapping, page-exact."""
        offset = mapping.offset
        for pages, claim in self._explained.within(mapping.virtual):
            if claim is None:
                self._unexplained.append((pages, offset))
            elif not self._policy.keeps(claim.kind):
                self._dropped.setdefault(claim.kind, []).append(pages.shift(-offset))
            else:
                self._keep(pages.shift(-offset), _Reason(claim.kind, claim.owner, claim.section, offset))
                if mapping.writable:
                    va = pages.start << PAGE_SHIFT
                    self._findings.append(finding("writable-executable", pages=len(pages), va=va))

    def keep_physical(self, efi_is_exact: bool) -> None:
        """Keep what no executable mapping shows: the firmware's map without efi_mm, the crash kernel by policy."""
        firmware = PageSet(() if efi_is_exact else self._survey.efi_runtime)
        if firmware and self._policy.keeps(CodeKind.EFI_RUNTIME):
            self._findings.append(finding("efi-superset", pages=firmware.pages))
            self._keep_all(firmware, CodeKind.EFI_RUNTIME, "firmware", "runtime-map")
        elif firmware:
            self._dropped[CodeKind.EFI_RUNTIME] = list(firmware)
        crash = PageSet(self._survey.crash_kernel)
        if self._policy.keep_crash_kernel:
            self._keep_all(crash, CodeKind.KEXEC, "kernel", "crash kernel region")
        elif crash:
            self._findings.append(finding("crash-kernel-lost", pages=crash.pages))

    def plan(self, findings: Iterable[Finding]) -> Plan:
        """The plan, with the engine's own findings and those given, in one canonical order."""
        self._report()
        keep = tuple(
            KeepRange(r.start, r.end, why.kind, why.owner, why.section, (r.start + why.offset) << PAGE_SHIFT)
            for r, why in self._kept
        )
        frames, kernel = PageSet(k.pages for k in keep), self._survey.kernel
        plan = Plan(
            kernel=PlanKernel(kernel.release, kernel.build_id, kernel.text_va, self._text_pa()),
            keep=keep,
            deny=tuple(frames.gaps(PageRange(0, kernel.max_pfn))),
            totals=Totals(frames.pages, len(keep), frames.mixed_regions()),
            findings=tuple(sorted({*self._findings, *findings}, key=_order)),
        )
        return replace(plan, digest=_digest(plan))

    def _keep(self, frames: PageRange, reason: _Reason) -> None:
        for part in PageSet([frames]) - self._int3 if self._policy.tight else (frames,):
            for free, other in list(self._kept.within(part)):
                if other is None:
                    self._kept.put(free, reason)
                elif not reason.kind is other.kind is CodeKind.EFI_RUNTIME:  # efi_mm maps them twice
                    self._report_shared(free, reason.offset, other.offset)

    def _keep_all(self, frames: PageSet, kind: CodeKind, owner: str, section: str) -> None:
        base = (self._survey.memory.page_offset or 0) >> PAGE_SHIFT
        for part in frames & PageSet([PageRange(0, self._survey.kernel.max_pfn)]):
            for free, other in list(self._kept.within(part)):
                if other is None:
                    self._kept.put(free, _Reason(kind, owner, section, base))

    def _report_shared(self, frames: PageRange, *offsets: int) -> None:
        first, second = sorted((frames.start + offset) << PAGE_SHIFT for offset in offsets)
        self._findings.append(finding("shared-frame", pa=frames.start << PAGE_SHIFT, first=first, second=second))

    def _report(self) -> None:
        for kind, frames in self._dropped.items():
            if choice := CHOICES.get(kind):
                pages = PageSet(frames).pages
                self._findings.append(finding("dropped", pages=pages, kind=kind, loss=choice.loss, key=choice.key))
        padding = PageSet(run for run, _ in self._kept) & self._int3
        if padding:
            self._findings.append(finding("executable-padding", pages=padding.pages))
        self._report_unexplained()

    def _report_unexplained(self) -> None:
        deny = self._policy.deny_unexplained
        for pages, offset in self._unexplained:
            for frames, why in self._kept.within(pages.shift(-offset)):
                if why:
                    self._report_shared(frames, offset, why.offset)
        for pages, offset in self._unexplained[:UNEXPLAINED_LIMIT]:
            va, pa = pages.start << PAGE_SHIFT, (pages.start - offset) << PAGE_SHIFT
            name = "unexplained-denied" if deny else "unexplained-mapping"
            self._findings.append(finding(name, pages=len(pages), va=va, pa=pa, symbol=self._nearest(va)))
        if (more := len(self._unexplained) - UNEXPLAINED_LIMIT) > 0:
            self._findings.append(finding("unexplained-denied-more" if deny else "unexplained-more", count=more))

    def _text_pa(self) -> int:
        tables, code = physical_text(self._survey), self._survey.kernel.code_iomem
        return tables if tables is not None else code[0] if code else 0


def _order(item: Finding) -> tuple[int, Finding]:
    return -list(Severity).index(item.severity), item


def _digest(plan: Plan) -> str:
    data = plan.to_json()
    del data["digest"]
    return digest(data)
