# SPDX-License-Identifier: GPL-2.0-or-later
"""The page about a guest's lock: well-formed, self-contained, and no name in it is anything but text."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape

from mbecguard.audit.kept import Audits
from mbecguard.audit.locked import locked
from mbecguard.audit.report import Audited, Dossier, Report, dossier
from mbecguard.audit.value import Audit, Code, Result, Verdict
from mbecguard.face import cli
from mbecguard.plan.planner import Plan
from mbecguard.plan.policy import CodeKind
from mbecguard.records.store import Store
from mbecguard.reports.page import RANGES, page
from mbecguard.reports.picture import CELLS, COLUMNS, picture, size
from mbecguard.values.errors import Exit, UserError
from mbecguard.values.pages import LARGE_PAGES
from tests.guestmaker import SCATTERED
from tests.plans import PLAN, TEXT_VA, keep, keep_range, make_audit, make_plan, make_record

html5lib = pytest.importorskip("html5lib", reason="run tools/setup.sh")

CODE = Code(0x32, 0x34, 0x32000, TEXT_VA, 2, CodeKind.BPF, "bpf", ".x", "a+0x1", writable=False, denied=True)
NASTY = "<script>alert(1)</script>\"'&\x1b[31m\n\x00\u202e\udc80\ufffd{{ 7 * 7 }}`x`"
REPORT = Report(this_boot=True, digest="ab" * 32, record=make_record(), plan=PLAN)
HISTORY = (Audited("2026-01-02T03:04:05+00:00", Verdict.PASS, "cd" * 32, "boot", 0),)


def whole(audit: Audit | None = None, plan: Plan | None = PLAN) -> Dossier:
    return Dossier(replace(REPORT, plan=plan), audit, HISTORY)


def valid(text: str) -> str:
    """The same text, if it is HTML without a parse error, and valid UTF-8."""
    html5lib.HTMLParser(strict=True).parse(text)
    return text.encode().decode()


class Seen(HTMLParser):
    """Elements, ids, and what is referred to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.refers: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        named = {name: value or "" for name, value in attrs}
        self.ids += [named["id"]] if "id" in named else []
        self.refers |= {*named.get("aria-labelledby", "").split()}


@pytest.mark.parametrize(
    "found",
    [
        whole(make_audit()),
        whole(make_audit(verdict=Verdict.FAIL, new=(CODE,), unexplained=(CODE,) * 3, stale=(CODE,))),
        whole(make_audit(verdict=Verdict.ERROR, locked=None)),
        whole(),
        whole(plan=None),
        Dossier(None, make_audit(verdict=Verdict.NOT_APPLICABLE, locked=None, sealed=""), ()),
        replace(whole(make_audit()), report=replace(REPORT, this_boot=False)),
    ],
    ids=["clean", "drift", "error", "never audited", "no plan", "open", "another boot"],
)
def test_it_is_one_valid_page_that_needs_nothing_from_elsewhere(found: Dossier) -> None:
    text = valid(page(found))
    seen = Seen(text)
    assert len(seen.ids) == len(set(seen.ids))
    assert seen.refers <= set(seen.ids)
    assert not seen.tags & {"script", "link", "img", "iframe", "object", "form", "a"}
    assert not [name for name in seen.attributes if name.startswith("on") or name in ("src", "href", "style")]
    assert "url(" not in text
    assert "@import" not in text
    assert {"main", "header", "footer", "h1", "h2"} <= seen.tags


def test_names_are_nothing_but_text() -> None:
    code = replace(CODE, owner=NASTY, section=NASTY, symbol=NASTY)
    plan = replace(PLAN, keep=tuple(replace(kept, owner=NASTY, section=NASTY) for kept in PLAN.keep))
    record = make_record(host=NASTY, frozen=(NASTY,), pins=(NASTY,))
    audit = make_audit(new=(code,), unexplained=(code,), stale=(code,), verdict=Verdict.FAIL)
    assert audit.locked
    owners = tuple(replace(one, owner=NASTY, build_id=NASTY) for one in audit.locked.owners)
    reasons = tuple(replace(why, text=NASTY, hint=NASTY) for why in audit.reasons)
    claims = tuple(replace(one, evidence=NASTY, action=NASTY, result=Result.FAIL) for one in audit.claims)
    subject = replace(audit.subject, hostname=NASTY, machine_id=NASTY, vm_uuid=NASTY, release=NASTY, shim=NASTY)
    changes: dict[str, Any] = {
        "reasons": reasons,
        "claims": claims,
        "subject": subject,
        "locked": replace(audit.locked, owners=owners),
    }
    found = Dossier(Report(True, NASTY, record, plan), replace(audit, **changes), (replace(HISTORY[0], boot_id=NASTY),))
    text = valid(page(found))
    assert not Seen(text).tags & {"script"}
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<script" not in text
    assert "{{ 7 * 7 }}" in text
    assert not re.search(r"[^\n\x20-\x7e…✓✗–\ufffd]", text)
    assert r"\x1b[31m\n\x00\u202e\udc80" in text


