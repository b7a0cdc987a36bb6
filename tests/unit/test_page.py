# SPDX-License-Identifier: GPL-2.0-or-later
"""The page about a guest's lock: well-formed, self-contained, and no name in it is anything but text."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markupsafe import escape

from mbecguard.audit.kept import Audits
from mbecguard.audit.report import dossier
from mbecguard.audit.value import Result, Verdict
from mbecguard.face import cli
from mbecguard.records.store import Store
from mbecguard.reports.page import RANGES, page
from mbecguard.reports.picture import CELLS, COLUMNS, picture, size
from mbecguard.values.errors import Exit, UserError
from mbecguard.values.pages import LARGE_PAGES
from tests.dossiers import CHANGED, CODE, DOSSIERS, whole
from tests.guestmaker import SCATTERED
from tests.plans import PLAN, keep, keep_range, make_audit, make_plan, make_record

html5lib = pytest.importorskip("html5lib", reason="run tools/setup.sh")


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


@pytest.mark.parametrize("name", DOSSIERS)
def test_it_is_one_valid_page_that_needs_nothing_from_elsewhere(name: str) -> None:
    text = valid(page(DOSSIERS[name]))
    seen = Seen(text)
    assert len(seen.ids) == len(set(seen.ids))
    assert seen.refers <= set(seen.ids)
    assert not seen.tags & {"script", "link", "img", "iframe", "object", "form", "a"}
    assert not [name for name in seen.attributes if name.startswith("on") or name in ("src", "href", "style")]
    assert "url(" not in text
    assert "@import" not in text
    assert {"main", "header", "footer", "h1", "h2"} <= seen.tags


def test_names_are_nothing_but_text() -> None:
    text = valid(page(DOSSIERS["nasty"]))
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


def test_changed_text_is_an_exception_by_itself() -> None:
    text = page(whole(make_audit(changed=(replace(CHANGED, site="static call"),))))
    assert "None: every executable page" not in text
    assert f'<th scope="row" class="mono">{CHANGED.va:#x}</th><td>kernel</td>' in text
    assert f"{CHANGED.found}<br>no legal form of a static call" in text
    assert "None: every executable page" in page(whole(make_audit()))


def test_long_drift_is_cut_and_says_so() -> None:
    text = page(whole(make_audit(unexplained=(CODE,) * (RANGES + 7))))
    assert text.count("pfn:0x32") == RANGES
    assert "And 7 more" in text


def test_a_guest_with_300_modules_has_a_page_below_2_mb() -> None:
    text = page(DOSSIERS["scattered"])
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
    last = keep_range(1, 2)._replace(start=(1 << 28) - 1, end=1 << 28)
    drawn = picture(PLAN._replace(keep=(keep_range(0, 1), last)))
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
