# SPDX-License-Identifier: GPL-2.0-or-later
"""The dashboard for Grafana: the file is the one that its description makes, and it asks for metrics that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.hostmaker import GUARDING

dashboard = pytest.importorskip("tools.dashboard", reason="run tools/setup.sh")

GUESTS = Path(__file__).parents[2] / "src/mbecguard/reports/metrics.py"


def test_the_file_is_the_one_that_is_described() -> None:
    assert dashboard.FILE.read_text() == dashboard.text(), "run `make dashboard`"


def test_it_asks_for_metrics_that_are_written(tmp_path: Path) -> None:
    written = set(re.findall(r'"(mbecguard_\w+)"', GUESTS.read_text()))
    of_host = GUARDING.metrics(tmp_path)
    written |= {name.removesuffix("_total") for name in re.findall(r"^mbecguard_\w+", of_host, re.MULTILINE)}
    asked = {
        name.removesuffix("_total") for _, query in dashboard.queries() for name in re.findall(r"mbecguard_\w+", query)
    }
    assert asked
    assert asked <= written


def test_panels_have_titles_texts_and_places_of_their_own() -> None:
    panels = json.loads(dashboard.FILE.read_text())["panels"]
    shown = [panel for panel in panels if panel["type"] != "row"]
    assert len({panel["title"] for panel in shown}) == len(shown) == len(list(dashboard.queries()))
    assert all(panel["description"] and panel["targets"] for panel in shown)
    places = [(at["y"], at["x"]) for at in (panel["gridPos"] for panel in panels)]
    assert len(set(places)) == len(places)
    assert all(at["x"] + at["w"] <= 24 for at in (panel["gridPos"] for panel in panels))
