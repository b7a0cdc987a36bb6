# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's own changes of kvm-host follow its sources: no boot of `make test` would notice."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbecguard.values.errors import UserError
from tests.lab import kvmsource
from tests.lab.parts import HERE

PATCHES = sorted(HERE.glob("*.patch"))


@pytest.mark.parametrize("patch", PATCHES, ids=lambda path: str(path.name))
def test_each_applies_without_fuzz(tmp_path: Path, patch: Path) -> None:
    kvmsource.patched(patch, tmp_path / "kvm-host")
    for name in (line.split()[1] for line in patch.read_text().splitlines() if line.startswith("+++ ")):
        before = kvmsource.KVM_HOST / name
        assert not before.exists() or (tmp_path / "kvm-host" / name).read_bytes() != before.read_bytes()


@pytest.mark.parametrize("patch", PATCHES, ids=lambda path: str(path.name))
def test_one_that_has_gone_stale_is_refused(tmp_path: Path, patch: Path) -> None:
    stale = tmp_path / "stale.patch"
    stale.write_text(patch.read_text().replace("\n ", "\n x", 1))
    with pytest.raises(UserError, match="failed"):
        kvmsource.patched(stale, tmp_path / "kvm-host")


def test_its_content_changes_with_a_patch(tmp_path: Path) -> None:
    assert PATCHES
    assert kvmsource.content(PATCHES[0]) != kvmsource.content()
