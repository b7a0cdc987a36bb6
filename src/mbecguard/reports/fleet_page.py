# SPDX-License-Identifier: GPL-2.0-or-later
"""One self-contained page about a fleet, which looks as the page about a guest does."""

from __future__ import annotations

from mbecguard import __version__
from mbecguard.fleet.value import Fleet, Standing
from mbecguard.reports.page import environment, style
from mbecguard.values.findings import Severity

SHOWN = 200  #: findings in the list; each guest has its own beside it
LOOKS = {
    Standing.DEGRADED: "bad",
    Standing.FAIL: "bad",
    Standing.OPEN: "bad",
    Standing.NEVER: "fair",
    Standing.STALE: "fair",
    Standing.PASS: "good",
}
SEVERITIES = {Severity.BLOCKER: "bad", Severity.WARNING: "fair", Severity.INFO: "none"}


def page(fleet: Fleet) -> str:
    """The page, of valid UTF-8."""
    text: str = (
        environment()
        .get_template("fleet.html.j2")
        .render(
            fleet=fleet,
            headline=_headline(fleet),
            looks=LOOKS,
            severities=SEVERITIES,
            shown=SHOWN,
            style=style(),
            version=__version__,
        )
    )
    return text


def _headline(fleet: Fleet) -> tuple[str, str]:
    failing = len(fleet.guests) - fleet.totals[Standing.PASS]
    if fleet.ok:
        return "Passed: every guest is as it was sealed", "good"
    if failing:
        return f"NOT PASSED: {failing} of {len(fleet.guests)} guests", "bad"
    return "NOT PASSED: not every file could be used", "bad"