def test_the_verdict_comes_first_and_each_claim_is_there_the_worst_first() -> None:
    audit = make_audit()
    claims = tuple(replace(one, result=Result.FAIL) if one.id == "cr-pinned" else one for one in audit.claims)
    text = page(whole(replace(audit, verdict=Verdict.FAIL, claims=claims)))
    assert text.index("FAILED: 1 of") < text.index("Scope") < text.index("Claims") < text.index("Exceptions")
    ids = re.findall(r'<span class="id">([\w-]+)</span>', text)
    assert sorted(ids) == sorted(claim.id for claim in claims)
    assert ids[0] == "cr-pinned"
    assert all(str(escape(one)) in text for one in audit.uncovered)


def test_long_drift_is_cut_and_says_so() -> None:
    text = page(whole(make_audit(unexplained=(CODE,) * (RANGES + 7))))
    assert text.count("pfn:0x32") == RANGES
    assert "And 7 more" in text


def large(modules: int) -> Plan:
    """A guest whose modules have pages all over its memory."""
    spans = [(0x1000 + 200 * number, 0x1000 + 200 * number + 9) for number in range(modules * 8)]
    plan = make_plan(spans, max_pfn=1 << 34)
    keep = tuple(replace(kept, owner=f"module_{number // 8}") for number, kept in enumerate(plan.keep))
    return replace(plan, keep=keep)


def test_a_guest_with_300_modules_has_a_page_below_2_mb() -> None:
    plan = large(300)
    text = page(whole(make_audit(locked=locked(plan, {})), plan))
    assert 100_000 < len(text.encode()) < 2_000_000
    assert len({*re.findall(r"module_\d+", text)}) == 300


def test_the_picture_has_every_kept_page_once() -> None:
    plan = make_plan([(3, 5), (600, 1024), (1024, 1536), (200_000, 200_001)], max_pfn=1 << 20)
    drawn = picture(plan)
    assert [(cell.pages, cell.whole) for cell in drawn.cells] == [(2, False), (424, False), (512, True), (1, False)]
    assert sum(cell.pages for cell in drawn.cells) == plan.totals.keep_pages
    assert [row.gap for row in drawn.rows] == [False, True, False]
    assert drawn.rows[1].label == "640 MiB denied"
    assert drawn.mixed == 3
    assert len({(cell.x, cell.y) for cell in drawn.cells}) == len(drawn.cells)


def test_the_regions_of_a_huge_guest_are_larger() -> None:
    last = replace(keep_range(1, 2), start=(1 << 28) - 1, end=1 << 28)
    drawn = picture(replace(PLAN, keep=(keep_range(0, 1), last)))
    assert drawn.region == size((1 << 28) // CELLS)
    assert (1 << 28) // CELLS > LARGE_PAGES
    assert drawn.cells[1].address == f"{((1 << 28) - (1 << 28) // CELLS) << 12:#x}"
    assert COLUMNS * len([row for row in drawn.rows if not row.gap]) <= CELLS


@pytest.mark.parametrize(
    ("pages", "told"),
    [(1, "4 KiB"), (510, "2.0 MiB"), (384, "1.5 MiB"), (512, "2 MiB"), (1 << 18, "1 GiB"), (1 << 34, "64 TiB")],
)
def test_sizes(pages: int, told: str) -> None:
    assert size(pages) == told


def test_it_is_made_of_what_is_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(UserError, match="nothing to report"):
        dossier(store, "boot")
    assert dossier(store, "boot", make_audit()).report is None
    keep(store, make_record())
    assert dossier(store, "boot").audit is None
    entry = Audits(store).add(make_audit())
    found = dossier(store, "boot")
    assert (found.audit, [one.digest for one in found.history]) == (entry.record, [entry.digest])


@pytest.mark.parametrize("command", ["audit", "report"])
def test_both_commands_show_it(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    where = ["--guest", str(SCATTERED.write(tmp_path / "guest")), "--state-dir", str(tmp_path / "state")]
    assert cli.main(["lock", *where]) == Exit.OK
    capsys.readouterr()
    assert cli.main([command, "--format", "html", *where]) == Exit.OK
    assert "virtio_net" in valid(capsys.readouterr().out)
    assert cli.main([command, "--format", "html", "-o", str(tmp_path / "page.html"), *where]) == Exit.OK
    assert valid((tmp_path / "page.html").read_text()).startswith("<!DOCTYPE html>")
    assert capsys.readouterr().out == ""


WITHOUT = """
import sys
sys.modules["jinja2"] = sys.modules["prometheus_client"] = None
from mbecguard.face import cli
status = cli.main(sys.argv[1:])
assert not {"mbecguard.reports.page", "mbecguard.reports.metrics"} & sys.modules.keys()
sys.exit(status)
"""


def test_the_agent_needs_neither_library_and_says_what_a_page_needs(tmp_path: Path) -> None:
    where = ["--guest", str(SCATTERED.write(tmp_path / "guest")), "--state-dir", str(tmp_path / "state")]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        told = [sys.executable, "-c", WITHOUT, *words, *where]
        return subprocess.run(told, capture_output=True, text=True, check=False, timeout=120)

    assert [run(word).returncode for word in ("lock", "audit", "report")] == [Exit.OK] * 3
    before = sorted((tmp_path / "state/simulated/audits/records").iterdir())
    done = run("audit", "--format", "html")
    assert (done.returncode, done.stdout) == (Exit.ERROR, "")
    assert "mbecguard-report" in done.stderr
    assert sorted((tmp_path / "state/simulated/audits/records").iterdir()) == before  # it is said at once
