# SPDX-License-Identifier: GPL-2.0-or-later
"""What the packages' descriptions repeat: the one version, the units."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mbecguard import __version__

PROJECT = Path(__file__).parents[2]
SPEC = "packaging/rpm/mbecguard.spec"


@pytest.mark.parametrize(
    ("file", "pattern"),
    [("packaging/debian/changelog", r"mbecguard \((\S+)\)"), (SPEC, r"^Version: (\S+)"), ("CHANGES.md", r"^## (\S+)")],
)
def test_newest_version(file: str, pattern: str) -> None:
    found = re.search(pattern, (PROJECT / file).read_text(), re.MULTILINE)
    assert found
    assert found[1] == __version__


def test_the_spec_names_all_units() -> None:
    lists = re.findall(r"^%global (?:once|again) (.*)", (PROJECT / SPEC).read_text(), re.MULTILINE)
    named = [unit for units in lists for unit in units.split()]
    units = [path.name for path in (PROJECT / "systemd").iterdir() if path.suffix in (".service", ".timer")]
    assert sorted(named) == sorted(units)
