# SPDX-License-Identifier: GPL-2.0-or-later
"""One self-contained page about a guest's lock: no scripts, nothing from elsewhere, and names stay text."""

from __future__ import annotations

import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from mbecguard import __version__
from mbecguard.audit.report import Dossier
from mbecguard.audit.value import Result, Verdict
from mbecguard.records.record import State
from mbecguard.reports.picture import picture, size
from mbecguard.values.clock import now
from mbecguard.values.escaped import escaped

FOLDER = Path(__file__).parent
OWNERS = 12  #: that are shown one by one; the others are folded
WORST = (Result.FAIL, Result.WARN, Result.UNKNOWN, Result.PASS, Result.NOT_APPLICABLE)  #: first
RANGES = 100  #: of drift that are shown; the JSON has all

#: What is said of a guest, in large letters, and how it looks.
HEADLINES: dict[Verdict, tuple[str, str]] = {
    Verdict.PASS: ("Passed: the guest is as it was sealed", "good"),
    Verdict.FAIL: ("FAILED: {failed} of {all} claims do not hold", "bad"),
    Verdict.NOT_APPLICABLE: ("Nothing to audit: the guest is not sealed", "fair"),
    Verdict.ERROR: ("NOT COMPARED: the audit could not be made", "bad"),
}
MARKS = {
    Result.PASS: ("✓", "good"),
    Result.WARN: ("!", "fair"),
    Result.FAIL: ("✗", "bad"),
    Result.UNKNOWN: ("?", "fair"),
    Result.NOT_APPLICABLE: ("–", "none"),
}
_COMMAND = re.compile("`([^`]+)`")


def environment() -> Environment:
    """In which templates are filled in: whatever they show is text."""
    made = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalized,
    )
    made.filters |= {"size": size, "prose": _prose}
    return made


def style() -> Markup:
    """How all pages look."""
    return Markup((FOLDER / "page.css").read_text())


def page(dossier: Dossier) -> str:
    """The page, of valid UTF-8."""
    report, audit = dossier.report, dossier.audit
    plan = report.plan if report else None
    text: str = (
        environment()
        .get_template("page.html.j2")
        .render(
            report=report,
            record=report.record if report else None,
            audit=audit,
            claims=sorted(audit.claims, key=lambda claim: WORST.index(claim.result)) if audit else (),
            plan=plan,
            history=dossier.history,
            headline=_headline(dossier),
            picture=picture(plan) if plan and plan.keep else None,
            style=style(),
            marks=MARKS,
            owners=OWNERS,
            ranges=RANGES,
            version=__version__,
            made=now(),
        )
    )
    return text


def _headline(dossier: Dossier) -> tuple[str, str]:
    if audit := dossier.audit:
        text, look = HEADLINES[audit.verdict]
        failed = sum(claim.result is Result.FAIL for claim in audit.claims)
        judged = sum(claim.result is not Result.NOT_APPLICABLE for claim in audit.claims)
        return text.format(failed=failed, all=judged), look
    report = dossier.report
    if report and report.this_boot and report.record.state is State.SEALED:
        return "Sealed, and not audited since", "fair"
    return (f"{report.record.state.capitalize()}, and not audited" if report else "Nothing is known"), "bad"


def _prose(text: str) -> Markup:
    """A sentence in which commands stand in backticks, as reasons have them."""
    return Markup(_COMMAND.sub(r"<code>\1</code>", str(escape(escaped(text)))))


def _finalized(value: object) -> object:
    """What a template shows: nothing that a browser, or a terminal that shows the source, takes for more than text."""
    return escaped(value) if isinstance(value, str) and not isinstance(value, Markup) else value
