# SPDX-License-Identifier: GPL-2.0-or-later
"""A stock Debian guest booted now, under QEMU TCG: the product as it stands records it from inside.

The host reads the page tables out of the paused guest's RAM; `boot` fails if the two walks differ by one page.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mbecguard.guest.captured import captured_guest
from mbecguard.guest.survey import survey
from mbecguard.plan.planner import build_plan
from mbecguard.plan.policy import Policy
from mbecguard.values.pages import PageRange, PageSet
from tests.corpus.archive import kernel
from tests.corpus.boot import boot
from tests.corpus.guests import find

GUEST = "trixie-6.12-uefi"  #: the most varied one: EFI page tables, five levels


@pytest.mark.lab
def test_the_product_records_a_running_guest(tmp_path: Path) -> None:
    guest = find(GUEST)
    assert guest
    folder = boot(guest, product=True)
    image = kernel(guest.suite).image
    facts, symbols = survey(captured_guest(folder / "product").with_images(image), tmp_path)
    plan = build_plan(facts, Policy(), symbols.nearest)
    assert not plan.blockers
    witness = json.loads((folder / "oracle.json").read_text())["tables"]
    leaves = [leaf for table in witness.values() for leaf in table if not leaf["user"]]
    seen = PageSet(PageRange.covering(leaf["pa"], leaf["bytes"]) for leaf in leaves)
    assert PageSet(k.pages for k in plan.keep) == seen
    assert seen.pages > 4096, "kernel text at least"
