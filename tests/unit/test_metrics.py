# SPDX-License-Identifier: GPL-2.0-or-later
"""Metrics: what a scrape finds, read back by the library's own parser; and the file that a node_exporter reads."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mbecguard.audit.kept import Audits
from mbecguard.audit.report import Measured, measured
from mbecguard.audit.value import Audit, Code, Result, Verdict
from mbecguard.face import cli
from mbecguard.host.base import HostMode, HostText, TextMode
from mbecguard.plan.policy import CodeKind, Level
from mbecguard.records.reasons import reason
from mbecguard.records.record import State
from mbecguard.records.status import Named, Status, detailed
from mbecguard.records.store import Store
from mbecguard.values.errors import Exit
from tests.guestmaker import SCATTERED
from tests.plans import PLAN, TEXT_VA, keep, make_audit, make_record, make_status

parser = pytest.importorskip("prometheus_client.parser", reason="run tools/setup.sh")

pytestmark = pytest.mark.usefixtures("fast_disk")

SEALED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()  #: of the record of tests/plans.py
CODE = Code(0x32, 0x34, 0x32000, TEXT_VA, 2, CodeKind.BPF, "bpf", ".x", "a+0x1", writable=False, denied=True)


def read(text: str) -> dict[str, dict[str, float]]:
    """Samples by name, then by the value of the label; each family once, each of the type that its name promises."""
    found: dict[str, dict[str, float]] = {}
    for family in parser.text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            counts = sample.name.endswith("_total")
            assert family.type == ("counter" if counts else "gauge"), sample.name
            assert sample.name.startswith("mbecguard_")
            label = " ".join(sample.labels.values())
            assert label not in found.setdefault(sample.name, {})
            found[sample.name][label] = sample.value
    return found


def scrape(status: Status, audit: Audit | None = None) -> dict[str, dict[str, float]]:
    from mbecguard.reports.metrics import metrics

    kinds = audit.locked.kinds if audit and audit.locked else ()
    return read(metrics(Measured(status, audit.subject if audit else None, kinds, audit)))


def only(values: dict[str, float]) -> str:
    """The one label that is 1, where all others are 0."""
    (name,) = (name for name, value in values.items() if value)
    assert values[name] == 1
    return name


def test_a_sealed_guest_with_a_clean_audit() -> None:
    entry = Named("ab" * 32, make_record().time, State.SEALED, PLAN.digest, PLAN.totals, ())
    found = scrape(make_status(record=entry, denied=3, refused=0), make_audit(time="2026-01-02T04:00:00+00:00"))
    assert only(found["mbecguard_state"]) == "sealed"
    assert found["mbecguard_state"].keys() == {state.value for state in State}
    assert only(found["mbecguard_host_mode"]) == "enforce"
    assert only(found["mbecguard_audit_verdict"]) == "pass"
    assert found["mbecguard_seal_timestamp_seconds"] == {"": SEALED}
    assert found["mbecguard_audit_timestamp_seconds"] == {"": SEALED + 55 * 60 + 55}
    assert found["mbecguard_denied_fetches_total"] == {"": 3}
    assert found["mbecguard_refused_changes_total"] == {"": 0}
    assert found["mbecguard_unknown_ranges"] == {"": 0}
    pages: dict[str, float] = {}
    for kept in PLAN.keep:
        pages[kept.kind] = pages.get(kept.kind, 0) + kept.end - kept.start
    assert found["mbecguard_kept_pages"] == pages
    assert found["mbecguard_audit_claims"]["pass"] == sum(one.result is Result.PASS for one in make_audit().claims)
    assert found["mbecguard_simulated"] == {"": 1}
    assert "mbecguard_state_reason" not in found
    assert only(found["mbecguard_level"]) == "exec"
    assert "mbecguard_bad_stores_total" not in found


def test_text_that_the_host_holds() -> None:
    entry = Named("ab" * 32, make_record().time, State.SEALED, PLAN.digest, PLAN.totals, (), Level.TEXT)
    text = HostText(TextMode.ENFORCE, TextMode.ENFORCE, 4097, "", 9, 2, 0x1000)
    found = scrape(make_status(record=entry, text=text), make_audit())
    assert only(found["mbecguard_level"]) == "text"
    assert found["mbecguard_text_pages"] == {"": 4097}
    assert found["mbecguard_text_patches_total"] == {"": 9}
    assert found["mbecguard_bad_stores_total"] == {"": 2}


def test_a_degraded_guest_says_why_and_an_audit_what_it_found() -> None:
    status = make_status(State.DEGRADED, reasons=(reason("seal-lost"), reason("unpinned")), mode=HostMode.OFF)
    found = scrape(status, make_audit(verdict=Verdict.FAIL, new=(CODE,), unexplained=(CODE, CODE)))
    assert only(found["mbecguard_state"]) == "degraded"
    assert only(found["mbecguard_host_mode"]) == "off"
    assert found["mbecguard_state_reason"] == {"seal-lost": 1, "unpinned": 1}
    assert only(found["mbecguard_audit_verdict"]) == "fail"
    assert found["mbecguard_unknown_ranges"] == {"": 3}


def test_what_nobody_can_tell_is_no_number() -> None:
    """A 0 would be a lie: no audit is not an audit without findings."""
    found = scrape(make_status(State.OPEN))
    assert only(found["mbecguard_state"]) == "open"
    absent = {"denied_fetches_total", "refused_changes_total", "unknown_ranges", "seal_timestamp_seconds"}
    absent |= {"audit_timestamp_seconds", "audit_verdict", "kept_pages", "info"}
    assert not {f"mbecguard_{name}" for name in absent} & found.keys()
    assert "mbecguard_unknown_ranges" not in scrape(make_status(), make_audit(verdict=Verdict.ERROR))


def test_names_of_others_stay_in_their_label() -> None:
    nasty = 'x"\n# HELP mbecguard_state x\nmbecguard_state{state="sealed"} 1\\\x1b\udc80'
    audit = make_audit()
    found = scrape(make_status(State.OPEN), replace(audit, subject=audit.subject._replace(release=nasty)))
    assert only(found["mbecguard_state"]) == "open"
    assert len(found["mbecguard_info"]) == 1


def test_it_is_made_of_the_seal_of_this_boot_and_of_its_newest_audit(tmp_path: Path) -> None:
    store = Store(tmp_path)
    status = detailed(make_status(record=Named.of(keep(store, make_record()))), store, "boot")
    lock = measured(status, store, "boot")
    assert (lock.audit, lock.identity) == (None, make_record().identity)
    assert sum(share.pages for share in lock.kinds) == PLAN.totals.keep_pages
    Audits(store).add(make_audit())
    newer = Audits(store).add(make_audit(time="2026-02-02T00:00:00+00:00"))
    assert measured(status, store, "boot").audit == newer.record
    assert measured(status, store, "another boot").audit is None
    next((tmp_path / "audits/records").glob("*2.json")).write_text("{")
    assert measured(status, store, "boot").audit is None


def test_the_command_writes_a_file_for_everybody_whatever_the_umask(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--guest", str(SCATTERED.write(tmp_path / "guest")), "--state-dir", str(tmp_path / "state")]
    file = tmp_path / "out/mbecguard.prom"
    file.parent.mkdir()
    assert [cli.main([word, *where]) for word in ("lock", "audit")] == [Exit.OK] * 2
    capsys.readouterr()
    before = os.umask(0o077)
    try:
        assert cli.main(["metrics", *where, "-o", str(file)]) == Exit.OK
        file.chmod(0o600)
        assert cli.main(["metrics", *where, "-o", str(file)]) == Exit.OK
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in file.parent.iterdir()] == ["mbecguard.prom"]
    assert only(read(file.read_text())["mbecguard_state"]) == "sealed"
    assert capsys.readouterr().out == ""
    assert cli.main(["metrics", *where]) == Exit.OK
    assert only(read(capsys.readouterr().out)["mbecguard_audit_verdict"]) == "pass"


def test_without_the_library_it_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "mbecguard.reports.metrics", raising=False)
    (tmp_path / "state").mkdir()
    where = ["--guest", str(SCATTERED.write(tmp_path / "guest")), "--state-dir", str(tmp_path / "state")]
    assert cli.main(["metrics", *where]) == Exit.ERROR
    assert "mbecguard-report" in capsys.readouterr().err


ROOT = Path(__file__).parents[2]
FLEET = (ROOT / "docs/FLEET.md").read_text()


def test_the_document_lists_each_metric() -> None:
    source = (ROOT / "src/mbecguard/reports/metrics.py").read_text()
    counters = set(re.findall(r'_counter\("(\w+)"', source))
    written = {f"{name}_total" if name in counters else name for name in re.findall(r'"(mbecguard_\w+)"', source)}
    table = FLEET.partition("| metric | |")[2].partition("\n\n")[0]
    assert set(re.findall(r"mbecguard_\w+", table)) == written


def test_the_document_lists_each_alert() -> None:
    rules = (ROOT / "packaging/prometheus/mbecguard.rules.yml").read_text()
    table = FLEET.partition("| alert | fires |")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"`(Mbecguard\w+)`", table)) == sorted(re.findall(r"alert: (\w+)", rules))
