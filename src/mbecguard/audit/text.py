# SPDX-License-Identifier: GPL-2.0-or-later
"""Views for people: plain text, with colour on a terminal. Values in, text out; nothing here prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mbecguard.audit.record import Evidence, Record, State
from mbecguard.audit.status import Drift, Status
from mbecguard.pages import PAGE_SHIFT
from mbecguard.plan.findings import Finding, Severity
from mbecguard.plan.planner import KeepRange, Plan
from mbecguard.plan.policy import CodeKind
from mbecguard.settings import Settings
from mbecguard.table import SETTINGS, toml_value

LEVELS = {"exec": "no new kernel code pages; kept text itself can still be overwritten (level exec)"}
SIMULATED = "SIMULATED: the embedded host model was asked, NOTHING on this machine is protected"

_COLOURS = {"red": 31, "green": 32, "yellow": 33, "blue": 34, "bold": 1, "dim": 2}
_SEVERITY = {Severity.BLOCKER: "red", Severity.WARNING: "yellow", Severity.INFO: "blue"}
_STATE = {State.SEALED: "green", State.DEGRADED: "red", State.OPEN: "yellow"}


@dataclass(frozen=True, slots=True)
class Text:
    """Renders values as lines; `colour` says whether to use ANSI escapes."""

    colour: bool = False

    def paint(self, text: str, colour: str) -> str:
        """`text` in a colour, if colours are on."""
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if self.colour else text

    def plan(self, plan: Plan) -> Iterator[str]:
        """A plan: what it is for, what is kept by kind, findings."""
        kernel = plan.kernel
        yield self.paint(f"Plan for {kernel.release}", "bold")
        yield self._row("build-id", kernel.build_id or "unknown")
        yield self._row("kernel text", f"{kernel.text_va:#x} at physical {kernel.text_pa:#x}")
        yield from self._kept(plan)
        yield self._row("digest", plan.digest)
        yield from self.findings(plan.findings)

    def findings(self, findings: Iterable[Finding]) -> Iterator[str]:
        """Findings, worst first, each with its hint."""
        for item in findings:
            label = self.paint(f"{item.severity:>8}", _SEVERITY[item.severity])
            yield f"{label}  {item.text} {self.paint(f'[{item.id}]', 'dim')}"
            if item.hint:
                yield f"{'':10}{self.paint('hint: ' + item.hint, 'dim')}"

    def status(self, status: Status) -> Iterator[str]:
        """The state in one line, then why, then the newest record of this boot."""
        yield from self._banner(status.simulated)
        yield f"{self._state(status.state, status.simulated)}  (host {status.host}, mode {status.mode.value})"
        yield from (f"  {reason}" for reason in status.reasons)
        if status.record and status.record.state is status.state:
            yield self._row("since", status.record.time)
            yield self._row("digest", status.record.plan.digest)

    def record(self, record: Record) -> Iterator[str]:
        """A whole report about one attempt to lock."""
        yield from self._banner(record.simulated)
        yield f"{self._state(record.state, record.simulated)}  {record.plan.kernel.release}, {record.time}"
        yield from (f"  {reason}" for reason in record.reasons)
        yield self._row("host", f"{record.host}, mode {record.mode}, generation {record.generation}")
        if record.state is State.SEALED:
            yield self._row("protects", LEVELS[record.level])
        yield self._row("CR pins", "CR0.WP CR0.PG CR4.SMEP" if record.pinned else self.paint("NONE", "red"))
        yield self._row("frozen", " ".join(record.frozen) or "nothing")
        yield self.paint("Evidence", "bold")
        yield from (self._evidence(e) for e in record.evidence)
        yield from self.plan(record.plan)

    def explain(self, pfn: int, kept: KeepRange | None, reason: str, symbol: str) -> Iterator[str]:
        """One page frame: may the kernel execute it, and why."""
        verdict = self.paint("KEPT", "green") if kept else self.paint("DENIED", "red")
        yield f"page frame {pfn:#x} (physical {pfn << PAGE_SHIFT:#x}): kernel-execute {verdict}, user-execute stays"
        if not kept:
            yield "  nothing in the plan explains it as kernel code"
            return
        yield self._row("kind", f"{kept.kind}: {reason}")
        yield self._row("owner", f"{kept.owner} {kept.section}".strip())
        yield self._row("virtual", f"{kept.va + (pfn - kept.start << PAGE_SHIFT):#x} {symbol}")
        yield self._row("range", f"[{kept.start:#x}, {kept.end:#x}), {len(kept.pages)} pages")

    def drift(self, drift: Drift) -> Iterator[str]:
        """How a guest differs from its sealed plan."""
        for text, colour, ranges in (("new, will fault", "red", drift.new), ("no code now", "yellow", drift.stale)):
            for k in ranges:
                label = self.paint(f"{text:>16}", colour)
                yield f"{label}  [{k.start:#x}, {k.end:#x}) at {k.va:#x} {k.kind} {k.owner}"
        for finding in drift.unexplained:
            yield f"{self.paint('     unexplained', 'red')}  {finding.text}"
        if drift.ok:
            yield self.paint("no executable page that the sealed plan does not know", "green")

    def settings(self, settings: Settings) -> Iterator[str]:
        """Every setting: its value and where it comes from; what is not the default stands out."""
        shown = {key: toml_value(value) for key, value in settings.values.items()}
        keys, values = max(map(len, shown)), max(map(len, shown.values()))
        for setting in SETTINGS:
            changed = settings.values[setting.key] != setting.default
            line = f"{setting.key:<{keys}}  {shown[setting.key]:<{values}}  {settings.origin(setting.key)}"
            yield self.paint(f"* {line}", "yellow") if changed else f"  {line}"

    def _kept(self, plan: Plan) -> Iterator[str]:
        pages: Counter[CodeKind] = Counter()
        ranges: Counter[CodeKind] = Counter()
        for k in plan.keep:
            pages[k.kind] += len(k.pages)
            ranges[k.kind] += 1
        totals = plan.totals
        denied = sum(map(len, plan.deny))
        yield self._row("kept", f"{totals.keep_pages} pages in {totals.keep_ranges} ranges")
        yield self._row("denied", f"{denied} pages in {len(plan.deny)} ranges")
        yield self._row("2 MiB mixed", f"{totals.mixed_2m} regions need 4 KiB EPT entries")
        for kind, count in pages.most_common():
            bar = "#" * max(1, round(40 * count / totals.keep_pages))
            yield f"  {kind:<14} {count:>7} pages {ranges[kind]:>5} ranges  {self.paint(bar, 'green')}"

    def _evidence(self, evidence: Evidence) -> str:
        mark = self.paint("ok ", "green") if evidence.holds else self.paint("BAD", "red")
        return f"  {mark}  {evidence.probe:<36} {evidence.outcome.value:<10} page frame {evidence.pfn:#x}"

    def _banner(self, simulated: bool) -> Iterator[str]:
        if simulated:
            yield self.paint(SIMULATED, "yellow")

    def _state(self, state: State, simulated: bool) -> str:
        return self.paint(state.upper(), _STATE.get(state, "bold")) + (" (simulated)" if simulated else "")

    def _row(self, name: str, value: str) -> str:
        return f"  {name:<14} {value}"
