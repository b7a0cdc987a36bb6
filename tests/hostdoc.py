# SPDX-License-Identifier: GPL-2.0-or-later
"""What docs/HOST.md tells to start, and what `mbecguard-host check` says of a machine that was started so."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from mbecguard.readiness.check import check
from mbecguard.readiness.source import Source
from tests.hostmaker import Host

TEXT = (Path(__file__).parents[1] / "docs/HOST.md").read_text()
DOMAINS = re.findall(r"^```xml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def commands(program: str) -> list[str]:
    """The commands of a program in the page, continued lines joined."""
    joined = TEXT.replace("\\\n", " ")
    return [line.strip() for line in re.findall(rf"^    ({re.escape(program)} .*)$", joined, re.MULTILINE)]


def told_of(words: Sequence[str], folder: Path, host: Host | None = None) -> list[str]:
    """The findings on a machine that runs so, on a host that is ready; the host's own must be none."""
    answer = check(Source((host or Host()).running(shlex.join(words)).write(folder)))
    assert [one.id for one in answer.findings] == []
    (machine,) = answer.machines
    return sorted(one.id for one in machine.findings)
