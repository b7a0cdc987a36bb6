# SPDX-License-Identifier: GPL-2.0-or-later
"""The planner: Survey + Policy -> Plan. Pure, and deterministic to the byte."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from mbecguard.guest.dispatchers import ends
from mbecguard.guest.efi import is_efi_address
from mbecguard.guest.execmap import Mapping
from mbecguard.guest.survey import Survey
from mbecguard.plan.checks import contradictions, physical_text
from mbecguard.plan.findings import finding
from mbecguard.plan.policy import DROPPABLE, FOREIGN, FREE_SPACE, CodeKind, Policy, may_start
from mbecguard.plan.rules import RULES, Claim, Ground, Rule
from mbecguard.plan.value import KeepRange, Plan, PlanKernel, Totals, digest_of
from mbecguard.values.errors import die
from mbecguard.values.facts import Absent, Known, Unknown, known
from mbecguard.values.findings import Finding
from mbecguard.values.pages import ADDRESS_SPACE_PAGES, PAGE_SHIFT, PAGE_SIZE, PageMap, PageRange, PageSet

UNEXPLAINED_LIMIT = 256  #: unexplained mappings that are listed one by one

#: Of a BPF hook on a kernel function. Each began a page, until "x86, bpf: Use bpf_prog_pack for bpf trampoline" (6.9).
TRAMPOLINE = "bpf_trampoline_"

Nearest = Callable[[int], str]


@dataclass(frozen=True, slots=True)
class Unexplained:
    """Executable virtual pages that no rule knows; `offset` is virtual page number minus page frame number."""

    virtual: PageRange
    offset: int
    owner: str = ""  #: who allocated them, if that is known


@dataclass(frozen=True, slots=True)
class Attribution:
    """A plan, and all that nobody explains, of which the plan's findings list only so many."""

    policy: Policy  #: with nothing left open
    plan: Plan  #: to be sealed
    #: To be applied until then: free space stays as well, for code that is made meanwhile. Nobody records it: if it is
    #: another plan, it has no digest.
    roomy: Plan
    unexplained: tuple[Unexplained, ...]


def build_plan(survey: Survey, policy: Policy, nearest: Nearest = lambda _va: "unknown") -> Plan:
    """The plan alone, see `attribute`."""
    return attribute(survey, policy, nearest).plan


def attribute(survey: Survey, policy: Policy, nearest: Nearest, frozen: Collection[str] = ()) -> Attribution:
    """Attribute every executable page, apply the policy, and tile the guest-physical space.

    `nearest` names the symbol at an address, for findings; `frozen`: the settings of switches that are set before
    the seal. Dies if a mapping lies outside the physical space.
    """
    ground, policy = Ground(survey), policy.settled(survey, frozen)
    claims = tuple(claim for rule in RULES for claim in rule.claims(ground))
    engine = _Engine(ground, policy, nearest, _claimed(claims))
    for mapping in ground.mappings:
        if mapping.pa + mapping.bytes > survey.kernel.max_pfn << PAGE_SHIFT:
            die(
                f"a mapping at {mapping.va:#x} leads to {mapping.pa:#x}, outside the guest's physical space",
                "the page tables or proc/cpuinfo are wrong; capture the guest again",
            )
        engine.attribute(mapping)
    engine.keep_physical(efi_is_exact=any(claim.kind is CodeKind.EFI_RUNTIME for claim in claims))
    findings = (
        *contradictions(ground),
        *_promises(claims, ground.runs),
        *_notes(survey, frozen),
        *_unknown_efi(survey, policy),
    )
    return Attribution(policy, *engine.plans(findings), tuple(engine.unexplained))


class Planner:
    """For who asks again and again while little changes: it remembers its last answer, and exactly what was asked."""

    def __init__(self) -> None:
        self._last: tuple[object, Attribution] | None = None

    def attribute(self, survey: Survey, policy: Policy, nearest: Nearest, frozen: Collection[str] = ()) -> Attribution:
        """As `attribute`."""
        asked = (survey, policy, nearest, frozenset(frozen))
        if self._last is None or self._last[0] != asked:
            self._last = (asked, attribute(survey, policy, nearest, frozen))
        return self._last[1]


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


def _notes(survey: Survey, frozen: Collection[str]) -> Iterator[Finding]:
    for m in survey.mappings:
        if m.user:
            yield finding("user-mapping", pages=len(m.virtual), va=m.va)
    if survey.kernel.max_pfn == ADDRESS_SPACE_PAGES:
        yield finding("physical-space")
    hooks = [s for s in survey.symbols if s.name.startswith(TRAMPOLINE) and not s.va % PAGE_SIZE]
    if hooks and "freeze.ftrace" not in frozen:  # without ftrace nothing is hung on
        yield finding("hooks-alone", count=len(hooks))


