# SPDX-License-Identifier: GPL-2.0-or-later
"""The alert rules, by Prometheus' own tool: they are valid, each fires where it has to, and none where it has not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mbecguard.face import cli
from mbecguard.values.errors import Exit
from tests.corpus.archive import unpacked
from tests.corpus.cache import run
from tests.guestmaker import SCATTERED
from tests.hostmaker import GUARDING
from tests.packages import PROJECT

pytestmark = pytest.mark.lab

RULES = PROJECT / "packaging/prometheus/mbecguard.rules.yml"
CASES = PROJECT / "tests/prometheus/rules.test.yml"


@pytest.fixture(scope="module")
def promtool() -> Path:
    return unpacked("trixie", "promtool") / "usr/bin/promtool"


def test_the_rules_are_valid(promtool: Path) -> None:
    assert "SUCCESS" in run([promtool, "check", "rules", "--lint=all", "--lint-fatal", RULES])


def test_each_alert_fires_where_it_has_to_and_nowhere_else(promtool: Path, tmp_path: Path) -> None:
    cases = tmp_path / "rules.test.yml"
    cases.write_text(CASES.read_text().replace("RULES", str(RULES)))
    assert "SUCCESS" in run([promtool, "test", "rules", cases])
    alerts = set(re.findall(r"- alert: (\w+)", RULES.read_text()))
    tried = set(re.findall(r"alertname: (\w+)\n +exp_alerts", CASES.read_text()))
    assert tried == alerts


def metrics(tmp_path: Path) -> str:
    """Of a guest that locked itself on the simulator, and was audited."""
    where = ["--guest", str(SCATTERED.write(tmp_path / "guest")), "--state-dir", str(tmp_path / "state")]
    file = tmp_path / "mbecguard.prom"
    for words in (["lock"], ["audit"], ["metrics", "-o", str(file)]):
        assert cli.main([*words, *where]) == Exit.OK
    return file.read_text()


def of_host(tmp_path: Path) -> str:
    return GUARDING.metrics(tmp_path / "host")


def test_prometheus_has_no_complaint_about_the_metrics(promtool: Path, tmp_path: Path) -> None:
    for text in (metrics(tmp_path), of_host(tmp_path)):
        assert run([promtool, "check", "metrics"], given=text) == ""


#: What these two have not: trouble, a host that counts, text that a host holds.
LATER = {"mbecguard_state_reason", "mbecguard_denied_fetches_total", "mbecguard_bad_stores_total"}


def test_the_rules_ask_for_metrics_that_there_are(tmp_path: Path) -> None:
    asked = set(re.findall(r"\bmbecguard_\w+", RULES.read_text()))
    there = set(re.findall(r"^mbecguard_\w+", metrics(tmp_path) + of_host(tmp_path), re.MULTILINE))
    assert asked - there == LATER - there
