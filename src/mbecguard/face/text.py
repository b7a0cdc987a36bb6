# SPDX-License-Identifier: GPL-2.0-or-later
"""Views for people: plain text, with colour on a terminal. Values in, text out; nothing here prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from mbecguard.face.look import Look, totals
from mbecguard.host.base import HostText, TextMode
from mbecguard.plan.policy import Level
from mbecguard.records.record import State
from mbecguard.settings.declared import SETTINGS, toml_value
from mbecguard.values.escaped import escaped

if TYPE_CHECKING:  # each command has made what it shows
    from mbecguard.audit.report import Audited, Report
    from mbecguard.face.output import Output
    from mbecguard.plan.findings import Check
    from mbecguard.plan.policy import CodeKind
    from mbecguard.plan.value import Plan
    from mbecguard.records.reasons import Reason
    from mbecguard.records.record import Evidence, Record
    from mbecguard.records.status import Status
    from mbecguard.settings.load import Settings

LEVELS = {
    Level.EXEC: "no new kernel code pages; kept text itself can still be overwritten (level exec)",
    Level.TEXT_LOG: "no new kernel code pages; no device changes kernel text, stores of the guest are counted (level "
    "text-log)",
    Level.TEXT: "no new kernel code pages, and nothing but patches of its own changes the kernel's text (level text)",
}
SIMULATED = "SIMULATED by the embedded host model: NOTHING on this machine is protected"
WIDEST_VALUE = 24  #: columns; a longer value of a setting stands out of line
BAR = 30  #: columns of the longest bar
OWNERS = 10  #: that are shown one by one

_STATE = {State.SEALED: "green", State.DEGRADED: "red", State.OPEN: "yellow"}


def _held(text: HostText) -> str:
    bad = "refused" if text.holds is TextMode.ENFORCE else "counted, and done"
    return f"{text.pages} pages with the host, {text.patches} stores of patches, {text.bad} others {bad}"


class Text(Look):
    """Renders values of a guest as lines."""

    __slots__ = ()

    @classmethod
    def of(cls, out: Output) -> Text:
        """As it looks where an answer goes."""
        return cls(out.look.colour, out.look.width)

    def plan(self, plan: Plan) -> Iterator[str]:
        """A plan: what it is for, what is kept by kind and by owner, findings."""
        kernel = plan.kernel
        yield self.paint(f"Plan for {kernel.release}", "bold")
        yield from self.row("build-id", kernel.build_id or "unknown")
        yield from self.row("kernel text", f"{kernel.text_va:#x} at physical {kernel.text_pa:#x}")
        yield from self.row("digest", plan.digest)
        yield from self._kept(plan)
        yield from self.findings(plan.findings)

    def check(self, check: Check) -> Iterator[str]:
        """What would stop a lock, and the verdict with the totals."""
        yield from self.findings(check.findings)
        verdict = self.paint("can be locked", "green") if check.ok else self.paint("would NOT be locked", "red")
        yield f"this guest {verdict}: {totals(check.findings)}"

    def status(self, status: Status) -> Iterator[str]:
        """The state in one line, then why, then the newest record of this boot."""
        yield from self._banner(status.simulated)
        yield f"{self._state(status.state, status.simulated)}  (host {status.host}, mode {status.mode.value})"
        yield from self.reasons(status.reasons)
        if status.record and status.record.state is status.state:
            yield from self.row("since", status.record.time)
            yield from self.row("record", status.record.digest)
            yield from self.row("plan", status.record.plan_digest)
            if status.record.pins:
                yield from self.row("CR pins", " ".join(status.record.pins))
        if status.denied is not None:
            counts = (
                f"{status.denied} denied fetches (the lock's own probes among them), {status.refused} refused changes"
            )
            yield from self.row("host saw", counts)
        if status.text and status.text.pages:
            yield from self.row("kernel text", _held(status.text))
        yield from self.row("asked", status.time)
        if status.details:
            yield self.paint("Record", "bold")
            yield from self.record(status.details.record, status.details.plan)

    def report(self, report: Report) -> Iterator[str]:
        """The newest lock; one of an earlier boot says nothing about this one."""
        if not report.this_boot:
            told = f"of an earlier boot, {report.record.boot_id}; of this boot there is no record"
            yield from self.fill("", told, 0, colour="yellow")
        yield from self.record(report.record, report.plan)
        yield from self.row("record", report.digest)
        yield from self._audited(report.audited)

    def _audited(self, audited: Audited | None) -> Iterator[str]:
        if not audited:
            yield from self.row("audited", "never, as far as is kept: `mbecguard audit`", "yellow")
            return
        told = f"{audited.time}: {audited.verdict}, {audited.unknown} ranges unknown to the seal"
        yield from self.row("audited", told, "" if audited.verdict == "pass" else "red")
        yield from self.row("audit", audited.digest)

    def record(self, record: Record, plan: Plan | None) -> Iterator[str]:
        """A whole report about one attempt to lock."""
        yield from self._banner(record.simulated)
        release = record.identity.release or "unknown kernel"
        yield f"{self._state(record.state, record.simulated)}  {release}, {record.time}"
        yield from self.reasons(record.reasons)
        yield from self.row("host", f"{record.host}, mode {record.mode}, generation {record.generation}")
        if record.state is State.SEALED:
            yield from self.row("protects", LEVELS[record.level])
        pins = " ".join(record.pins) or "CR0.WP CR0.PG CR4.SMEP"  # older records name none
        yield from self.row("CR pins", pins if record.pinned else "NONE", "" if record.pinned else "red")
        yield from self.row("frozen", " ".join(record.frozen) or "nothing")
        yield self.paint("Evidence", "bold")
        yield from (self._evidence(e) for e in record.evidence)
        if plan:
            yield from self.plan(plan)
        else:
            yield from self.row("plan", f"{record.plan_digest}, which is damaged or gone", "red")

    def settings(self, settings: Settings) -> Iterator[str]:
        """Every setting: its value and where it comes from; what is not the default stands out."""
        shown = {key: toml_value(value) for key, value in settings.values.items()}
        keys, values = max(map(len, shown)), min(max(map(len, shown.values())), WIDEST_VALUE)
        for setting in SETTINGS:
            changed = settings.values[setting.key] != setting.default
            first = f"{'*' if changed else ' '} {setting.key:<{keys}}  "
            line = f"{shown[setting.key]:<{values}}  {settings.origin(setting.key)}"
            for part in self.fill(first, line, len(first)):
                yield self.paint(part, "yellow") if changed else part

    def _kept(self, plan: Plan) -> Iterator[str]:
        pages: Counter[CodeKind] = Counter()
        ranges: Counter[CodeKind] = Counter()
        for k in plan.keep:
            pages[k.kind] += len(k.pages)
            ranges[k.kind] += 1
        totals = plan.totals
        denied = sum(map(len, plan.deny))
        yield from self.row("kept", f"{totals.keep_pages} pages in {totals.keep_ranges} ranges")
        yield from self.row("denied", f"{denied} pages in {len(plan.deny)} ranges")
        yield from self.row("2 MiB mixed", f"{totals.mixed_2m} regions need 4 KiB EPT entries")
        for kind, count in pages.most_common():
            bar = "#" * max(1, round(BAR * count / totals.keep_pages))
            yield f"  {kind:<12} {count:>7} pages {ranges[kind]:>5} ranges  {self.paint(bar, 'green')}"
        yield from self._owners(plan)

    def _owners(self, plan: Plan) -> Iterator[str]:
        owners: Counter[tuple[str, CodeKind]] = Counter()
        for k in plan.keep:
            owners[k.owner, k.kind] += len(k.pages)
        largest = sorted(owners.items(), key=lambda item: (-item[1], item[0]))
        if largest:
            yield self.paint(f"Owners, {len(largest)} in all", "bold")
        for (owner, kind), count in largest[:OWNERS]:
            yield f"  {escaped(owner):<25} {count:>7} pages  {kind}"
        if rest := largest[OWNERS:]:
            pages = sum(count for _, count in rest)
            yield f"  {f'and {len(rest)} more':<25} {pages:>7} pages  (--json has every range)"

    def _evidence(self, evidence: Evidence) -> str:
        mark = self.paint("ok ", "green") if evidence.holds else self.paint("BAD", "red")
        return f"  {mark}  {evidence.probe:<36} {evidence.outcome.value:<10} pfn:{evidence.pfn:#x}"

    def _banner(self, simulated: bool) -> Iterator[str]:
        if simulated:
            yield self.paint(SIMULATED, "yellow")

    def _state(self, state: State, simulated: bool) -> str:
        return self.paint(state.upper(), _STATE.get(state, "bold")) + (" (simulated)" if simulated else "")

    def reasons(self, reasons: Iterable[Reason]) -> Iterator[str]:
        """Reasons, each with its hint."""
        for reason in reasons:
            yield from self.fill("  - ", reason.text, 4)
            yield from self.hint(reason.hint, 4)