def _unknown_efi(survey: Survey, policy: Policy) -> Iterator[Finding]:
    """Of a guest that EFI has started: what runs if the kernel calls the firmware, if anybody can tell."""
    code, tables = survey.efi.code, survey.memory.efi_tables
    if not isinstance(code, Unknown):
        return
    if isinstance(tables, Unknown) and not any(map(is_efi_address, survey.mappings)):
        id_ = "efi-unknown" if policy.keeps(CodeKind.EFI_RUNTIME) else "efi-unknown-dropped"
        problem, remedy = f"{code.reason}, and {tables.reason}", tables.remedy or code.remedy
        yield finding(id_, problem=problem, remedy=remedy, loss=DROPPABLE[CodeKind.EFI_RUNTIME].risks["drop"])
    elif not isinstance(tables, Absent):
        yield finding("efi-by-tables", problem=code.reason, remedy=code.remedy)


class _Reason(NamedTuple):
    """Why a frame is kept; equal reasons coalesce only where virtual addresses go on as well."""

    kind: CodeKind
    owner: str
    section: str
    offset: int  # virtual page number minus frame number


class _Engine:
    """Collects kept frames and findings while the mappings pass by."""

    def __init__(self, ground: Ground, policy: Policy, nearest: Nearest, explained: PageMap[Claim]) -> None:
        self._ground, self._policy, self._nearest, self._explained = ground, policy, nearest, explained
        self._survey = ground.survey
        self._kept: PageMap[_Reason] = PageMap()
        used = PageSet(run for va in ends(self._survey.symbols) for run in ground.frames(va))
        self._int3 = PageSet(known(self._survey.memory.int3_pages, ())) - used
        self._dropped: dict[CodeKind, list[PageRange]] = {}
        self.unexplained: list[Unexplained] = []
        self._findings: list[Finding] = []

    def attribute(self, mapping: Mapping) -> None:
        """Decide about one executable mapping, page-exact."""
        offset = mapping.offset
        for pages, claim in self._explained.within(mapping.virtual):
            if claim is None:
                self.unexplained.append(Unexplained(pages, offset, self._allocator(pages.start << PAGE_SHIFT)))
            elif not self._policy.keeps(claim.kind):
                self._dropped.setdefault(claim.kind, []).append(pages.shift(-offset))
            else:
                self._keep(pages.shift(-offset), _Reason(claim.kind, claim.owner, claim.section, offset))
                if mapping.writable:
                    self._report_writable(pages, claim)

    def _report_writable(self, pages: PageRange, claim: Claim) -> None:
        # Firmware asks for such pages, and a kexec image is written where it runs; the kernel makes no others itself.
        foreign = claim.kind in FOREIGN
        facts = {"pages": len(pages), "va": pages.start << PAGE_SHIFT, "kind": claim.kind, "owner": claim.owner}
        self._findings.append(finding("writable-executable" if foreign else "writable-code", **facts))

    def keep_physical(self, efi_is_exact: bool) -> None:
        """Keep what no executable mapping shows: the firmware's map without efi_mm, the crash kernel by policy."""
        firmware = PageSet(() if efi_is_exact else known(self._survey.efi.code, ()))
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

    def plans(self, findings: Iterable[Finding]) -> tuple[Plan, Plan]:
        """Without the free space that the policy drops, and with it; their findings are the same.

        These are the engine's own and those given, in one canonical order.
        """
        self._report()
        self._findings += findings
        dropped = (self._free_space(kind) for kind in CodeKind if self._policy.drops_free(kind))
        roomy, free = self._plan(self._runs), PageSet(run for runs in dropped for run in runs)
        if not free:
            return (self._named(roomy),) * 2
        tight = self._plan([(part, why) for run, why in self._runs for part in free.gaps(run)])
        mixed = {"mixed": tight.totals.mixed_2m, "roomy": roomy.totals.mixed_2m}
        self._findings.append(finding("free-space-dropped", pages=free.pages, **mixed))
        return self._named(tight), self._told(roomy)

    @cached_property
    def _runs(self) -> tuple[tuple[PageRange, _Reason], ...]:
        """All that is kept: nothing is added any more once this was asked for."""
        return tuple(self._kept)

    def _plan(self, kept: Sequence[tuple[PageRange, _Reason]]) -> Plan:
        keep = tuple(
            KeepRange(r.start, r.end, why.kind, why.owner, why.section, (r.start + why.offset) << PAGE_SHIFT)
            for r, why in kept
        )
        frames, kernel = PageSet(r for r, _ in kept), self._survey.kernel
        return Plan(
            kernel=PlanKernel(kernel.release, kernel.build_id, kernel.text_va, self._text_pa()),
            keep=keep,
            deny=tuple(frames.gaps(PageRange(0, kernel.max_pfn))),
            totals=Totals(frames.pages, len(keep), frames.mixed_regions()),
            findings=(),
        )

    def _told(self, plan: Plan) -> Plan:
        return plan._replace(findings=tuple(sorted({*self._findings}, key=_order)))

    def _named(self, plan: Plan) -> Plan:
        told = self._told(plan)
        return told._replace(digest=digest_of(told))

    def _free_space(self, kind: CodeKind) -> PageSet:
        """Kept frames of a kind that nobody uses: what has no owner in a block, whatever it holds; else int3 alone."""
        frames = PageSet(run for run, why in self._runs if why.kind is kind)
        return frames if kind is CodeKind.EXECMEM else frames & self._int3

    def _keep(self, frames: PageRange, reason: _Reason) -> None:
        for free, other in list(self._kept.within(frames)):
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

    def _report_start(self) -> None:
        """What the start page of processors costs, if it stays: who writes to it decides what they run."""
        pages = sum(len(run) for run, why in self._runs if why.kind is CodeKind.TRAMPOLINE)
        fact = self._survey.processors
        if not pages:
            return
        why = fact.reason if isinstance(fact, Unknown) else ""
        if isinstance(fact, Known):
            why = f"{fact.value.online} of {fact.value.possible} possible processors are online"
        loss = DROPPABLE[CodeKind.TRAMPOLINE].risks["drop"]
        self._findings.append(finding("start-page-kept", pages=pages, why=why, loss=loss))

    def _report(self) -> None:
        self._report_start()
        for kind, frames in self._dropped.items():
            if kind is CodeKind.TRAMPOLINE and not may_start(self._survey.processors):
                self._findings.append(finding("start-page-dropped", pages=PageSet(frames).pages))
            elif kind is CodeKind.EFI_DATA:
                self._findings.append(finding("efi-data-executable", pages=PageSet(frames).pages))
            elif setting := DROPPABLE.get(kind):
                facts = {"pages": PageSet(frames).pages, "loss": setting.risks["drop"], "key": setting.key}
                self._findings.append(finding("dropped", kind=kind, **facts))
        for kind in FREE_SPACE:
            self._report_free(kind)
        self._report_unexplained()

    def _report_free(self, kind: CodeKind) -> None:
        """Free space that stays, or might: whoever writes to it has new code."""
        holds, pages = self._survey.memory.int3_pages, self._free_space(kind).pages
        if isinstance(holds, Unknown):
            pages = sum(len(run) for run, why in self._runs if why.kind is kind)
            facts = {"kind": kind, "pages": pages, "problem": holds.reason, "remedy": holds.remedy}
            self._findings += [finding("free-space-unknown", **facts)] * bool(pages)
        elif pages and not self._policy.drops_free(kind):
            self._findings.append(finding("free-space-kept", kind=kind, pages=pages))

    def _report_unexplained(self) -> None:
        deny = self._policy.deny_unexplained
        for run in self.unexplained:
            for frames, why in self._kept.within(run.virtual.shift(-run.offset)):
                if why:
                    self._report_shared(frames, run.offset, why.offset)
        for run in self.unexplained[:UNEXPLAINED_LIMIT]:
            va, pa = run.virtual.start << PAGE_SHIFT, (run.virtual.start - run.offset) << PAGE_SHIFT
            name = "unexplained-denied" if deny else "unexplained-mapping"
            symbol = self._nearest(va)
            whose, advice = self._whose(va, symbol)
            facts = {"pages": len(run.virtual), "va": va, "pa": pa, "owner": run.owner, "symbol": symbol}
            self._findings.append(finding(name, **facts, whose=whose, advice=advice))
        if self.unexplained:
            self._findings += _untold(self._survey)
        if (more := len(self.unexplained) - UNEXPLAINED_LIMIT) > 0:
            self._findings.append(finding("unexplained-denied-more" if deny else "unexplained-more", count=more))

    def _allocator(self, va: int) -> str:
        """Who allocated the memory at `va`; empty if that is not known."""
        area = self._ground.area(va)
        return f"{area.caller}()" + (f" of module {area.module}" if area.module else "") if area else ""

    def _whose(self, va: int, symbol: str) -> tuple[str, str]:
        """What is known of executable memory that no rule knows, and what to do about it."""
        area, areas = self._ground.area(va), self._ground.survey.areas
        if area:
            advice = f"unload module {area.module}" if area.module else "find out what it is for"
            return f"allocated by {self._allocator(va)}", advice
        if isinstance(areas, Known) and not self._ground.placed:
            return f"near {symbol}", "with kernel.kptr_restrict=1 /proc/vmallocinfo names who allocated it"
        return f"near {symbol}", "wait until modules have settled and try again"

    def _text_pa(self) -> int:
        tables, code = physical_text(self._survey), self._survey.kernel.code_iomem
        return tables if tables is not None else code[0] if code else 0


def _untold(survey: Survey) -> Iterator[Finding]:
    """Sources that could have explained a page, if they could be read: each once, with all that it could have told."""
    silent: dict[Unknown, list[Rule]] = {}
    for rule in RULES:
        if rule.fact and isinstance(fact := rule.fact(survey), Unknown):
            silent.setdefault(fact, []).append(rule)
    for fact, rules in silent.items():
        remedy = fact.remedy or "capture the guest again, or run as root"
        what, meaning = _either(rule.reason for rule in rules), _either(rule.unknown for rule in rules)
        yield finding("source-unknown", what=what, problem=fact.reason, meaning=meaning, remedy=remedy)


def _either(texts: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(texts))


def _order(item: Finding) -> tuple[int, Finding]:
    return item.severity.rank, item
