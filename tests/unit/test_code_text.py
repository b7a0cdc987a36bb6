# SPDX-License-Identifier: GPL-2.0-or-later
"""What is shown of pages: the facts that matter, and a notation that `explain` takes back."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest

from mbecguard.audit.value import Audit, Code, Verdict
from mbecguard.face import code_text
from mbecguard.face.text import Text
from mbecguard.guest.procfs import Kallsyms
from mbecguard.plan.explain import Explanation, Page, places
from mbecguard.plan.policy import CodeKind
from mbecguard.records.reasons import reason
from tests.plans import TEXT_VA, make_audit, make_plan, make_record

PLAIN, COLOUR = Text(), Text(colour=True)
PLAN = make_plan()
SYMBOLS = Kallsyms(b"ffffffff81000000 T _text\nffffffff81000800 T schedule\n")
KEPT = Page(9, TEXT_VA + 0x9000, "schedule+0x10", PLAN.kept(9), "because", today=True)
DENIED = Page(60, None, "", None, "", today=True)
NOWHERE = Page(None, 0xFFFFC90000123000, "no symbol", None, "")
NEW = Code(0x32, 0x34, 0x32000, TEXT_VA + 0x32000, 2, CodeKind.BPF, "bpf", ".x", "a+0x1", writable=False, denied=True)
STRANGE = Code(0x1E, 0x1F, 0x1E000, 0xFFFFC90000123000, 1, None, "", "", "b+0x2", writable=True, denied=True)
ALIAS = Code(9, 10, 0x9000, 0xFFFFC90000124000, 1, None, "", "", "c+0x3", writable=False, denied=False)


def answer(*found: tuple[Code, ...]) -> Audit:
    new, unexplained, stale = found or ((), (), ())
    why = (reason("audit-unexplained", ranges=2, denied=1) if found else reason("audit-clean"),)
    drift = {"ok": not found, "new": new, "unexplained": unexplained, "stale": stale, "simulated": not found}
    return make_audit(reasons=why, verdict=Verdict.FAIL if found else Verdict.PASS, **drift)


def lines(text: Text) -> list[list[str]]:
    explanations = [
        Explanation("pfn:0x9", (KEPT,), "2026-01-02", simulated=True),
        Explanation("x", (DENIED,), "2026-01-02"),
        Explanation("y", (NOWHERE,), None),
        Explanation("x", (KEPT, NOWHERE), None),
    ]
    audits = [answer((NEW,), (STRANGE, ALIAS), (ALIAS,)), answer()]
    made: Iterable[Iterable[str]] = (
        *(code_text.explanation(text, one) for one in explanations),
        *(code_text.audit(text, one) for one in audits),
    )
    return [list(one) for one in made]


def test_a_kept_page_shows_the_reason_and_the_address_of_that_very_page() -> None:
    text = "\n".join(lines(PLAIN)[0])
    assert text.startswith("by the seal of 2026-01-02 (simulated)\n")
    assert "pfn:0x9 (physical 0x9000): kernel-execute KEPT, user-execute stays" in text
    assert "kernel-text: because" in text
    assert "owner8 .text" in text
    assert f"{TEXT_VA + 9 * 4096:#x} schedule+0x10" in text
    assert "pfn:0x8, 4 pages" in text
    assert "a plan of today" not in text  # it says the same


def test_several_functions_of_one_name_are_listed() -> None:
    head, *rows = lines(PLAIN)[3]
    assert head == "by the plan of today; nothing is sealed"
    assert rows[0].startswith("2 functions are called x; ")
    assert [row.split() for row in rows[1:]] == [
        [f"{TEXT_VA + 0x9000:#x}", "pfn:0x9", "KEPT", "schedule+0x10"],
        ["0xffffc90000123000", "DENIED", "no", "symbol"],
    ]


def test_denied_pages() -> None:
    text = "\n".join(lines(PLAIN)[1])
    assert "pfn:0x3c (physical 0x3c000): kernel-execute DENIED, user-execute stays" in text
    assert "a plan of today would have it kept" in text
    assert "0xffffc90000123000: kernel-execute DENIED" in "\n".join(lines(PLAIN)[2])


def test_an_audit_ends_with_a_verdict_and_the_next_step() -> None:
    found = lines(PLAIN)[4]
    assert found[0] == "     unexplained  pfn:0x1e 1 pages at 0xffffc90000123000 near b+0x2 writable"
    assert found[1].endswith("near c+0x3 NOT DENIED")
    assert found[2] == f" new, will fault  pfn:0x32 2 pages at {TEXT_VA + 0x32000:#x} bpf bpf .x"
    assert found[3].startswith("     no code now  pfn:0x9")
    assert found[4] == "DRIFT"
    assert found[6].startswith("    hint: take it for an intrusion")
    assert lines(PLAIN)[5][:2] == ["as sealed (simulated)", "  - every executable page is one that the seal knows"]


def test_colours_change_nothing_but_colours() -> None:
    for plain, coloured in zip(lines(PLAIN), lines(COLOUR), strict=True):
        assert re.sub(r"\x1b\[\d+m", "", "\n".join(coloured)) == "\n".join(plain)


SHOWN = [*PLAIN.record(make_record(), PLAN), *(line for part in lines(PLAIN) for line in part)]


@pytest.mark.parametrize("word", sorted({w for s in SHOWN for w in re.findall(r"pfn:\w+|(?<![:+])\b0x\w+", s)}))
def test_what_is_shown_can_be_pasted(word: str) -> None:
    (place,) = places(word, SYMBOLS)
    number = int(word.removeprefix("pfn:"), 16)
    assert (place.pfn if word.startswith("pfn:") else (place.va or (place.pfn or 0) << 12)) == number


@pytest.mark.parametrize("number", range(len(lines(PLAIN))))
def test_pages_fit_a_terminal_of_80_columns(number: int) -> None:
    filled = lines(Text(width=80))[number]
    assert max(map(len, filled)) <= 80
    assert " ".join(filled).split() == " ".join(lines(PLAIN)[number]).split()
