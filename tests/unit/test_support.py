# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/SUPPORT.md promises what `make test` boots, no more and no less."""

from __future__ import annotations

import re
from pathlib import Path

from tests.lab.layers import GUEST_SUITES
from tests.test_lab import STACKS

TEXT = (Path(__file__).parents[2] / "docs/SUPPORT.md").read_text()
ROWS = {row[0]: row for row in re.findall(r"^\| (\d+\.\d+) \| (\w+) \| (.*?) \|", TEXT, re.MULTILINE)}


def test_every_kernel_is_listed_with_its_suite() -> None:
    assert {series: suite for series, (_, suite, _) in ROWS.items()} == GUEST_SUITES


def test_each_stack_is_listed_with_its_kernel() -> None:
    listed = {name: series for series, (_, _, names) in ROWS.items() for name in re.findall(r"`([\w.-]+)`", names)}
    words = {str(stack.id): str(stack.values[0]).split() for stack in STACKS}
    assert listed == {name: row[row.index("--kernel") + 1] for name, row in words.items()}
