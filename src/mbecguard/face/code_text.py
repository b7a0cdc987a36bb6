# SPDX-License-Identifier: GPL-2.0-or-later
"""What `explain` and `audit` tell of pages, for people. What they show can be given to `explain` again."""

from __future__ import annotations

from collections.abc import Iterator

from mbecguard.audit.value import Audit, Changed, Claim, Code, Result, Verdict
from mbecguard.face.text import Text
from mbecguard.plan.explain import Explanation, Page
from mbecguard.values.escaped import escaped
from mbecguard.values.pages import PAGE_SHIFT


def explanation(text: Text, answer: Explanation) -> Iterator[str]:
    """Each page that was asked for: may the kernel execute it, and why."""
    seal = f"seal of {answer.sealed}{_simulated(answer.simulated)}" if answer.sealed else ""
    yield f"by the {seal or 'plan of today; nothing is sealed'}"
    if len(answer.pages) == 1:
        yield from _page(text, answer.pages[0])
        return
    told = f"{len(answer.pages)} functions are called {answer.what}; give the address of the one that you mean:"
    yield from text.fill("", told, 0)
    for page in answer.pages:
        frame = f"pfn:{page.pfn:#x}" if page.pfn is not None else ""
        yield f"  {page.va or 0:#x}  {frame:<16} {_verdict(text, page)}  {escaped(page.symbol)}"


def _simulated(simulated: bool) -> str:
    return " (simulated)" if simulated else ""


def _verdict(text: Text, page: Page) -> str:
    return text.paint("KEPT", "green") if page.kept else text.paint("DENIED", "red")


def _page(text: Text, page: Page) -> Iterator[str]:
    where = f"pfn:{page.pfn:#x} (physical {page.pfn << PAGE_SHIFT:#x})" if page.pfn is not None else f"{page.va:#x}"
    yield f"{where}: kernel-execute {_verdict(text, page)}, user-execute stays"
    if page.kept:
        yield from text.row("kind", f"{page.kept.kind}: {page.reason}")
        yield from text.row("owner", f"{page.kept.owner} {page.kept.section}".strip())
    elif page.pfn is None:
        told = "no code of the kernel is at this address; its page frame is denied, unless it is that of other code"
        yield from text.fill("  ", told, 2)
    else:
        yield "  nothing in the plan explains it as kernel code"
    if page.va is not None:
        yield from text.row("virtual", f"{page.va:#x} {page.symbol}")
    if page.kept:
        yield from text.row("range", f"pfn:{page.kept.start:#x}, {len(page.kept.pages)} pages")
    if page.differs:
        yield text.paint(f"  a plan of today would have it {'kept' if page.today else 'denied'}", "yellow")


def audit(text: Text, answer: Audit) -> Iterator[str]:
    """How a guest differs from its seal: the ranges, the verdict and what to do, then what is claimed."""
    for title, colour, codes in (
        ("unexplained", "red", answer.unexplained),
        ("new, will fault", "red", answer.new),
        ("no code now", "yellow", answer.stale),
    ):
        for code in codes:
            yield from text.fill(f"{text.paint(f'{title:>16}', colour)}  ", _code(code), 18)
    for changed in answer.changed:
        yield from text.fill(f"{text.paint('    text changed', 'red')}  ", _changed(changed), 18)
    told, colour = ("DRIFT", "red") if answer.unknown else _VERDICTS[answer.verdict]
    yield text.paint(told, colour) + _simulated(answer.simulated)
    yield from text.reasons(answer.reasons)
    yield from _claims(text, answer.claims)
    if answer.locked:
        yield from text.row("content", answer.locked.content_digest)


_VERDICTS = {
    Verdict.PASS: ("as sealed", "green"),
    Verdict.FAIL: ("FAILED", "red"),
    Verdict.NOT_APPLICABLE: ("nothing to audit", "yellow"),
    Verdict.ERROR: ("not compared", "red"),
}
_RESULTS = {Result.PASS: "green", Result.WARN: "yellow", Result.FAIL: "red", Result.UNKNOWN: "yellow"}


def _claims(text: Text, claims: tuple[Claim, ...]) -> Iterator[str]:
    """What does not apply is for programs."""
    shown = [claim for claim in claims if claim.result in _RESULTS]
    if shown:
        yield text.paint("Claims", "bold")
    for claim in shown:
        label = text.paint(f"{claim.result:>8}", _RESULTS[claim.result])
        yield from text.fill(f"{label}  {claim.id:<18} ", f"{claim.text} ({claim.evidence})", 29)
        yield from text.hint(claim.action, 29)


def _changed(changed: Changed) -> str:
    kind = f" (no legal form of a {changed.site})" if changed.site else ""
    return f"{changed.va:#x} {changed.owner} {changed.symbol}: {changed.wanted} is {changed.found}{kind}"


def _code(code: Code) -> str:
    owner = " ".join(word for word in (code.kind or "", code.owner, code.section) if word)
    rights = " writable" if code.writable else ""
    verdict = "" if code.denied or code.kind else " NOT DENIED"
    what = owner or f"near {code.symbol}"
    return f"pfn:{code.pfn_start:#x} {code.pages} pages at {code.va:#x} {what}{rights}{verdict}"
